/** The holder of rooms is killed, its app or its agent, and its rooms go on: elsewhere, or where they are. */

import { describe, expect, test } from "vitest";
import { type InstanceProcess, LeverDev, type LeverDevOptions } from "../harness/lever-dev.ts";
import { tally } from "../harness/load.ts";
import { percentile, RoomLoad, roomNames, roomsByInstance } from "../harness/room-load.ts";
import type { SourcePatch } from "../harness/source-patch.ts";

const rooms = roomNames(300);
const options: LeverDevOptions = { manifests: ["e2e/fixtures/rooms/rooms.yaml"] };

interface Killed {
  readonly rooms: number;
  /** Ms that a call to a room had to wait until it was answered elsewhere. */
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly failures: Record<string, number>;
  readonly violations: readonly string[];
}

async function killApp(dev: LeverDev): Promise<Killed> {
  await using client = dev.client();
  await dev.spread(client, "rooms", 3);
  const load = new RoomLoad(client, { rooms, perSecond: 300 });
  await load.around();
  const { pid, instance } = dev.apps()[0] as InstanceProcess;
  const own = roomsByInstance(load.holders()).get(instance) ?? [];
  const at = performance.now();
  process.kill(pid, "SIGKILL");
  await load.around(40_000);
  await load.stop();
  const times = load.waitedElsewhereAfter(at, instance, own);
  return {
    rooms: own.length,
    p50Ms: Math.round(percentile(times, 0.5)),
    p99Ms: Math.round(percentile(times, 0.99)),
    failures: tally(load.failures.map(({ reason, effect }) => `${reason} ${effect}`)),
    violations: load.violations,
  };
}

test("an app that is killed: its rooms serve elsewhere within a second", async () => {
  await using dev = await LeverDev.start(options);
  const found = await killApp(dev);
  console.log(`an app that is killed: ${JSON.stringify(found)}`);
  expect(found.rooms).toBeGreaterThan(60);
  expect(found.violations).toEqual([]);
  // Each room waits for its answer with one call: of those that ran nobody can say.
  for (const failure of Object.keys(found.failures)) expect(failure).toMatch(/ unknown$/);
  expect(found.p99Ms).toBeLessThan(3000);
});

const provesNothing: SourcePatch[] = [
  {
    file: "operator/local/local-environment.ts",
    find: "if (hasExited) this.#processEnded",
    replace: "if (key === undefined) this.#processEnded",
  },
  // Nor does its agent give up what nothing ran in.
  {
    file: "agent/core/ownership/slot-holder.ts",
    find: "if (slot.mayRun) this.#setState",
    replace: "if (slot !== undefined) this.#setState",
  },
];

interface AgentKilled {
  readonly rooms: number;
  readonly answeredElsewhere: number;
  readonly stateLost: number;
  /** Ms until the last of the rooms was answered for again. */
  readonly lastMs: number;
  readonly failures: Record<string, number>;
  readonly violations: readonly string[];
}

async function killAgent(dev: LeverDev): Promise<AgentKilled> {
  await using client = dev.client();
  await dev.spread(client, "rooms", 3);
  const load = new RoomLoad(client, { rooms, perSecond: 300 });
  await load.around();
  const { pid, instance } = dev.agents()[0] as InstanceProcess;
  const own = new Set(roomsByInstance(load.holders()).get(instance));
  const at = performance.now();
  process.kill(pid, "SIGKILL");
  await load.around(40_000);
  await load.stop();
  const after = load.answers.filter(({ room, sentAt }) => own.has(room) && sentAt >= at);
  const first = new Map(after.toReversed().map((answer) => [answer.room, answer]));
  const before = new Map(load.answers.filter(({ sentAt }) => sentAt < at).map((answer) => [answer.room, answer]));
  return {
    rooms: own.size,
    answeredElsewhere: after.filter((answer) => answer.instance !== instance).length,
    // Of what failed with `unknown` it may have counted one.
    stateLost: [...first.values()].filter(({ room, n }) => n <= (before.get(room)?.n ?? 0)).length,
    lastMs: Math.round(Math.max(...[...first.values()].map((answer) => answer.at - at))),
    failures: tally(load.failures.map(({ reason, effect }) => `${reason} ${effect}`)),
    violations: load.violations,
  };
}

describe.concurrent("side by side", () => {
  test("the control: where the process's end proves nothing, they wait for the lease's", async () => {
    await using dev = await LeverDev.start({ ...options, patches: provesNothing });
    const found = await killApp(dev);
    console.log(`an app that is killed, the control: ${JSON.stringify(found)}`);
    expect(found.p99Ms).toBeGreaterThan(3000);
  });

  test("an agent that is killed: its app serves the same rooms again, with what was in them", async () => {
    await using dev = await LeverDev.start({ ...options, agents: "process" });
    const found = await killAgent(dev);
    console.log(`an agent that is killed: ${JSON.stringify(found)}`);
    expect(found).toMatchObject({ answeredElsewhere: 0, stateLost: 0, violations: [] });
    for (const failure of Object.keys(found.failures)) expect(failure).toMatch(/ unknown$/);
    expect(found.lastMs).toBeLessThan(9000);
  });

  test("the control: where the app's state is not taken up again, rooms begin anew", async () => {
    const forgets: SourcePatch = {
      file: "agent/core/ownership/slot-holder.ts",
      find: "if (app.holds.get(slot.slot)?.epoch === origin.epoch)",
      replace: "if (app.holds.size < 0)",
    };
    await using dev = await LeverDev.start({ ...options, agents: "process", patches: [forgets] });
    const found = await killAgent(dev);
    console.log(`an agent that is killed, the control: ${JSON.stringify(found)}`);
    expect(found.stateLost).toBeGreaterThan(found.rooms / 2);
  });
});
