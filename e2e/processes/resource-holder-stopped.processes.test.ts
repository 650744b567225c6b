/**
 * An app that is stopped for 30 s holds rooms, and a method of it is at work: it calls another service and sends on its
 * channel, whatever its signal says. The rooms serve elsewhere when the lease has ended, and nothing that the method
 * says after it woke is heard by anybody.
 */

import { setTimeout as sleep } from "node:timers/promises";
import { LeverError } from "leveros";
import { describe, expect, test } from "vitest";
import type { Room } from "../fixtures/rooms/room.ts";
import { type InstanceProcess, LeverDev, type LeverDevOptions } from "../harness/lever-dev.ts";
import { percentile, RoomLoad, roomNames, roomsByInstance } from "../harness/room-load.ts";
import type { SourcePatch } from "../harness/source-patch.ts";
import { until } from "../harness/until.ts";

const rooms = roomNames(60);
const options: LeverDevOptions = { manifests: ["e2e/fixtures/rooms"] };
const stoppedMs = 30_000;

interface Stopped {
  readonly rooms: number;
  /** From the stop until a room was answered for elsewhere, ms. */
  readonly firstMs: number;
  readonly lastMs: number;
  /** What the method tried to say after it woke: to the witness, and on its channel. */
  readonly tried: number;
  readonly heardByWitness: number;
  readonly heardOnChannel: number;
  /** Answers of the stopped instance that came after it woke, under epochs that it had before. */
  readonly answered: number;
  readonly channelEnd: string;
  readonly callEnd: string;
  readonly violations: readonly string[];
}

async function stop(dev: LeverDev): Promise<Stopped> {
  await using client = dev.client();
  await dev.spread(client, "rooms", 3);
  await dev.serving("witness", 1);
  const load = new RoomLoad(client, { rooms, perSecond: 60 });
  await load.around();
  const { instance, pid } = dev.apps().find(({ service }) => service === "rooms") as InstanceProcess;
  const own = roomsByInstance(load.holders()).get(instance) ?? [];
  const [talking, holding] = own as [string, string];
  const talk = await client.resource<Room>("rooms", talking).talkChan(stoppedMs + 20_000);
  const said: number[] = [];
  const channelEnd = (async () => {
    for await (const message of talk) said.push(Number(message));
    return "cleanly";
  })().catch((error: unknown) => LeverError.from(error).reason);
  // Its reply comes after the app woke.
  const callEnd = client
    .resource<Room>("rooms", holding)
    .with({ timeoutMs: 60_000 })
    .hold(5000)
    .then(({ instance: by, epoch }) => `${by} ${epoch}`)
    .catch((error: unknown) => `${LeverError.from(error).reason} ${LeverError.from(error).effect}`);
  await until("the method is heard", () => said.length > 5);
  const epochs = new Map(load.answers.map(({ room, epoch }) => [room, epoch]));
  const at = performance.now();
  process.kill(pid, "SIGSTOP");
  await sleep(stoppedMs);
  const wokenAt = Date.now();
  process.kill(pid, "SIGCONT");
  await sleep(5000);
  await load.stop();
  const witnessed = (await client.invoke<string[]>("/witness/heard", [talking])).map(Number);
  const tried = dev.log.entries().filter(({ event, room, said: when }) => {
    return event === "talked" && room === talking && (when as number) >= wokenAt;
  });
  const times = load.servedElsewhereAfter(at, instance, own);
  talk.cancel();
  return {
    rooms: own.length,
    firstMs: Math.round(times[0] as number),
    lastMs: Math.round(percentile(times, 1)),
    tried: tried.length,
    heardByWitness: witnessed.filter((when) => when >= wokenAt).length,
    heardOnChannel: said.filter((when) => when >= wokenAt).length,
    answered: load.answers.filter(({ room, epoch, at: answeredAt, instance: by }) => {
      return by === instance && answeredAt > at + stoppedMs && epoch <= (epochs.get(room) ?? 0);
    }).length,
    channelEnd: await channelEnd,
    callEnd: await callEnd,
    violations: load.violations,
  };
}

/** Neither the holder's agent nor its app ends anything by the lease, and callers believe who was the holder. */
const noEnd: SourcePatch[] = [
  {
    file: "agent/core/relay.ts",
    find: "if (this.#epoch > 0 && this.#epoch < row.fence) this.#fenced(row);",
    replace: "",
  },
  {
    file: "agent/core/ownership/lease.ts",
    find: "this.#hasLapsed = elapsedMs(this.#begunAt, this.#clock.read()) >= this.times.admitMs;",
    replace: "",
  },
  {
    file: "agent/core/ownership/lease.ts",
    find: "if (elapsedMs(this.#begunAt, this.#clock.read()) >= this.times.gateMs) this.end();",
    replace: "",
  },
  {
    file: "agent/core/ownership/leader-link.ts",
    find: 'if (error.reason === "LEASE_LAPSED") options.onOver();',
    replace: "",
  },
  {
    file: "clients/node/resources/lease.ts",
    find: "this.#lease.passedMs(term) < term.gateMs) return true;",
    replace: "term.gateMs > 0) return true;",
  },
  {
    file: "clients/node/resources/resource-host.ts",
    find: "if (!this.#keepsLease || this.#lease.term === undefined) return;\n    if (this.#lease.admitLeftMs > 0)",
    replace: "return;\n    if (this.#lease.admitLeftMs > 0)",
  },
];

describe.concurrent("an app that is stopped for 30 s", () => {
  test("is not heard any more, and its rooms serve elsewhere", async () => {
    await using dev = await LeverDev.start(options);
    const found = await stop(dev);
    console.log(`an app that is stopped: ${JSON.stringify(found)}`);
    expect(found.rooms).toBeGreaterThan(10);
    expect(found).toMatchObject({ heardByWitness: 0, heardOnChannel: 0, answered: 0, violations: [] });
    // It has tried.
    expect(found.tried).toBeGreaterThan(0);
    expect(found.callEnd).toMatch(/ unknown$/);
    expect(found.channelEnd).not.toBe("cleanly");
    // Not before the lease has ended, which had begun up to 3 s before, and soon after.
    expect(found.firstMs).toBeGreaterThan(11_000);
    expect(found.lastMs).toBeLessThan(16_500 + 3000);
  });

  test("the control: where nothing ends with the lease, it is heard", async () => {
    await using dev = await LeverDev.start({ ...options, patches: noEnd });
    const found = await stop(dev);
    console.log(`an app that is stopped, the control: ${JSON.stringify(found)}`);
    // At the least by the caller whose call was under way.
    expect(found.callEnd).toMatch(/^rooms-/);
  });
});
