/**
 * A process of the simulated world: what it runs are callbacks, one after another, and all of them can be stopped.
 *
 * - stopped (SIGSTOP, a suspended machine): timers, input and so promises do nothing; afterwards all that is due runs in
 *   a burst, in an order that chance gives (timers first, input first, as it came);
 * - stopped within a callback: its clock jumps at one of its readings of a clock or after one of its writes;
 * - dead: nothing that it had started ever runs again.
 *
 * Invariant: no callback of a process runs in any other way than by `run` here.
 */

import type { Clock, TimerHandle } from "@leveros/protocol/clock/clock.ts";
import type { LeaseClock } from "@leveros/protocol/clock/lease-clock.ts";
import type { Machine } from "./machine.ts";
import type { World } from "./world.ts";

/** In the order in which Node's loop looks after them. */
const phases = ["timer", "input", "check"] as const;
type Phase = (typeof phases)[number];

/** A stop that waits for its moment: a callback, one of those that were posted with `tag` if there is one. */
interface Stop {
  readonly tag: string | undefined;
  readonly onStop: () => void;
  /** From within the callback, after so many readings of a clock and writes; undefined: behind its first write. */
  readonly points: number | undefined;
}

interface Task {
  readonly phase: Phase;
  readonly tag: string | undefined;
  /** Undefined once it was cancelled. */
  callback: (() => void) | undefined;
  /** Of a timer: on the machine's monotonic clock. */
  readonly dueAtMs: number;
  worldTimer: TimerHandle;
}

export class SimProcess {
  readonly world: World;
  readonly machine: Machine;
  readonly name: string;
  readonly number: number;
  readonly clock: Clock;
  readonly leaseClock: LeaseClock;
  /** Called once, when it dies: its connections close then. */
  readonly onDeath = new Set<() => void>();
  #isAlive = true;
  #stops = 0;
  #backlog: Record<Phase, Task[]> = { timer: [], input: [], check: [] };
  #isCatchingUp = false;
  /** A turn that is stopped from within: until `pointsLeft` is used up, it sees `seenMs`. */
  #within: { readonly seenMs: number; pointsLeft: number } | undefined;
  /** When the turn began that was stopped from within, while it goes on. */
  #tornSinceMs: number | undefined;
  #awaitedStop: Stop | undefined;
  /** In a turn that is to be stopped behind a write. */
  #stopsAtWrite: Stop | undefined;
  /** Ends a stop that was awaited. */
  #wake: (() => void) | undefined;

  constructor(world: World, machine: Machine, name: string) {
    this.world = world;
    this.machine = machine;
    this.name = name;
    this.number = world.nextProcessNumber();
    this.clock = {
      now: () => this.machine.monotonicMs(this.#readClock()),
      setTimer: (callback, delayMs) => this.#setTimer(callback, delayMs),
      clearTimer: (timer) => this.#clearTimer(timer as Task),
      defer: (callback) => {
        const task: Task = { phase: "check", tag: undefined, callback, dueAtMs: 0, worldTimer: undefined };
        world.after(0, () => this.#due(task));
      },
    };
    this.leaseClock = { read: () => this.machine.read(this.#readClock()) };
  }

  get isAlive(): boolean {
    return this.#isAlive;
  }

  get isStopped(): boolean {
    return this.#stops > 0;
  }

  // ---------------------------------------------------------------- time

  /** True time as what runs now sees it. */
  seenNow(): number {
    return this.#within?.seenMs ?? this.world.now();
  }

  /**
   * True time as what runs now saw it when its turn began: what it decided by then it does, though it may have been
   * stopped in between.
   */
  turnBeganMs(): number {
    return this.#tornSinceMs ?? this.world.now();
  }

  #readClock(): number {
    const within = this.#within;
    if (within === undefined) return this.world.now();
    if (within.pointsLeft-- <= 0) this.#within = undefined;
    return this.#within?.seenMs ?? this.world.now();
  }

  /** A write has left: from here on it may be later. */
  wrote(): void {
    const stop = this.#stopsAtWrite;
    if (stop !== undefined) {
      this.#stopsAtWrite = undefined;
      this.stop();
      this.#wake = () => {
        this.#wake = undefined;
        this.go();
      };
      stop.onStop();
    }
    const within = this.#within;
    if (within !== undefined && within.pointsLeft-- <= 0) this.#within = undefined;
  }

  #setTimer(callback: () => void, delayMs: number): TimerHandle {
    if (Number.isNaN(delayMs)) throw new RangeError("setTimer: delayMs is NaN, expected a number of milliseconds");
    const { machine } = this;
    const wait = Math.max(delayMs, 0);
    const dueAtMs = machine.monotonicMs(this.seenNow()) + wait;
    const task: Task = { phase: "timer", tag: undefined, callback, dueAtMs, worldTimer: undefined };
    this.#await(task);
    return task;
  }

  #await(task: Task): void {
    const { machine, world } = this;
    const leftMs = (task.dueAtMs - machine.monotonicMs(world.now())) / machine.face.rate;
    task.worldTimer = world.after(Math.max(leftMs, 0), () => {
      // It stood still meanwhile; what is not due when it wakes is awaited again.
      if (!machine.isSuspended && machine.monotonicMs(world.now()) < task.dueAtMs - 1e-6) this.#await(task);
      else this.#due(task);
    });
  }

