/**
 * Keeps N instances of one service running, as a ReplicaSet does for pods.
 *
 * Each of the N places has a number; what runs in it has an id of its own, `<service>-<n>-<4 random>`, and a new one
 * after each restart. An instance that ends is started again after 0.5 s, doubling to 30 s while it keeps ending, and
 * after 0.5 s again once one was up for 60 s. Whether it ended well or badly makes no difference: a service is to run.
 *
 * A replacement runs beside the one that it is to replace until it serves; only then the old one is asked to end. One
 * that does not come up is given up, and the old one goes on.
 *
 * Pure but for what it is given: time, chance, and who runs instances (process-supervisor.ts).
 */

import { constants } from "node:os";
import type { Clock, Random, TimerHandle } from "@leveros/protocol/clock/clock.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import type { InstanceExit, InstanceSpec, ProcessSupervisor, RunningInstance } from "./process-supervisor.ts";

export const replicasMax = 100;

const backOffMsMin = 500;
const backOffMsMax = 30_000;
/** One that was up this long did not fail at its start. */
const stableUptimeMs = 60_000;
/** A replacement that does not serve by then is given up. */
export const replacementMsMax = 60_000;
/** A restart of all waits this long for an old instance to end before it goes on with the next. */
const goneWaitMs = 5000;

/**
 * `Starting` what it needs is prepared; `Running` its command runs; `BackOff` it waits to be started again;
 * `Stopping` it was asked to end and something of it is left.
 */
export type InstanceState = "Starting" | "Running" | "BackOff" | "Stopping";

export interface InstanceStatus {
  /** Its place: 1 to N. */
  readonly n: number;
  /** In `BackOff` the id of the one that ended. */
  readonly id: string;
  readonly state: InstanceState;
  readonly pid: number | undefined;
  /** How often something was started again in this place. */
  readonly restarts: number;
  /** How the last one in this place ended. */
  readonly lastExit: InstanceExit | undefined;
  /** In `BackOff`: until the next start. */
  readonly nextStartInMs: number | undefined;
}

/** What runs, and how. */
export interface LocalProgram {
  /** A line for `sh -c`. */
  readonly command: string;
  /** Absolute. */
  readonly directory: string;
  /** Between SIGTERM and SIGKILL; 30,000 unless set. */
  readonly gracePeriodMs?: number;
}

/** An instance that has taken the place of another. */
export interface Replacement {
  readonly id: string;
  /** Resolves when nothing of the old one is left. */
  readonly gone: Promise<void>;
}

export interface LocalWorkloadOptions extends LocalProgram {
  readonly service: string;
  readonly environment: string;
  readonly env: Readonly<Record<string, string>>;
  readonly supervisor: Pick<ProcessSupervisor, "start" | "stop">;
  readonly clock: Clock;
  readonly random: Random;
  /**
   * Makes what an instance needs before it starts, such as its agent, and returns the variables that only it gets
   * (`LEVER_AGENT`). If it fails the instance counts as one that could not be started.
   */
  prepareInstance?(id: string): Promise<Readonly<Record<string, string>>>;
  /** The instance is asked to end. Not called for one whose command does not run. */
  onStopping?(id: string): void;
  /** The instance has ended and its id will not come again: once for each `prepareInstance`, also if that failed. */
  onExit?(id: string, exit: InstanceExit): void;
  /** The state of some instance has changed. */
  onChange?(): void;
  /**
   * One line for people about an instance that ended or could not be started, and what to do. The same failure of
   * the same service comes once, until it changes or an instance was up for 60 s.
   */
  onMessage?(line: string): void;
}

interface Place {
  readonly n: number;
  id: string;
  state: InstanceState;
  instance: RunningInstance | undefined;
  isRemoved: boolean;
  /** Whose place it is to take, until it serves. */
  predecessor: Place | undefined;
  successor: Place | undefined;
  /** Of a successor: settled when it serves, or is given up. */
  readonly came: PromiseWithResolvers<void> | undefined;
  /** Ends in a row, none of them after a stable uptime. */
  failures: number;
  starts: number;
  lastExit: InstanceExit | undefined;
  timer: TimerHandle | undefined;
  nextStartAtMs: number;
  readonly gone: PromiseWithResolvers<void>;
}

