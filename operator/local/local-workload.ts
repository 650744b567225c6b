/**
 * Keeps N instances of one service running, as a ReplicaSet does for pods.
 *
 * Each of the N places has a number; what runs in it has an id of its own, `<service>-<n>-<4 random>`, and a new one
 * after each restart. An instance that ends is started again after 0.5 s, doubling to 30 s while it keeps ending, and
 * after 0.5 s again once one was up for 60 s. Whether it ended well or badly makes no difference: a service is to run.
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

export interface LocalWorkloadOptions {
  readonly service: string;
  readonly environment: string;
  /** A line for `sh -c`. */
  readonly command: string;
  /** Absolute. */
  readonly directory: string;
  readonly env: Readonly<Record<string, string>>;
  /** Between SIGTERM and SIGKILL; 30,000 unless set. */
  readonly gracePeriodMs?: number;
  readonly supervisor: Pick<ProcessSupervisor, "start" | "stop">;
  readonly clock: Clock;
  readonly random: Random;
  /**
   * Makes what an instance needs before it starts, such as its agent, and returns the variables that only it gets
   * (`LEVER_AGENT`). If it fails the instance counts as one that could not be started.
   */
  prepareInstance?(id: string): Promise<Readonly<Record<string, string>>>;
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
  readonly #options: LocalWorkloadOptions;
  /** By number; one that is being removed stays until nothing is left of it. */
  readonly #places = new Map<number, Place>();
  readonly #usedIds = new Set<string>();
  #lastMessage: string | undefined;
  #isStopped = false;

  /** Has no instances until `scale` is called. */
  constructor(options: LocalWorkloadOptions) {
    this.service = options.service;
    this.environment = options.environment;
    this.#options = options;
  }

  /** How many instances are to run. */
  get replicas(): number {
    let replicas = 0;
    for (const place of this.#places.values()) if (!place.isRemoved) replicas++;
    return replicas;
  }

  /** In the order of their numbers. */
  status(): InstanceStatus[] {
    const nowMs = this.#options.clock.now();
    return [...this.#places.values()]
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
    for (let n = 1; missing > 0; n++) {
      if (this.#places.has(n)) continue;
      missing--;
      this.#add(n);
    }
    const kept = [...this.#places.values()].filter((place) => !place.isRemoved).sort((a, b) => b.n - a.n);
    for (const place of kept.slice(0, Math.max(0, -missing))) this.#remove(place);
  }

  /** Stops all instances, for good. Resolves when nothing of any of them is left. Repeating it changes nothing. */
  async stop(): Promise<void> {
    this.#isStopped = true;
    const places = [...this.#places.values()];
    for (const place of places) this.#remove(place);
    await Promise.all(places.map((place) => place.gone.promise));
  }

  #add(n: number): void {
    const place: Place = {
      n,
      id: "",
      state: "Starting",
      instance: undefined,
      isRemoved: false,
      failures: 0,
      starts: 0,
      lastExit: undefined,
      timer: undefined,
      nextStartAtMs: 0,
      gone: Promise.withResolvers(),
    };
    this.#places.set(n, place);
    void this.#start(place);
  }

  #remove(place: Place): void {
    if (place.isRemoved) return;
    place.isRemoved = true;
    if (place.state === "BackOff") {
      this.#options.clock.clearTimer(place.timer);
      this.#forget(place);
      return;
    }
    // While it is being prepared `instance` is not set, and #start looks at isRemoved.
    if (place.instance !== undefined) void this.#options.supervisor.stop(place.instance);
    this.#enter(place, "Stopping");
  }

  #forget(place: Place): void {
    this.#places.delete(place.n);
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
