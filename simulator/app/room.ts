/**
 * The resource of the apps under test: it counts, remembers its last run, calls others, talks over channels, and tells
 * the history each thing that it does. Some of its methods do not stop when they are told to.
 */

import { type CallContext, type Channel, Client, context } from "leveros";
import type { AppName, Observer } from "../check/history.ts";
import type { SimProcess } from "../world/sim-process.ts";
import type { FencedStore } from "./fenced-store.ts";
import { markOf, runOf } from "./mark.ts";

/** How a call is to be done: the only argument. */
export interface Task {
  /** The same for all attempts of a call. */
  readonly call: string;
  /** How long it takes; of a channel's method, until it ends by itself. */
  readonly ms: number;
  /** It goes on when it is told to stop. */
  readonly isStubborn?: boolean;
  /** Rooms to call from within, one within the other. */
  readonly through?: readonly string[];
  /** The mark of the run that makes the call. */
  readonly by?: string;
  /** Of a channel's method: the pause between two messages. */
  readonly everyMs?: number;
}

export interface Result {
  readonly mark: string;
  readonly count: number;
}

/** A message of a channel. */
export interface Item {
  readonly sequence: number;
  readonly mark?: string;
}

type Holding = CallContext & { readonly resource?: string; readonly epoch?: number };

/** What an app's process has beside Lever. */
export interface Surroundings {
  readonly app: AppName;
  readonly process: SimProcess;
  readonly observer: Observer;
  readonly store: FencedStore;
  nextRun(): number;
}

export function sleep(process: SimProcess, ms: number): Promise<void> {
  return new Promise((resolve) => {
    process.clock.setTimer(resolve, ms);
  });
}

/** Resolves when the time is over or, with false, when the signal is aborted. */
function sleepUnless(process: SimProcess, ms: number, signal: AbortSignal): Promise<boolean> {
  if (signal.aborted) return Promise.resolve(false);
  return new Promise((resolve) => {
    const timer = process.clock.setTimer(() => end(true), ms);
    const onAbort = () => end(false);
    const end = (isOver: boolean) => {
      process.clock.clearTimer(timer);
      signal.removeEventListener("abort", onAbort);
      resolve(isOver);
    };
    signal.addEventListener("abort", onAbort);
  });
}

export class RoomMethods {
  readonly #around: Surroundings;
  readonly #client = new Client();
  count = 0;
  lastRun = 0;

  constructor(around: Surroundings) {
    this.#around = around;
  }

  #start(task: Task): number {
    const { app, process, observer } = this.#around;
    const { signal, token, resource = "", epoch = 0 } = context() as Holding;
    const run = this.#around.nextRun();
    this.count++;
    this.lastRun = run;
    observer.started({
      atMs: process.seenNow(),
      run,
      call: task.call,
      resource,
      app,
      epoch,
      token,
      parent: runOf(task.by),
      isStubborn: task.isStubborn === true,
    });
    if (signal.aborted) observer.aborted(run, process.seenNow());
    else signal.addEventListener("abort", () => observer.aborted(run, process.seenNow()));
    return run;
  }

  #end(run: number): void {
    this.#around.observer.ended(run, this.#around.process.seenNow());
  }

  async add(task: Task): Promise<Result> {
    const run = this.#start(task);
    const { count } = this;
    try {
      const { process, store } = this.#around;
      const { signal, resource, epoch } = context() as Holding;
      if (resource !== undefined && epoch !== undefined) await store.write(process, resource, epoch);
      if (task.isStubborn === true) await sleep(process, task.ms);
      else if (task.ms > 0 && !(await sleepUnless(process, task.ms, signal))) throw signal.reason;
      const [next, ...through] = task.through ?? [];
      if (next !== undefined) await this.#pass(run, next, { ...task, through });
      return { mark: markOf(run), count };
    } finally {
      this.#end(run);
    }
  }

  /** As `add`; the manifest says that it may be repeated. */
  look(task: Task): Promise<Result> {
    return this.add(task);
  }

  /** What goes wrong there is thrown from here. */
  #pass(run: number, next: string, task: Task): Promise<unknown> {
    const { observer, app, process } = this.#around;
    const call = `${task.call}>${next}`;
    observer.called({
      atMs: process.seenNow(),
      call,
      resource: next,
      timeoutMs: 30_000,
      caller: app,
      token: undefined,
    });
    return this.#client.invoke(roomUrl(next, "add"), [{ ...task, call, by: markOf(run) }]).then(
      (result) => {
        observer.answered({
          atMs: process.seenNow(),
          call,
          error: undefined,
          run: runOf((result as Result).mark),
        });
        return result;
      },
      (error: unknown) => {
        throw error;
      },
    );
  }

  /** Sends numbered messages, and takes those of the caller. */
  async talkChan(channel: Channel<Item, Item>, task: Task): Promise<void> {
    const run = this.#start(task);
    const { observer, process, app } = this.#around;
    observer.channelOpened({ atMs: process.seenNow(), channel: task.call, side: "method", app, run });
    const { signal } = context();
    let error: string | undefined;
    const reading = (async () => {
      for await (const { sequence } of channel) {
        observer.channelGot({ atMs: process.seenNow(), channel: task.call, side: "method", sequence, run: undefined });
      }
    })();
    try {
      const pauseMs = task.everyMs ?? 200;
      for (let sequence = 0; sequence * pauseMs < task.ms; sequence++) {
        await channel.send({ sequence, mark: markOf(run) });
        if (task.isStubborn === true) await sleep(process, pauseMs);
        else if (!(await sleepUnless(process, pauseMs, signal))) break;
      }
      channel.closeWrite();
      await reading;
    } catch (thrown) {
      error = String(thrown);
      reading.catch(() => {});
    } finally {
      observer.channelClosed({ atMs: process.seenNow(), channel: task.call, side: "method", error });
      this.#end(run);
    }
  }
}

export function roomUrl(resource: string, method: string): string {
  return resource === "" ? `/rooms/${method}` : `/rooms/${encodeURIComponent(resource)}/${method}`;
}
