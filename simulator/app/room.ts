/**
 * The resource of the apps under test: it counts, remembers its last run, calls others, talks over channels, and tells
 * the history each thing that it does. Some of its methods do not stop when they are told to.
 */

import { type Channel, Client, context, handOver, open, type ResourceMemory } from "leveros";
import type { ResourceClass } from "../../clients/node/resources/resource-methods.ts";
import type { AppName, Observer } from "../check/history.ts";
import type { SimProcess } from "../world/sim-process.ts";
import { callError } from "./call-error.ts";
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
  /** When it is told to stop it takes so long to come to an end, and answers then. */
  readonly lingerMs?: number;
  /** Rooms to call from within, one within the other. */
  readonly through?: readonly string[];
  /** The mark of the run that makes the call. */
  readonly by?: string;
  /** Of a channel's method: the pause between two messages. */
  readonly everyMs?: number;
}

export interface Result {
  readonly run: number;
  readonly count: number;
  /** Not of an outcome that is remembered for a token: it may be told by others later, by right. */
  readonly mark?: string;
}

/** A message of a channel. */
export interface Item {
  readonly sequence: number;
  readonly mark?: string;
}

/** What an app's process has beside Lever. */
export interface Surroundings {
  readonly app: AppName;
  readonly process: SimProcess;
  readonly observer: Observer;
  readonly store: FencedStore;
  /** Of runs and of objects. */
  nextNumber(): number;
}

export function sleep(process: SimProcess, ms: number): Promise<void> {
  return new Promise((resolve) => {
    process.clock.setTimer(resolve, ms);
  });
}

/** Resolves in a callback of its own. */
function turn(process: SimProcess, tag: string): Promise<void> {
  return new Promise((resolve) => process.post(0, resolve, tag));
}

/** Resolves when the time is over or, with false, when one of the signals is aborted. */
function sleepUnless(process: SimProcess, ms: number, ...signals: AbortSignal[]): Promise<boolean> {
  if (signals.some(({ aborted }) => aborted)) return Promise.resolve(false);
  return new Promise((resolve) => {
    const timer = process.clock.setTimer(() => end(true), ms);
    const onAbort = () => end(false);
    const end = (isOver: boolean) => {
      process.clock.clearTimer(timer);
      for (const signal of signals) signal.removeEventListener("abort", onAbort);
      resolve(isOver);
    };
    for (const signal of signals) signal.addEventListener("abort", onAbort);
  });
}

/** What a room leaves to its next object. */
interface RoomState {
  readonly count: number;
  readonly lastRun: number;
  readonly object: number;
}

/** The class of rooms in one process. */
export function roomsOf(around: Surroundings): ResourceClass {
  const client = new Client();
  return class extends Room {
    constructor(name: string, state: RoomState | undefined, memory: ResourceMemory) {
      super(around, client, name, state, memory);
    }
  };
}

class Room {
  readonly #around: Surroundings;
  readonly #client: Client;
  readonly #name: string;
  readonly #epoch: number;
  readonly #object: number;
  #count: number;
  #lastRun: number;
  #isHandedOver = false;

  constructor(
    around: Surroundings,
    client: Client,
    name: string,
    state: RoomState | undefined,
    memory: ResourceMemory,
  ) {
    this.#around = around;
    this.#client = client;
    this.#name = name;
    this.#count = state?.count ?? 0;
    this.#lastRun = state?.lastRun ?? 0;
    const { app, process, observer } = around;
    this.#epoch = context().epoch;
    this.#object = around.nextNumber();
    observer.opened({
      atMs: process.turnBeganMs(),
      resource: name,
      app,
      epoch: this.#epoch,
      object: this.#object,
      memory,
      from: state?.object,
      lastRun: this.#lastRun,
    });
  }

