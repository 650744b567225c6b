/** Who calls the rooms: loops in a process of their own, which tell the history what they asked and what they got. */

import type { Channel } from "leveros";
import type { CallOptions } from "../../clients/node/call-options.ts";
import type { Client } from "../../clients/node/client.ts";
import type { CallAnswer, Observer } from "../check/history.ts";
import type { SimProcess } from "../world/sim-process.ts";
import type { World } from "../world/world.ts";
import { callError } from "./call-error.ts";
import { runOf } from "./mark.ts";
import { type Item, type Result, roomUrl, sleep, type Task } from "./room.ts";

/** What is called how often, and how long it takes. */
export interface Load {
  readonly rooms: readonly string[];
  /** Of each caller: loops that call, and loops that keep a channel open. */
  readonly callers: number;
  readonly talkers: number;
  /** Between two calls of a loop, on average. */
  readonly pauseMs: number;
  readonly methodMsMax: number;
  readonly timeoutMsMin: number;
  readonly timeoutMsMax: number;
  /** Methods that do not stop when they are told to; they take up to `stubbornMsMax`. */
  readonly stubbornRate: number;
  readonly stubbornMsMax: number;
  readonly nestedRate: number;
  readonly tokenRate: number;
  readonly channelMsMax: number;
  /** Stubborn channels go on for this long at the least, and send as often as this at the least. */
  readonly stubbornChannelMsMin: number;
  readonly everyMsMax: number;
  /** Loops that keep a channel which is opened again by itself. */
  readonly followers: number;
  /** Each loop calls one room, all the time. */
  readonly isSteady: boolean;
}

export interface Caller {
  readonly world: World;
  readonly process: SimProcess;
  readonly client: Client;
  readonly observer: Observer;
  readonly load: Load;
  /** Different for each caller. */
  readonly name: string;
  /** From here on no new call is begun. */
  isOver(): boolean;
}

/** Starts the loops in the caller's process. */
export function startCalling(caller: Caller): void {
  const { load, process } = caller;
  const counter = { calls: 0, channels: 0 };
  for (let i = 0; i < load.callers; i++) {
    const rooms = load.isSteady ? [load.rooms[i % load.rooms.length] as string] : load.rooms;
    process.run(() => void callForEver(caller, rooms, counter));
  }
  for (let i = 0; i < load.followers; i++) process.run(() => void followForEver(caller, counter));
  for (let i = 0; i < load.talkers; i++) process.run(() => void talkForEver(caller, counter));
}

async function callForEver(caller: Caller, rooms: readonly string[], counter: { calls: number }): Promise<void> {
  const { world, process, load } = caller;
  const { random } = world;
  for (;;) {
    await sleep(process, random.between(0, 2 * load.pauseMs));
    if (caller.isOver()) return;
    const call = `${caller.name}c${++counter.calls}`;
    const room = random.pick(rooms);
    const isStubborn = random.chance(load.stubbornRate);
    const ms = isStubborn
      ? random.between(0, load.stubbornMsMax)
      : random.chance(0.5)
        ? 0
        : random.between(0, load.methodMsMax);
    const through = random.chance(load.nestedRate)
      ? Array.from({ length: random.integer(1, 2) }, () => random.pick(load.rooms)).filter((each) => each !== room)
      : [];
    const timeoutMs = Math.round(random.between(load.timeoutMsMin, load.timeoutMsMax));
    // Most come to an end around the time when nothing of theirs may be heard any more.
    const lingers = isStubborn && random.chance(0.7);
    const task: Task = {
      call,
      ms,
      ...(isStubborn && { isStubborn }),
      ...(lingers && { lingerMs: random.between(2500, 7000) }),
      ...(through.length > 0 && { through }),
    };
    if (through.length === 0 && random.chance(load.tokenRate)) {
      await callWithToken(caller, random.chance(0.2) ? "" : room, task, timeoutMs);
    } else await callOnce(caller, room, random.chance(0.25) ? "look" : "add", task, { timeoutMs });
  }
}

/** Repeats the call, with the same token, for as long as it is not known whether it ran. */
async function callWithToken(caller: Caller, room: string, task: Task, timeoutMs: number): Promise<void> {
  const { process, world } = caller;
  const wallMs = Math.floor(process.machine.wallMs(process.seenNow()));
  const token = world.random.chance(0.6)
    ? // As `mintToken` makes them, on this process's clock and without its chance.
      `l1.${wallMs.toString(36)}.${task.call.padStart(22, "-")}`
    : `t-${task.call}`;
  // Only resources know the tokens of those who ask again; a plain method is repeated by agents alone, where it was.
  const [method, attemptsMax] = room === "" ? (["once", 1] as const) : (["add", 3] as const);
  for (let attempt = 1; attempt <= attemptsMax; attempt++) {
    const call = `${task.call}.${attempt}`;
    const { error } = await callOnce(caller, room, method, { ...task, call }, { timeoutMs, token });
    if (error === undefined || error.effect === "ran" || caller.isOver()) return;
  }
}

