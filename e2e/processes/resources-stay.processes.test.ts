/**
 * Rooms, each a resource, under steady calls and with a channel each: every room lives in one instance; an instance that
 * comes takes its share and moves nothing else; one that is to end gives its rooms away without a failed call.
 *
 * LEVER_CHANNELS=3000 for more channels than the tier has time for.
 */

import type { Client } from "leveros";
import { expect, test } from "vitest";
import { lever } from "../harness/lever-command.ts";
import { LeverDev, type LeverDevOptions } from "../harness/lever-dev.ts";
import { tally } from "../harness/load.ts";
import { Listener, RoomLoad, roomNames, roomsByInstance } from "../harness/room-load.ts";
import { until } from "../harness/until.ts";

const manifests = ["e2e/fixtures/rooms/rooms.yaml"];
const rooms = roomNames(300);
const perSecond = 300;
const channels = Number(process.env.LEVER_CHANNELS ?? 300);

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

/** One instance is told to end; its rooms, and those that moved but were not its. */
async function leave(dev: LeverDev, load: RoomLoad, instance: string) {
  await load.around();
  const before = load.holders();
  const own = roomsByInstance(before).get(instance) ?? [];
  const { pid } = dev.apps().find((app) => app.instance === instance) as { pid: number };
  process.kill(pid, "SIGTERM");
  await until("it has ended", () => !dev.apps().some((app) => app.pid === pid));
  await load.around();
  return { own, moved: moved(before, load.holders()) };
}

/** What became of the channels to `left`, and of all others. */
function heard(listeners: readonly Listener[], left: ReadonlySet<string>) {
  const of = (which: (listener: Listener, n: number) => boolean) => listeners.filter(which);
  const hows = (some: readonly Listener[]) => tally(some.map(({ how }) => how ?? "open"));
  return {
    stayed: hows(of(({ room }) => !left.has(room))),
    resumed: hows(of(({ room }, n) => left.has(room) && n % 2 === 0)),
    ended: hows(of(({ room }, n) => left.has(room) && n % 2 === 1)),
    gaps: listeners.map(({ gap }) => gap).filter((gap) => gap !== undefined),
  };
}

const options: LeverDevOptions = { manifests };

test("300 rooms stay; a fourth instance takes its share, one that ends gives all away, and no call fails", async () => {
  await using dev = await LeverDev.start(options);
  await dev.serving("rooms", 3);
  await using client = dev.client();
  const load = new RoomLoad(client, { rooms, perSecond });
  await load.around();
  const listeners = await listen(client, channels);
  const atFirst = counts(load);
  const arrival = await arrive(dev, load);
  const afterArrival = counts(load);
  // Those that asked for it have followed their rooms; the others opened new ones, as their users would.
  const movedTo = [...load.holders()].filter(([, instance]) => instance === arrival.newcomer).map(([room]) => room);
  await until("channels have followed", () => hasFollowed(listeners, new Set(movedTo)));
  const first = heard(listeners, new Set(movedTo));
  const again = await listen(client, channels);
  const victim = [...roomsByInstance(load.holders()).keys()].find(
    (instance) => instance !== arrival.newcomer,
  ) as string;
  const left = await leave(dev, load, victim);
  await until("channels have followed", () => hasFollowed(again, new Set(left.own)));
  const second = heard(again, new Set(left.own));
  await load.stop();
  // All posts have arrived at all channels that are open.
  const said = new Map(load.answers.map(({ room, n }) => [room, n]));
  await until("the last posts are heard", () =>
    [...listeners, ...again].every(({ how, last, room }) => how !== undefined || last?.n === said.get(room)),
  );
  await Promise.all([...listeners, ...again].map((listener) => listener.close()));
  console.log(`rooms: ${JSON.stringify(atFirst)}; a fourth instance: ${JSON.stringify({ ...arrival, afterArrival })}`);
  console.log(`channels: ${JSON.stringify(first)}; an instance that ends: ${JSON.stringify(second)}`);
  console.log(
    `${load.answers.length} calls, failed: ${JSON.stringify(tally(load.failures.map(({ reason }) => reason)))}`,
  );
  expect(load.violations).toEqual([]);
  expect(load.failures).toEqual([]);
  // 256 slots, of which each instance has 85 or 86; rooms are spread over slots by a hash.
  for (const count of Object.values(atFirst)) expect(count).toBeGreaterThan(60);
  expect(arrival.takes).toBeGreaterThan(45);
  expect(arrival.takes).toBeLessThan(105);
  expect(arrival.others).toBe(0);
  expect(new Set(left.moved)).toEqual(new Set(left.own));
  for (const { stayed, resumed, ended, gaps } of [first, second]) {
    expect(gaps).toEqual([]);
    expect(Object.keys(stayed)).toEqual(["open"]);
    expect(Object.keys(resumed)).toEqual(["open"]);
    expect(Object.keys(ended)).toEqual(["MOVED"]);
  }
  // No post was lost on the way: each room has counted each call that was answered, and no other.
  const answered = tally(load.answers.map(({ room }) => room));
  for (const room of rooms) expect([room, said.get(room)]).toEqual([room, answered[room]]);
});

/** Channels to these rooms have ended, or have heard another instance than at first. */
function hasFollowed(listeners: readonly Listener[], roomsMoved: ReadonlySet<string>): boolean {
  return listeners
    .filter(({ room }) => roomsMoved.has(room))
    .every(({ how, instances }) => how !== undefined || instances.length > 1);
}
