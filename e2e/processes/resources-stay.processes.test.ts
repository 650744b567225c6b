/**
 * Rooms, each a resource, under steady calls and with a channel each: every room lives in one instance; an instance that
 * comes takes its share and moves nothing else; one that is to end gives its rooms away without a failed call.
 *
 * LEVER_CHANNELS=3000 for more channels than the tier has time for.
 */

import type { Client } from "leveros";
import { expect, test } from "vitest";
import { lever } from "../harness/lever-command.ts";
import { LeverDev } from "../harness/lever-dev.ts";
import { tally } from "../harness/load.ts";
import { Listener, percentile, RoomLoad, roomNames, roomsByInstance } from "../harness/room-load.ts";
import { type SourcePatch, withoutHold } from "../harness/source-patch.ts";
import { until } from "../harness/until.ts";

const manifests = ["e2e/fixtures/rooms/rooms.yaml"];
const rooms = roomNames(300);
const perSecond = 300;
const channels = Number(process.env.LEVER_CHANNELS ?? 300);
/** A client outside may have 1,000 of them. */
const moreStreams: readonly SourcePatch[] =
  channels > 400
    ? [{ file: "agent/core/agent.ts", find: "streamsMax: 1000", replace: `streamsMax: ${4 * channels}` }]
    : [];

function counts(load: RoomLoad): Record<string, number> {
  return Object.fromEntries([...roomsByInstance(load.holders())].map(([instance, { length }]) => [instance, length]));
}

function moved(before: ReadonlyMap<string, string>, after: ReadonlyMap<string, string>): string[] {
  return [...after].filter(([room, instance]) => before.get(room) !== instance).map(([room]) => room);
}

/** Every second one asked to go on after a move. */
async function listen(client: Client, count: number): Promise<Listener[]> {
  return Promise.all(
    Array.from({ length: count }, (_, n) => Listener.join(client, rooms[n % rooms.length] as string, n % 2 === 0)),
  );
}

interface Arrival {
  readonly newcomer: string;
  readonly takes: number;
  /** Rooms that moved, but not to the newcomer. */
  readonly others: number;
}

/** One instance more. */
async function arrive(dev: LeverDev, load: RoomLoad): Promise<Arrival> {
  await load.around();
  const before = load.holders();
  const known = new Set(before.values());
  const scaled = await lever(["scale", "dev/rooms", "4", "--gateway", dev.gateway]);
  expect(scaled, scaled.stderr).toMatchObject({ exitCode: 0 });
  const apps = await dev.serving("rooms", 4);
  const newcomer = apps.find(({ instance }) => !known.has(instance))?.instance as string;
  await until("the newcomer has its share", () => (counts(load)[newcomer] ?? 0) >= rooms.length * 0.15);
  await load.around();
  const to = moved(before, load.holders()).map((room) => load.holders().get(room));
  return {
    newcomer,
    takes: to.filter((instance) => instance === newcomer).length,
    others: to.filter((instance) => instance !== newcomer).length,
  };
}

/** One instance is told to end: its rooms, those of them that moved, and those that moved although they were not its. */
async function leave(dev: LeverDev, load: RoomLoad, instance: string) {
  await load.around();
  const before = load.holders();
  const known = new Set(before.values());
  const own = roomsByInstance(before).get(instance) ?? [];
  const { pid } = dev.apps().find((app) => app.instance === instance) as { pid: number };
  process.kill(pid, "SIGTERM");
  await until("it has ended", () => !dev.apps().some((app) => app.pid === pid));
  await load.around();
  const after = load.holders();
  const all = moved(before, after);
  return {
    own,
    moved: all.filter((room) => own.includes(room)).length,
    // Another one is started in its place, and takes its share.
    beside: all.filter((room) => !own.includes(room) && known.has(after.get(room) as string)).length,
  };
}

/** What has become of the channels to rooms that were to move, and to those that have not moved. */
async function heard(
  load: RoomLoad,
  before: ReadonlyMap<string, string>,
  listeners: readonly Listener[],
  own: ReadonlySet<string>,
) {
  await until("channels have followed", () => hasFollowed(listeners, own));
  const hows = listeners.map(({ how }) => how ?? "open");
  // Since then each room has said where it is: whatever had moved is among these.
  await load.around();
  const others = new Set(moved(before, load.holders()));
  const of = (which: (room: string, n: number) => boolean) =>
    tally(hows.filter((_, n) => which((listeners[n] as Listener).room, n)));
  return {
    stayed: of((room) => !own.has(room) && !others.has(room)),
    resumed: of((room, n) => own.has(room) && n % 2 === 0),
    ended: of((room, n) => own.has(room) && n % 2 === 1),
  };
}

