/**
 * Much data through two agents: both ends have the same bytes, no process on the path grows with them, a reader that
 * stalls stops its writer, and small calls beside it do not wait for it. `npm run transfer` does the same with 2 GiB.
 */

import type { Client } from "leveros";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { LeverDev } from "../harness/lever-dev.ts";
import type { SourcePatch } from "../harness/source-patch.ts";
import {
  aboveIdleMax,
  describeMoved,
  latency,
  mebibyte,
  ready,
  stall,
  transfer,
  transferServices,
} from "../harness/transfer.ts";

const bytes = 256 * mebibyte;
const floodBytesMax = 256 * mebibyte;
/** What windows and queues of four hops may hold of a channel that nobody reads. */
const underWayBytesMax = 4 * mebibyte;

const limits = "protocol/session/limits.ts";
const endlessWindows: readonly SourcePatch[] = [
  { file: limits, find: "streamWindowBytes: streamWindowBytesMin,", replace: "streamWindowBytes: 0x7fffffff," },
  { file: limits, find: "sessionWindowBytes: 32 * 1024 * 1024", replace: "sessionWindowBytes: 0x7fffffff" },
];

describe("with every protection", () => {
  let dev: LeverDev;
  let client: Client;

  beforeAll(async () => {
    dev = await LeverDev.start(transferServices);
    client = dev.client();
    await ready(dev);
  });

  afterAll(async () => {
    await client?.close();
    await dev?.stop();
  });

  test("256 MiB up and down arrive as they were sent, and no process grows with them", async () => {
    const { up, down, upPeaks, peaks } = await transfer(dev, client, bytes);
    console.log(`up: ${describeMoved(up)}; MiB above idle: ${JSON.stringify(upPeaks)}`);
    console.log(`down: ${describeMoved(down)}; MiB above idle: ${JSON.stringify(peaks)}`);
    for (const { bytes: moved, sha256, receipt } of [up, down]) {
      expect({ bytes: moved, sha256 }).toEqual({ ...receipt, bytes });
    }
    expect(up.sha256).not.toBe(down.sha256);
    expect(Object.keys(peaks).sort()).toEqual(["mover agent", "mover app", "upload agent", "upload app"]);
    for (const [what, peak] of Object.entries(peaks)) expect(peak, what).toBeLessThanOrEqual(aboveIdleMax(what));
  });

  test("a reader that stalls stops its writer, and lets it go on", async () => {
    const found = await stall(dev, client, floodBytesMax);
    console.log(`a stalled reader: ${JSON.stringify(found)}`);
    expect(found.sentLaterBytes).toBe(found.sentBytes);
    expect(found.sentBytes).toBeLessThanOrEqual(underWayBytesMax);
    expect(found.sentAfterBytes).toBeGreaterThanOrEqual(64 * mebibyte);
    expect(found.sentAfterBytes).toBeLessThanOrEqual(64 * mebibyte + underWayBytesMax);
    for (const [what, peak] of Object.entries(found.peaks)) expect(peak, what).toBeLessThanOrEqual(64);
  });

  // Times of a machine that others use too: printed here, and compared with the control's below.
  test("small calls over the same links do not wait for it", async () => {
    const found = await latency(client, 3000);
    timesWithProtection = found.busyMs / found.idleMs;
    console.log(`small calls beside it: ${JSON.stringify(found)}, ${timesWithProtection.toFixed(1)} times`);
    expect(Math.min(found.up, found.down)).toBeGreaterThan(0);
  });
});

/** How much longer small calls take beside large transfers. */
let timesWithProtection = Number.POSITIVE_INFINITY;

describe("the controls: without windows", () => {
  let dev: LeverDev;
  let client: Client;

  beforeAll(async () => {
    dev = await LeverDev.start({ ...transferServices, patches: endlessWindows });
    client = dev.client();
    await ready(dev);
  });

  afterAll(async () => {
    await client?.close();
    await dev?.stop();
  });

  test("small calls wait", async () => {
    const found = await latency(client, 3000);
    console.log(
      `small calls, the control: ${JSON.stringify(found)}, ${(found.busyMs / found.idleMs).toFixed(1)} times`,
    );
    expect(found.busyMs / found.idleMs).toBeGreaterThan(2 * timesWithProtection);
  });

  test("a stalled reader stops nobody, and memory fills", async () => {
    const found = await stall(dev, client, floodBytesMax);
    console.log(`a stalled reader, the control: ${JSON.stringify(found)}`);
    expect(found.sentBytes).toBeGreaterThan(underWayBytesMax);
    expect(Math.max(...Object.values(found.peaks))).toBeGreaterThan(80);
  });
});