export async function callOnce(
  { process, client, observer }: Caller,
  room: string,
  method: "add" | "look" | "once",
  task: Task,
  options: CallOptions & { readonly timeoutMs: number },
): Promise<CallAnswer> {
  const { call } = task;
  const { timeoutMs, token } = options;
  observer.called({ atMs: process.seenNow(), call, resource: room, timeoutMs, caller: process.name, token });
  let answer: CallAnswer;
  try {
    const { run } = await client.invoke<Result>(roomUrl(room, method), [task], options);
    answer = { atMs: process.seenNow(), call, error: undefined, run };
  } catch (error) {
    answer = { atMs: process.seenNow(), call, error: callError(error), run: undefined };
  }
  observer.answered(answer);
  return answer;
}

async function talkForEver(caller: Caller, counter: { channels: number }): Promise<void> {
  const { world, process, load } = caller;
  const { random } = world;
  for (;;) {
    await sleep(process, random.between(0, 1000));
    if (caller.isOver()) return;
    const call = `${caller.name}ch${++counter.channels}`;
    const isStubborn = random.chance(load.stubbornRate * 3);
    const everyMs = Math.round(random.between(Math.min(50, load.everyMsMax / 2), load.everyMsMax));
    const ms = isStubborn
      ? random.between(load.stubbornChannelMsMin, load.stubbornMsMax)
      : random.between(0, load.channelMsMax);
    await talk(caller, random.pick(load.rooms), { call, ms, everyMs, ...(isStubborn && { isStubborn }) });
  }
}

async function followForEver(caller: Caller, counter: { channels: number }): Promise<void> {
  const { world, process, load } = caller;
  const { random } = world;
  for (;;) {
    await sleep(process, random.between(0, 1000));
    if (caller.isOver()) return;
    const call = `${caller.name}fo${++counter.channels}`;
    const everyMs = Math.round(random.between(50, 400));
    await follow(caller, random.pick(load.rooms), { call, ms: random.between(0, 3 * load.channelMsMax), everyMs });
  }
}

async function follow({ process, client, observer, load }: Caller, room: string, task: Task): Promise<void> {
  const options = { timeoutMs: load.timeoutMsMax, resume: true };
  let isDiscontinuous = false;
  try {
    const channel = await client.openChannel<Item, Item>(roomUrl(room, "followChan"), [task], options);
    channel.onstate = (state) => {
      if (state === "discontinuity") isDiscontinuous = true;
    };
    for await (const { sequence } of channel) {
      observer.followed({ atMs: process.seenNow(), channel: task.call, sequence, isDiscontinuous });
      isDiscontinuous = false;
    }
  } catch {
    // It could not be opened, or not again in time.
  }
}

async function talk(caller: Caller, room: string, task: Task): Promise<void> {
  const { process, client, observer, load } = caller;
  const { call, everyMs = 200 } = task;
  const timeoutMs = load.timeoutMsMax;
  observer.called({ atMs: process.seenNow(), call, resource: room, timeoutMs, caller: process.name, token: undefined });
  let channel: Channel<Item, Item>;
  try {
    channel = await client.openChannel<Item, Item>(roomUrl(room, "talkChan"), [task], { timeoutMs });
  } catch (error) {
    observer.answered({ atMs: process.seenNow(), call, error: callError(error), run: undefined });
    return;
  }
  observer.answered({ atMs: process.seenNow(), call, error: undefined, run: undefined });
  observer.channelOpened({ atMs: process.seenNow(), channel: call, side: "caller", app: process.name, run: undefined });
  let isOver = false;
  const sending = (async () => {
    for (let sequence = 0; !isOver; sequence++) {
      await channel.send({ sequence });
      await sleep(process, everyMs);
    }
  })().catch(() => {});
  let ended: string | undefined;
  try {
    for await (const { sequence, mark } of channel) {
      observer.channelGot({ atMs: process.seenNow(), channel: call, side: "caller", sequence, run: runOf(mark) });
    }
    isOver = true;
    channel.closeWrite();
  } catch (error) {
    ended = callError(error).reason;
  }
  isOver = true;
  observer.channelClosed({ atMs: process.seenNow(), channel: call, side: "caller", error: ended });
  await sending;
}
