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

type TaskKind = "timer" | "input";

/** A stop from within a callback. */
interface StopWithin {
  readonly points: number;
  readonly onStop: () => void;
}

interface Task {
  readonly kind: TaskKind;
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
  #backlog: Task[] = [];
  #isCatchingUp = false;
  /** A turn that is stopped from within: until `pointsLeft` is used up, it sees `seenMs`. */
  #within: { readonly seenMs: number; pointsLeft: number } | undefined;
  /** The next turn is to be stopped from within. */
  #stopWithin: StopWithin | undefined;
  /** Ends such a stop. */
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
      defer: (callback) => this.post(0, callback),
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

  #readClock(): number {
    const within = this.#within;
    if (within === undefined) return this.world.now();
    if (within.pointsLeft-- <= 0) this.#within = undefined;
    return this.#within?.seenMs ?? this.world.now();
  }

  /** A write has left: from here on it may be later. */
  wrote(): void {
    const within = this.#within;
    if (within !== undefined && within.pointsLeft-- <= 0) this.#within = undefined;
  }

  #setTimer(callback: () => void, delayMs: number): TimerHandle {
    if (Number.isNaN(delayMs)) throw new RangeError("setTimer: delayMs is NaN, expected a number of milliseconds");
    const { machine } = this;
    const wait = Math.max(delayMs, 0);
    const dueAtMs = machine.monotonicMs(this.seenNow()) + wait;
    const task: Task = { kind: "timer", callback, dueAtMs, worldTimer: undefined };
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
  post(delayMs: number, callback: () => void): void {
    this.world.after(delayMs, () => this.run(callback));
  }

  /** Runs `callback` in this process: now, or when it can again. For input that is there. */
  run(callback: () => void): void {
    this.#due({ kind: "input", callback, dueAtMs: 0, worldTimer: undefined });
  }

  #due(task: Task): void {
    if (!this.#isAlive || task.callback === undefined) return;
    const stop = this.#stopWithin;
    if (stop !== undefined && !this.isStopped) {
      this.#stopWithin = undefined;
      this.#sleepWithin(task, stop);
    } else if (this.isStopped || this.#isCatchingUp) this.#backlog.push(task);
    else this.#execute(task);
  }

  #execute(task: Task): void {
    const { callback } = task;
    task.callback = undefined;
    if (callback === undefined) return;
    if (task.kind === "timer" && this.machine.monotonicMs(this.world.now()) < task.dueAtMs - 1e-6) {
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
    this.#order();
    this.#catchUp();
  }

  /** The loop of a process that wakes: it looks at timers first, or was about to look at its input. */
  #order(): void {
    const order = this.world.random.integer(0, 2);
    if (order === 0) return;
    const first: TaskKind = order === 1 ? "timer" : "input";
    this.#backlog = [
      ...this.#backlog.filter(({ kind }) => kind === first),
      ...this.#backlog.filter(({ kind }) => kind !== first),
    ];
  }

  #catchUp(): void {
    if (this.#isCatchingUp || this.#backlog.length === 0) return;
    this.#isCatchingUp = true;
    const next = () => {
      if (!this.#isAlive) return;
      if (this.isStopped) {
        this.#isCatchingUp = false;
        return;
      }
      const task = this.#backlog.shift();
      if (task === undefined) {
        this.#isCatchingUp = false;
        return;
      }
      this.world.after(0, next);
      this.#execute(task);
    };
    this.world.after(0, next);
  }

  /**
   * The next callback is stopped within, after `points` readings of a clock and writes, until `goWithin`. `onStop` is
   * called when it begins.
   */
  stopWithin(points: number, onStop: () => void): void {
    this.#stopWithin = { points, onStop };
  }

  goWithin(): void {
    this.#stopWithin = undefined;
    this.#wake?.();
  }

  #sleepWithin(task: Task, { points, onStop }: StopWithin): void {
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
        this.#backlog.unshift(task);
        return;
      }
      this.#within = { seenMs, pointsLeft: points };
      this.#isCatchingUp = true;
      this.#execute(task);
      // The turn ends with its promises, which is before the world's next step.
      world.after(0, () => {
        this.#within = undefined;
        this.#isCatchingUp = false;
        this.#order();
        this.#catchUp();
      });
    };
  }

  kill(): void {
    if (!this.#isAlive) return;
    this.#isAlive = false;
    this.#backlog = [];
    for (const listener of [...this.onDeath]) listener();
    this.onDeath.clear();
  }
}