export class LocalWorkload {
  readonly service: string;
  readonly environment: string;
  #options: LocalWorkloadOptions;
  /** One that is being removed stays until nothing is left of it. */
  readonly #places = new Set<Place>();
  /** Instances that others run, by id: their numbers. */
  readonly #attached = new Map<string, number>();
  readonly #usedIds = new Set<string>();
  #lastMessage: string | undefined;
  #restarts = 0;
  #isStopped = false;

  /** Has no instances until `scale` is called. */
  constructor(options: LocalWorkloadOptions) {
    this.service = options.service;
    this.environment = options.environment;
    this.#options = options;
  }

  /** How many instances are to run. */
  get replicas(): number {
    return this.#kept().length;
  }

  /** In the order of their numbers; of one place first what is to go. */
  status(): InstanceStatus[] {
    const nowMs = this.#options.clock.now();
    return [...this.#places]
      .sort((a, b) => a.n - b.n)
      .map((place) => ({
        n: place.n,
        id: place.id,
        state: place.state,
        pid: place.state === "BackOff" ? undefined : place.instance?.pid,
        restarts: Math.max(0, place.starts - 1),
        lastExit: place.lastExit,
        nextStartInMs: place.state === "BackOff" ? Math.max(0, place.nextStartAtMs - nowMs) : undefined,
      }));
  }

  /**
   * Starts or stops as many instances as it takes to have `replicas`: 0 to 100, else INVALID_OPTION. New ones take the
   * lowest free numbers, the highest ones are stopped. Ignored after `stop`.
   */
  scale(replicas: number): void {
    if (!Number.isInteger(replicas) || replicas < 0 || replicas > replicasMax) {
      throw new LeverError(
        "INVALID_OPTION",
        `replicas of ${this.service} is ${replicas}, expected a whole number from 0 to ${replicasMax}`,
        { details: { option: "replicas", max: replicasMax } },
      );
    }
    if (this.#isStopped) return;
    let missing = replicas - this.replicas;
    for (; missing > 0; missing--) this.#add(this.#freeNumber());
    const kept = this.#kept().sort((a, b) => b.n - a.n);
    for (const place of kept.slice(0, Math.max(0, -missing))) this.#remove(place);
  }

  /** From the next start of an instance on. */
  changeProgram({ command, directory, gracePeriodMs }: LocalProgram): void {
    const { gracePeriodMs: _, ...rest } = this.#options;
    this.#options = { ...rest, command, directory, ...(gracePeriodMs === undefined ? {} : { gracePeriodMs }) };
  }

  /** The instance takes calls. */
  serving(id: string): void {
    const place = this.#find(id);
    if (place === undefined || place.isRemoved) return;
    const { predecessor } = place;
    if (predecessor === undefined) return;
    place.predecessor = undefined;
    predecessor.successor = undefined;
    this.#remove(predecessor);
    place.came?.resolve();
  }

  /**
   * Starts a new instance in the place of the named one, which is asked to end once the new one serves; resolves then.
   * One that waits to be started again is started at once instead. Throws INVALID_ARGUMENTS if there is no such
   * instance. Rejects (effect ran) if the new one ends before it serves or does not serve within 60 s: the old one goes
   * on then.
   */
  async replace(id: string): Promise<Replacement> {
    const place = this.#find(id);
    if (place === undefined || place.isRemoved || place.predecessor !== undefined) {
      throw new LeverError("INVALID_ARGUMENTS", `${this.environment}/${this.service} has no instance ${id} that runs`, {
        effect: "none",
      });
    }
    const { clock } = this.#options;
    if (place.state === "BackOff") {
      clock.clearTimer(place.timer);
      place.failures = 0;
      void this.#start(place);
      return { id: place.id, gone: Promise.resolve() };
    }
    // It has not begun to run yet.
    if (place.state === "Starting") return { id: place.id, gone: Promise.resolve() };
    if (place.successor !== undefined) this.#giveUp(place.successor, "another one was asked for meanwhile");
    const successor = this.#add(place.n, place);
    const timer = clock.setTimer(
      () => this.#giveUp(successor, `it did not serve within ${replacementMsMax / 1000} s`),
      replacementMsMax,
    );
    try {
      await successor.came?.promise;
    } finally {
      clock.clearTimer(timer);
    }
    return { id: successor.id, gone: place.gone.promise };
  }

  /**
   * Replaces all instances, one after the other; a later restart goes before one that is not through. Resolves with
   * whether all are new; the first one that does not come up ends it, and is told of by `onMessage`.
   */
  async restart(): Promise<boolean> {
    const restart = ++this.#restarts;
    for (const place of this.#kept().sort((a, b) => a.n - b.n)) {
      if (place.isRemoved) continue;
      try {
        const { gone } = await this.replace(place.id);
        await this.#atMost(goneWaitMs, gone);
      } catch (error) {
        if (restart === this.#restarts && !place.isRemoved) {
          this.#options.onMessage?.(
            `${this.service}: ${LeverError.from(error).rawMessage}. ${place.id} goes on as it was.`,
          );
          return false;
        }
      }
      if (restart !== this.#restarts || this.#isStopped) return false;
    }
    return true;
  }

  /** An id for an instance that someone else runs, with a number of its own until `detach`. */
  attach(): string {
    const n = this.#freeNumber();
    const id = this.#newId(n);
    this.#attached.set(id, n);
    return id;
  }

  detach(id: string): void {
    this.#attached.delete(id);
  }

  /** Stops all instances, for good. Resolves when nothing of any of them is left. Repeating it changes nothing. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    const places = [...this.#places];
    for (const place of places) this.#remove(place);
    await Promise.all(places.map((place) => place.gone.promise));
  }

  /** Those that are to stay: neither removed nor a replacement that does not serve yet. */
  #kept(): Place[] {
    return [...this.#places].filter((place) => !place.isRemoved && place.predecessor === undefined);
  }

  #find(id: string): Place | undefined {
    for (const place of this.#places) if (place.id === id) return place;
    return undefined;
  }

  #freeNumber(): number {
    const taken = new Set([...[...this.#places].map(({ n }) => n), ...this.#attached.values()]);
    let n = 1;
    while (taken.has(n)) n++;
    return n;
  }

  async #atMost(ms: number, promise: Promise<void>): Promise<void> {
    const { clock } = this.#options;
    let timer: TimerHandle | undefined;
    const late = new Promise<void>((resolve) => {
      timer = clock.setTimer(resolve, ms);
    });
    await Promise.race([promise, late]);
    clock.clearTimer(timer);
  }

  /** The replacement is not waited for any more, and ends. */
  #giveUp(successor: Place, why: string): void {
    this.#failed(successor, why);
    this.#remove(successor);
  }

  #failed(successor: Place, why: string): void {
    if (successor.predecessor?.successor === successor) successor.predecessor.successor = undefined;
    successor.predecessor = undefined;
    successor.came?.reject(
      new LeverError("INSTANCE_UNREACHABLE", `the replacement ${successor.id} did not come up: ${why}`, {
        effect: "ran",
      }),
    );
  }

  #add(n: number, predecessor?: Place): Place {
    const place: Place = {
      n,
      id: "",
      state: "Starting",
      instance: undefined,
      isRemoved: false,
      predecessor,
      successor: undefined,
      came: predecessor === undefined ? undefined : Promise.withResolvers(),
      failures: 0,
      starts: predecessor?.starts ?? 0,
      lastExit: undefined,
      timer: undefined,
      nextStartAtMs: 0,
      gone: Promise.withResolvers(),
    };
    if (predecessor !== undefined) predecessor.successor = place;
    this.#places.add(place);
    void this.#start(place);
    return place;
  }