/** Three instances, a fourth one, and one of the first three that ends. */
async function comeAndGo(dev: LeverDev) {
  await using client = dev.client();
  await dev.spread(client, "rooms", 3);
  const load = new RoomLoad(client, { rooms, perSecond });
  await load.around();
  const listeners = await listen(client, channels);
  const atFirst = counts(load);
  const before = load.holders();
  const arrival = await arrive(dev, load);
  const afterArrival = counts(load);
  // Those that asked for it have followed their rooms; the others open new ones, as their users would.
  const movedTo = [...load.holders()].filter(([, instance]) => instance === arrival.newcomer).map(([room]) => room);
  const first = await heard(load, before, listeners, new Set(movedTo));
  const then = load.holders();
  const again = await listen(client, channels);
  const victim = [...roomsByInstance(load.holders()).keys()].find(
    (instance) => instance !== arrival.newcomer,
  ) as string;
  const left = await leave(dev, load, victim);
  const second = await heard(load, then, again, new Set(left.own));
  await load.stop();
  // All posts arrive at all channels that are open.
  const said = new Map(load.answers.map(({ room, n }) => [room, n]));
  const hasHeardAll = ({ how, last, room }: Listener) => how !== undefined || last?.n === said.get(room);
  const missing = () => [...listeners, ...again].filter((listener) => !hasHeardAll(listener)).length;
  await until("the last posts are heard", () => missing() === 0, 5000).catch(() => {});
  const deaf = missing();
  const gaps = [...listeners, ...again].map(({ gap }) => gap).filter((gap) => gap !== undefined);
  await Promise.all([...listeners, ...again].map((listener) => listener.close()));
  const times = load.answers.map(({ at, sentAt }) => at - sentAt).sort((a, b) => a - b);
  const answered = tally(load.answers.map(({ room }) => room));
  return {
    atFirst,
    ...arrival,
    afterArrival,
    own: left.own.length,
    movedWithIt: left.moved,
    movedBeside: left.beside,
    channels: { first, second },
    gaps: gaps.length,
    firstGap: gaps[0],
    deaf,
    calls: load.answers.length,
    /** How long a call took, moves included, ms. */
    p50Ms: Math.round(percentile(times, 0.5)),
    p99Ms: Math.round(percentile(times, 0.99)),
    slowestMs: Math.round(percentile(times, 1)),
    failed: tally(load.failures.map(({ reason, effect }) => `${reason} ${effect}`)),
    violations: load.violations,
    /** Rooms that have not counted each call that was answered, and no other. */
    miscounted: rooms.filter((room) => said.get(room) !== answered[room]).length,
  };
}

test("300 rooms stay; a fourth instance takes its share, one that ends gives all away, and no call fails", async () => {
  await using dev = await LeverDev.start({ manifests, patches: moreStreams });
  const found = await comeAndGo(dev);
  console.log(`rooms that stay: ${JSON.stringify(found)}`);
  expect(found).toMatchObject({
    others: 0,
    movedBeside: 0,
    gaps: 0,
    deaf: 0,
    failed: {},
    violations: [],
    miscounted: 0,
  });
  // 256 slots, of which each instance has 85 or 86, and then 64; rooms lie in slots by a hash.
  for (const count of Object.values(found.atFirst)) expect(count).toBeGreaterThan(60);
  expect(found.takes).toBeGreaterThan(45);
  expect(found.takes).toBeLessThan(105);
  expect(found.movedWithIt).toBe(found.own);
  for (const { stayed, resumed, ended } of Object.values(found.channels)) {
    expect(Object.keys(stayed)).toEqual(["open"]);
    expect(Object.keys(resumed)).toEqual(["open"]);
    expect(Object.keys(ended)).toEqual(["MOVED"]);
  }
});

test("the control: a plain hash moves others too, calls that are not held fail, and without cursors there are gaps", async () => {
  const patches: SourcePatch[] = [
    // A slot lies where its number modulo the number of instances says, as with a plain hash.
    {
      file: "operator/core/ownership/assignment.ts",
      find: "const evenShare = Math.floor(",
      replace: `
        for (const { slot, owner, isMovable } of places) {
          const to = receivers[slot % receivers.length].id;
          const isMoved = isMovable && owner !== undefined && !leaving.has(owner) && owner !== to;
          if (isMoved && assignments.length < limits.rebalanceMax) assignments.push({ slot, to, why: "rebalance" });
        }
        return assignments;
        const evenShare = Math.floor(`,
    },
    ...withoutHold,
    {
      file: "clients/node/context.ts",
      find: "return this.#invocation.takeCursor();",
      replace: "this.#invocation.takeCursor(); return undefined;",
    },
  ];
  await using dev = await LeverDev.start({ manifests, patches: [...patches, ...moreStreams] });
  const found = await comeAndGo(dev);
  console.log(`rooms that stay, the control: ${JSON.stringify(found)}`);
  expect(found.others + found.movedBeside).toBeGreaterThan(0);
  expect(Object.keys(found.failed)).not.toEqual([]);
  expect(found.gaps).toBeGreaterThan(0);
});

/** Channels to these rooms have ended, or have heard another instance than at first. */
function hasFollowed(listeners: readonly Listener[], roomsMoved: ReadonlySet<string>): boolean {
  return listeners
    .filter(({ room }) => roomsMoved.has(room))
    .every(({ how, instances }) => how !== undefined || instances.length > 1);
}