  #clearTimer(task: Task | undefined): void {
    if (task?.callback === undefined) return;
    task.callback = undefined;
    this.world.cancel(task.worldTimer);
  }

  // ---------------------------------------------------------------- running

  /** Runs `callback` in this process, `delayMs` of true time from now, or when it can again. */
  post(delayMs: number, callback: () => void, tag?: string): void {
    this.world.after(delayMs, () => this.run(callback, tag));
  }

  /** Runs `callback` in this process: now, or when it can again. For input that is there. */
  run(callback: () => void, tag?: string): void {
    this.#due({ phase: "input", tag, callback, dueAtMs: 0, worldTimer: undefined });
  }

  #due(task: Task): void {
    if (!this.#isAlive || task.callback === undefined) return;
    if (this.isStopped || this.#isCatchingUp) {
      this.#backlog[task.phase].push(task);
      return;
    }
    const stop = this.#awaitedStop;
    if (stop !== undefined && (stop.tag === undefined || stop.tag === task.tag)) {
      this.#awaitedStop = undefined;
      if (stop.points !== undefined) return this.#sleepWithin(task, stop.points, stop.onStop);
      this.#stopsAtWrite = stop;
    }
    this.#execute(task);
  }

  #execute(task: Task): void {
    const { callback } = task;
    task.callback = undefined;
    if (callback === undefined) return;
    if (task.phase === "timer" && this.machine.monotonicMs(this.world.now()) < task.dueAtMs - 1e-6) {
      task.callback = callback;
      return this.#await(task);
    }
    const { world } = this;
    world.running = this;
    world.trace.mix(this.number ^ Math.round(world.now() * 1000));
    try {
      callback();
    } catch (error) {
      world.onUncaught(error, this);
    }
  }

  // ---------------------------------------------------------------- faults

  /** Stops it; each `stop` needs a `go`. */
  stop(): void {
    this.#stops++;
  }

  go(): void {
    if (this.#stops === 0 || --this.#stops > 0) return;
    this.#catchUp();
  }

  /** What a process does that wakes: its loop goes on where it was, which is at its timers or at its input. */
  #catchUp(): void {
    if (this.#isCatchingUp) return;
    this.#isCatchingUp = true;
    const { world } = this;
    let phase = world.random.integer(0, 1);
    let left = this.#backlog[phases[phase] as Phase].length;
    const next = () => {
      if (!this.#isAlive) return;
      for (let skipped = 0; left === 0; skipped++) {
        if (this.isStopped || skipped === phases.length) {
          this.#isCatchingUp = false;
          return;
        }
        phase = (phase + 1) % phases.length;
        left = this.#backlog[phases[phase] as Phase].length;
      }
      if (this.isStopped) {
        this.#isCatchingUp = false;
        return;
      }
      left--;
      const task = this.#backlog[phases[phase] as Phase].shift() as Task;
      world.after(0, next);
      this.#execute(task);
    };
    world.after(0, next);
  }

  /**
   * The next callback (of this tag) is stopped from within, after `points` readings of a clock and writes, until
   * `goOn`. `onStop` is called when it begins.
   */
  stopWithin(points: number, onStop: () => void, tag?: string): void {
    this.#awaitedStop = { tag, onStop, points };
  }

  /** It is stopped behind the next callback (of this tag) that writes, until `goOn`. */
  stopAfterWrite(onStop: () => void, tag?: string): void {
    this.#awaitedStop = { tag, onStop, points: undefined };
  }

  /** Ends a stop that was awaited, or awaits it no more. */
  goOn(): void {
    this.#awaitedStop = undefined;
    this.#stopsAtWrite = undefined;
    this.#wake?.();
  }

  #sleepWithin(task: Task, points: number, onStop: () => void): void {
    const { world } = this;
    const seenMs = world.now();
    this.stop();
    onStop();
    this.#wake = () => {
      this.#wake = undefined;
      if (!this.#isAlive) return;
      this.#stops--;
      if (this.isStopped) {
        // It is stopped from outside too, and goes on where it was when that is over.
        this.#backlog[task.phase].unshift(task);
        return;
      }
      this.#within = { seenMs, pointsLeft: points };
      this.#tornSinceMs = seenMs;
      this.#isCatchingUp = true;
      this.#execute(task);
      // The turn ends with its promises, which is before the world's next step.
      world.after(0, () => {
        this.#within = undefined;
        this.#tornSinceMs = undefined;
        this.#isCatchingUp = false;
        this.#catchUp();
      });
    };
  }

  kill(): void {
    if (!this.#isAlive) return;
    this.#isAlive = false;
    this.#backlog = { timer: [], input: [], check: [] };
    for (const listener of [...this.onDeath]) listener();
    this.onDeath.clear();
  }
}