  #remove(place: Place): void {
    if (place.isRemoved) return;
    place.isRemoved = true;
    if (place.successor !== undefined) this.#giveUp(place.successor, "its place was taken away");
    if (place.predecessor !== undefined) this.#failed(place, "its place was taken away");
    if (place.state === "BackOff") {
      this.#options.clock.clearTimer(place.timer);
      this.#forget(place);
      return;
    }
    // While it is being prepared `instance` is not set, and #start looks at isRemoved.
    if (place.instance !== undefined) {
      this.#options.onStopping?.(place.id);
      void this.#options.supervisor.stop(place.instance);
    }
    this.#enter(place, "Stopping");
  }

  #forget(place: Place): void {
    this.#places.delete(place);
    this.#options.onChange?.();
    place.gone.resolve();
  }

  #enter(place: Place, state: InstanceState): void {
    place.state = state;
    this.#options.onChange?.();
  }

  async #start(place: Place): Promise<void> {
    const { service, environment, command, directory, gracePeriodMs, supervisor } = this.#options;
    place.id = this.#newId(place.n);
    place.instance = undefined;
    place.starts++;
    this.#enter(place, "Starting");
    let env = this.#options.env;
    try {
      env = { ...env, ...(await this.#options.prepareInstance?.(place.id)) };
    } catch (error) {
      const startError = LeverError.from(error).rawMessage;
      return this.#ended(place, { code: null, signal: null, uptimeMs: 0, startError });
    }
    if (place.isRemoved) return this.#ended(place, { code: null, signal: null, uptimeMs: 0 });
    const spec: InstanceSpec = {
      id: place.id,
      service,
      environment,
      command,
      directory,
      env,
      ...(gracePeriodMs === undefined ? {} : { gracePeriodMs }),
    };
    place.instance = supervisor.start(spec, {
      onStart: () => {
        if (!place.isRemoved) this.#enter(place, "Running");
      },
      onExit: (_, exit) => this.#ended(place, exit),
    });
  }

  #ended(place: Place, exit: InstanceExit): void {
    const { clock } = this.#options;
    place.instance = undefined;
    place.lastExit = exit;
    this.#options.onExit?.(place.id, exit);
    if (place.isRemoved) {
      if (exit.survivorsOf !== undefined) this.#options.onMessage?.(survivorsMessage(place.id, exit.survivorsOf));
      this.#forget(place);
      return;
    }
    if (place.predecessor !== undefined) {
      this.#options.onMessage?.(exitMessage(this.#options, place.id, exit));
      this.#failed(place, "it ended before it served");
      this.#forget(place);
      return;
    }
    if (place.successor !== undefined) {
      // What is being started is no replacement any more: it is all that there is.
      place.successor.predecessor = undefined;
      place.successor.came?.resolve();
      this.#options.onMessage?.(exitMessage(this.#options, place.id, exit));
      this.#forget(place);
      return;
    }
    const wasStable = exit.uptimeMs >= stableUptimeMs;
    if (wasStable) place.failures = 0;
    const backOffMs = Math.min(backOffMsMin * 2 ** Math.min(place.failures, 30), backOffMsMax);
    place.failures++;
    place.nextStartAtMs = clock.now() + backOffMs;
    place.timer = clock.setTimer(() => void this.#start(place), backOffMs);
    this.#report(place.id, exit, wasStable, backOffMs);
    this.#enter(place, "BackOff");
  }

  #report(id: string, exit: InstanceExit, wasStable: boolean, backOffMs: number): void {
    const failure = `${exit.startError} ${exit.code} ${exit.signal} ${exit.survivorsOf !== undefined}`;
    if (failure === this.#lastMessage && !wasStable) return;
    this.#lastMessage = failure;
    const next = `It is started again in ${backOffMs / 1000} s, then after longer pauses of up to ${backOffMsMax / 1000} s.`;
    this.#options.onMessage?.(`${exitMessage(this.#options, id, exit)} ${next}`);
    if (exit.survivorsOf !== undefined) this.#options.onMessage?.(survivorsMessage(id, exit.survivorsOf));
  }

  #newId(n: number): string {
    const { service } = this.#options;
    let number = Math.floor(this.#options.random() * idSuffixCount);
    while (this.#usedIds.has(`${service}-${n}-${idSuffix(number)}`)) number = (number + 1) % idSuffixCount;
    const id = `${service}-${n}-${idSuffix(number)}`;
    this.#usedIds.add(id);
    return id;
  }
}

/** Without vowels and what looks alike, so that no words come out and ids can be read aloud; as Kubernetes does. */
const idLetters = "bcdfghjklmnpqrstvwxz2456789";
const idSuffixLength = 4;
/** Half a million; at the longest back-off that is half a year of restarts in one place. */
const idSuffixCount = idLetters.length ** idSuffixLength;

function idSuffix(number: number): string {
  let suffix = "";
  for (let rest = number; suffix.length < idSuffixLength; rest = Math.floor(rest / idLetters.length)) {
    suffix += idLetters[rest % idLetters.length];
  }
  return suffix;
}

/** What ended, how, and what to do: `hello-1-x7k2 ended with exit code 1 after 0.2 s (node main.ts, in /src/hello). …` */
export function exitMessage(
  workload: Pick<LocalWorkloadOptions, "service" | "command" | "directory">,
  id: string,
  exit: InstanceExit,
): string {
  const command = shortened(workload.command);
  const where = `(${command}, in ${workload.directory})`;
  if (exit.startError !== undefined) {
    return (
      `${workload.service}: ${id} could not be started ${where}: ${shortened(exit.startError)}. ` +
      "Correct leveros.dev/dev-command or leveros.dev/dev-directory in its manifest."
    );
  }
  const seconds = exit.uptimeMs < 10_000 ? (exit.uptimeMs / 1000).toFixed(1) : Math.round(exit.uptimeMs / 1000);
  const signal = exit.signal ?? signalOf(exit.code);
  const how =
    exit.code === null ? `by ${signal}` : `with exit code ${exit.code}${signal === null ? "" : ` (${signal})`}`;
  return `${workload.service}: ${id} ended ${how} after ${seconds} s ${where}. ${remedyFor(exit.code, signal)}`;
}

/** A shell that waits for its command says 128 + the number of the signal that ended it. */
function signalOf(code: number | null): NodeJS.Signals | null {
  const names = Object.keys(constants.signals) as NodeJS.Signals[];
  return names.find((name) => constants.signals[name] + 128 === code) ?? null;
}

function remedyFor(code: number | null, signal: NodeJS.Signals | null): string {
  if (signal === "SIGKILL") return "Something ended it from outside: the system does so when memory runs out.";
  if (signal !== null) return "Its last lines of output say more.";
  switch (code) {
    case 0:
      return "A service has to keep running: the command must not put it into the background, nor end when it is idle.";
    case 126:
      return "The shell found the command but may not run it: check that the file is executable.";
    case 127:
      return "The shell did not find the command, or one that it runs: install it, or correct leveros.dev/dev-command.";
    default:
      return "Its last lines of output say why.";
  }
}

function survivorsMessage(id: string, groupId: number): string {
  return (
    `${id}: processes of its group ${groupId} did not end by SIGKILL: they hang in the system or are another user's. ` +
    "Look for that PGID in the output of ps -eo pid,pgid,stat,user,args."
  );
}

const shownLengthMax = 200;

/** On one line, and not longer than people read. */
function shortened(text: string): string {
  const line = text.replace(/\s+/g, " ").trim();
  return line.length > shownLengthMax ? `${line.slice(0, shownLengthMax)}…` : line;
}