  /** A store with a fence is to know the epoch before anything is read from it. */
  async [open](): Promise<void> {
    const { store, process, app } = this.#around;
    await store.claim(process, app, this.#name, this.#epoch);
  }

  [handOver](): RoomState {
    this.#isHandedOver = true;
    return { count: this.#count, lastRun: this.#lastRun, object: this.#object };
  }

  [Symbol.dispose](): void {
    const { app, process, observer } = this.#around;
    observer.closed({
      atMs: process.seenNow(),
      resource: this.#name,
      app,
      epoch: this.#epoch,
      object: this.#object,
      isHandedOver: this.#isHandedOver,
    });
  }

  #start(task: Task): number {
    const { app, process, observer } = this.#around;
    const { signal, token, epoch } = context();
    const run = this.#around.nextNumber();
    this.#count++;
    this.#lastRun = run;
    observer.started({
      // A process that was stopped may run some instructions after it wakes; what they say is not heard.
      atMs: process.turnBeganMs(),
      run,
      call: task.call,
      resource: this.#name,
      app,
      epoch,
      object: this.#object,
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
    const count = this.#count;
    try {
      const { process, store } = this.#around;
      const { signal, token } = context();
      await store.write(process, this.#name, this.#epoch);
      if (task.lingerMs !== undefined) {
        if (!(await sleepUnless(process, task.ms, signal))) await sleep(process, task.lingerMs);
      } else if (task.isStubborn === true) await sleep(process, task.ms);
      else if (task.ms > 0 && !(await sleepUnless(process, task.ms, signal))) throw signal.reason;
      const [next, ...through] = task.through ?? [];
      if (next !== undefined) await this.#pass(run, next, { ...task, through });
      return { run, count, ...(token === undefined && { mark: markOf(run) }) };
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
    const call = `${task.call}.${run}>${next}`;
    observer.called({
      atMs: process.seenNow(),
      call,
      resource: next,
      timeoutMs: 30_000,
      caller: app,
      token: undefined,
    });
    // In a turn of its own, which may be stopped.
    const made = turn(process, "call").then(() =>
      this.#client.invoke(roomUrl(next, "add"), [{ ...task, call, by: markOf(run) }]),
    );
    return made.then(
      (result) => {
        observer.answered({
          atMs: process.seenNow(),
          call,
          error: undefined,
          run: (result as Result).run,
        });
        return result;
      },
      (error: unknown) => {
        observer.answered({ atMs: process.seenNow(), call, error: callError(error), run: undefined });
        throw error;
      },
    );
  }

  /** Sends numbered messages, going on where an earlier channel has left off. */
  async followChan(channel: Channel<Item, Item>, task: Task): Promise<void> {
    const run = this.#start(task);
    const { process } = this.#around;
    const { cursor, draining } = context();
    const pauseMs = task.everyMs ?? 200;
    try {
      for (let sequence = cursor === undefined ? 0 : Number(cursor) + 1; sequence * pauseMs < task.ms; sequence++) {
        await channel.send({ sequence, mark: markOf(run) }, { cursor: String(sequence) });
        if (!(await sleepUnless(process, pauseMs, channel.signal, draining)) && task.isStubborn !== true) return;
      }
    } finally {
      this.#end(run);
    }
  }

  /** Sends numbered messages, and takes those of the caller. */
  async talkChan(channel: Channel<Item, Item>, task: Task): Promise<void> {
    const run = this.#start(task);
    const { observer, process, app } = this.#around;
    observer.channelOpened({ atMs: process.seenNow(), channel: task.call, side: "method", app, run });
    const { signal, draining } = context();
    let error: string | undefined;
    const reading = (async () => {
      for await (const { sequence } of channel) {
        observer.channelGot({ atMs: process.seenNow(), channel: task.call, side: "method", sequence, run: undefined });
      }
    })();
    // It may break before anybody waits for it.
    reading.catch(() => {});
    try {
      const pauseMs = task.everyMs ?? 200;
      for (let sequence = 0; sequence * pauseMs < task.ms; sequence++) {
        await channel.send({ sequence, mark: markOf(run) });
        if (task.isStubborn === true) await sleep(process, pauseMs);
        else if (!(await sleepUnless(process, pauseMs, signal, draining))) break;
      }
      channel.closeWrite();
      await reading;
    } catch (thrown) {
      error = String(thrown);
    } finally {
      observer.channelClosed({ atMs: process.seenNow(), channel: task.call, side: "method", error });
      this.#end(run);
    }
  }
}

/** Methods of no resource, in one process. */
export function plainMethods({ app, process, observer, nextNumber }: Surroundings) {
  return {
    async once({ call, ms }: Task): Promise<Result> {
      const run = nextNumber();
      const { token } = context();
      observer.started({
        atMs: process.seenNow(),
        run,
        call,
        resource: "",
        app,
        epoch: 0,
        object: 0,
        token,
        parent: undefined,
        isStubborn: false,
      });
      await sleep(process, ms);
      observer.ended(run, process.seenNow());
      return { run, count: 0 };
    },
  };
}

export function roomUrl(resource: string, method: string): string {
  return resource === "" ? `/rooms/${method}` : `/rooms/${resource}/${method}`;
}
