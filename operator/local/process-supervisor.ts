/**
 * Runs the local instances of services as processes: start, prefixed output, exit, a graceful end.
 *
 * Each instance is a shell line in a process group (and session) of its own, so that what it starts (npm start → node)
 * ends with it, and so that Ctrl-C reaches only this process, which then stops all in order.
 *
 * Invariants: an instance has exited when no process of its group is left; `onExit` comes exactly once for each start,
 * also for one that failed; nothing runs longer than this process, however that ends (group-guardian.ts). What leaves
 * its group by intent (setsid, daemons) is out of reach.
 *
 * What to start, and when again, is for others (local-workload.ts).
 */

import { type ChildProcess, spawn } from "node:child_process";
import { statSync } from "node:fs";
import type { Writable } from "node:stream";
import type { Clock, TimerHandle } from "@leveros/protocol/clock/clock.ts";
import { GroupGuardian } from "./group-guardian.ts";
import { linePrefix, PrefixedOutput } from "./prefixed-output.ts";
import { groupIsAlive, onlyZombiesAreLeft, signalGroup } from "./process-group.ts";

export const gracePeriodMsDefault = 30_000;

/** How long after SIGKILL a group is waited for: one that is still there hangs in the kernel or has another owner. */
const killedWaitMsMax = 5000;
/** How long the last output is waited for once the group is gone: what left the group may hold its pipes open. */
const lastOutputWaitMs = 500;
const pollMsMin = 5;
const pollMsMax = 100;
/** Reading all of /proc costs milliseconds. */
const zombieCheckMsMin = 50;
const zombieCheckMsMax = 500;

/** Waits until the group is guarded, or ends if this process dies before; then becomes the command. */
const gate = 'read -r go <&3 && [ "$go" = go ] || exit 1; exec 3<&-; exec /bin/sh -c "$1"';

export interface InstanceSpec {
  /** `<service>-<n>-<4 random>`, never used before. */
  readonly id: string;
  readonly service: string;
  readonly environment: string;
  /** A line for `sh -c`. */
  readonly command: string;
  /** Absolute; the command runs in it. */
  readonly directory: string;
  /**
   * Added to this process's own variables, of which those that begin with `LEVER_` are left out. `LEVER_ENVIRONMENT`,
   * `LEVER_SERVICE` and `LEVER_INSTANCE` are set from the fields above.
   */
  readonly env: Readonly<Record<string, string>>;
  /** Between SIGTERM and SIGKILL; 30,000 unless set. */
  readonly gracePeriodMs?: number;
}

export interface InstanceExit {
  /** The exit code of the command; null if a signal ended it, or if it never ran. */
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  /** From its start to the end of its first process; 0 if it never ran. */
  readonly uptimeMs: number;
  /** Why it never ran. */
  readonly startError?: string;
  /** Set if processes of its group did not end even by SIGKILL. */
  readonly survivorsOf?: number;
}

export interface RunningInstance {
  readonly id: string;
  readonly spec: InstanceSpec;
  /** Of its first process, and of its group; undefined if it could not be started. */
  readonly pid: number | undefined;
  /** Resolves once nothing of it is left; never rejects. */
  readonly exited: Promise<InstanceExit>;
}

export interface InstanceObserver {
  /** The command runs. Not called for an instance that could not be started or ended before. */
  onStart?(instance: RunningInstance): void;
  /** Nothing of the instance is left. Exactly once, never from within `start`. */
  onExit?(instance: RunningInstance, exit: InstanceExit): void;
}

export interface ProcessSupervisorOptions {
  readonly clock: Clock;
  /** Where the instances' output goes; this process's own unless set. */
  readonly stdout?: Writable;
  readonly stderr?: Writable;
}

export class ProcessSupervisor {
  readonly #clock: Clock;
  readonly #stdout: { output: PrefixedOutput; isColoured: boolean };
  readonly #stderr: { output: PrefixedOutput; isColoured: boolean };
  readonly #guardian = new GroupGuardian();
  readonly #instances = new Map<string, Instance>();
  #stopped: Promise<void> | undefined;

  constructor(options: ProcessSupervisorOptions) {
    this.#clock = options.clock;
    const stdout = options.stdout ?? process.stdout;
    const stderr = options.stderr ?? process.stderr;
    const output = new PrefixedOutput(stdout);
    this.#stdout = { output, isColoured: hasColours(stdout) };
    this.#stderr = {
      output: stderr === stdout ? output : new PrefixedOutput(stderr),
      isColoured: hasColours(stderr),
    };
  }

  /** The instances of which something is left. */
  get instances(): readonly RunningInstance[] {
    return [...this.#instances.values()];
  }

  /**
   * Starts an instance. Never throws: one that cannot be started exits with a `startError`. Bounds of `spec` are the
   * caller's to check.
   */
  start(spec: InstanceSpec, observer: InstanceObserver = {}): RunningInstance {
    const instance = new Instance(spec, observer, this.#clock, (groupId) => {
      if (this.#instances.get(spec.id) === instance) this.#instances.delete(spec.id);
      if (groupId !== undefined) this.#guardian.release(groupId);
    });
    const problem = this.#problemOf(spec);
    if (problem !== undefined) {
      instance.fail(problem);
      return instance;
    }
    this.#instances.set(spec.id, instance);

    let child: ChildProcess;
    try {
      child = spawn("/bin/sh", ["-c", gate, "sh", spec.command], {
        cwd: spec.directory,
        env: environmentOf(spec),
        detached: true,
        stdio: ["ignore", "pipe", "pipe", "pipe"],
      });
    } catch (error) {
      // Bytes of value 0 in the command or a variable, or more than the system takes.
      instance.fail((error as Error).message);
      return instance;
    }
    // Without file handles there are no pipes; `error` follows.
    const gatePipe = child.stdio?.[3] as Writable | undefined;
    gatePipe?.on("error", () => {});
    for (const [pipe, { output, isColoured }] of [
      [child.stdout, this.#stdout],
      [child.stderr, this.#stderr],
    ] as const) {
      if (pipe) output.attach(pipe, linePrefix(spec.id, spec.service, isColoured));
    }
    instance.run(child);
    if (child.pid !== undefined) {
      this.#guardian.guard(child.pid, (error) => {
        if (error === undefined) gatePipe?.end("go\n", () => instance.opened());
        else instance.fail(`no process to guard it could be started: ${error.message}`);
      });
    }
    return instance;
  }

  /**
   * SIGTERM to the instance's group, SIGKILL when its grace period is over. Resolves when nothing of it is left.
   * Repeating it changes nothing.
   */
  stop(instance: RunningInstance): Promise<void> {
    const known = this.#instances.get(instance.id);
    known?.terminate();
    return instance.exited.then(() => {});
  }

  /** Stops all instances side by side and takes no new ones. Resolves when nothing of any of them is left. */
  stopAll(): Promise<void> {
    this.#stopped ??= this.#stopAll();
    return this.#stopped;
  }

  /** As `stopAll`, with SIGKILL at once. May follow on it: what a second Ctrl-C asks for. */
  killAll(): Promise<void> {
    const stopped = this.stopAll();
    for (const instance of this.#instances.values()) instance.kill();
    return stopped;
  }

  async #stopAll(): Promise<void> {
    await Promise.all([...this.#instances.values()].map((instance) => this.stop(instance)));
    // What left its group by intent may still hold pipes open; they must not hold this process.
    this.#stdout.output.close();
    this.#stderr.output.close();
    this.#guardian.close();
  }

  #problemOf(spec: InstanceSpec): string | undefined {
    if (this.#stopped !== undefined) return "all instances are being stopped";
    if (this.#instances.has(spec.id)) return `the id ${spec.id} is in use`;
    try {
      if (!statSync(spec.directory).isDirectory()) return `${spec.directory} is not a directory`;
    } catch (error) {
      const isMissing = (error as NodeJS.ErrnoException).code === "ENOENT";
      return isMissing ? `the directory ${spec.directory} is not there` : (error as Error).message;
    }
    return undefined;
  }
}

class Instance implements RunningInstance {
  readonly id: string;
  readonly spec: InstanceSpec;
  readonly exited: Promise<InstanceExit>;
  readonly #observer: InstanceObserver;
  readonly #clock: Clock;
  readonly #onGone: (groupId: number | undefined) => void;
  #resolveExited!: (exit: InstanceExit) => void;
  #child: ChildProcess | undefined;
  #startedAtMs = 0;
  #exit: InstanceExit | undefined;
  #startError: string | undefined;
  #isTerminated = false;
  #killedAtMs: number | undefined;
  #graceTimer: TimerHandle | undefined;
  #pollMs = pollMsMin;
  #zombieCheckMs = zombieCheckMsMin;
  #zombieCheckAtMs = 0;
  #hasClosedPipes = false;
  #onClosedPipes: (() => void) | undefined;
  /** From here on the group's id may be another's. */
  #isGone = false;
  #isDone = false;

  constructor(
    spec: InstanceSpec,
    observer: InstanceObserver,
    clock: Clock,
    onGone: (groupId: number | undefined) => void,
  ) {
    this.id = spec.id;
    this.spec = spec;
    this.#observer = observer;
    this.#clock = clock;
    this.#onGone = onGone;
    this.exited = new Promise((resolve) => {
      this.#resolveExited = resolve;
    });
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  run(child: ChildProcess): void {
    this.#child = child;
    this.#startedAtMs = this.#clock.now();
    child.once("error", (error) => {
      if (child.pid === undefined) this.fail(startErrorText(error));
    });
    child.once("exit", (code, signal) => this.#leaderExited(code, signal));
    child.once("close", () => {
      this.#hasClosedPipes = true;
      this.#onClosedPipes?.();
    });
  }

  /** The gate is open: from here on the command itself runs. */
  opened(): void {
    if (this.#exit !== undefined || this.#isTerminated || this.#isDone) return;
    this.#startedAtMs = this.#clock.now();
    this.#observer.onStart?.(this);
  }

  /** It could not be started, or must not run on. */
  fail(startError: string): void {
    this.#startError ??= startError;
    if (this.#child?.pid !== undefined) this.kill();
    else this.#clock.defer(() => this.#done({ code: null, signal: null, uptimeMs: 0, startError }));
  }

  terminate(): void {
    if (this.#isTerminated || this.#isGone || this.#child?.pid === undefined) return;
    this.#isTerminated = true;
    signalGroup(this.#child.pid, "SIGTERM");
    const gracePeriodMs = this.spec.gracePeriodMs ?? gracePeriodMsDefault;
    this.#graceTimer = this.#clock.setTimer(() => this.kill(), gracePeriodMs);
  }

  kill(): void {
    if (this.#isGone || this.#child?.pid === undefined) return;
    this.#isTerminated = true;
    this.#killedAtMs ??= this.#clock.now();
    this.#clearGraceTimer();
    signalGroup(this.#child.pid, "SIGKILL");
  }

  #leaderExited(code: number | null, signal: NodeJS.Signals | null): void {
    const uptimeMs = this.#clock.now() - this.#startedAtMs;
    this.#exit =
      this.#startError === undefined
        ? { code, signal, uptimeMs }
        : { code: null, signal: null, uptimeMs: 0, startError: this.#startError };
    // What it leaves behind ends too: an instance is all of its group.
    this.terminate();
    this.#zombieCheckAtMs = this.#clock.now() + this.#zombieCheckMs;
    this.#poll();
  }

  /** Only after the first process has exited: until then its group is there. */
  #poll(): void {
    const groupId = this.#child?.pid as number;
    const nowMs = this.#clock.now();
    let isGone = !groupIsAlive(groupId);
    if (!isGone && nowMs >= this.#zombieCheckAtMs) {
      isGone = onlyZombiesAreLeft(groupId);
      this.#zombieCheckMs = Math.min(this.#zombieCheckMs * 2, zombieCheckMsMax);
      this.#zombieCheckAtMs = nowMs + this.#zombieCheckMs;
    }
    if (isGone) {
      this.#isGone = true;
      return this.#awaitLastOutput(this.#exit as InstanceExit);
    }
    if (this.#killedAtMs !== undefined) {
      if (nowMs - this.#killedAtMs > killedWaitMsMax) {
        return this.#awaitLastOutput({ ...(this.#exit as InstanceExit), survivorsOf: groupId });
      }
      // Again, for what was being forked the last time.
      signalGroup(groupId, "SIGKILL");
    }
    this.#clock.setTimer(() => this.#poll(), this.#pollMs);
    this.#pollMs = Math.min(this.#pollMs * 2, pollMsMax);
  }

  /** The group is gone. Its last lines come before the news of its exit. */
  #awaitLastOutput(exit: InstanceExit): void {
    this.#clearGraceTimer();
    if (this.#hasClosedPipes) return this.#done(exit);
    const timer = this.#clock.setTimer(() => this.#done(exit), lastOutputWaitMs);
    this.#onClosedPipes = () => {
      this.#clock.clearTimer(timer);
      this.#done(exit);
    };
  }

  #done(exit: InstanceExit): void {
    if (this.#isDone) return;
    this.#isDone = true;
    this.#onGone(this.pid);
    this.#resolveExited(exit);
    this.#observer.onExit?.(this, exit);
  }

  #clearGraceTimer(): void {
    if (this.#graceTimer !== undefined) this.#clock.clearTimer(this.#graceTimer);
    this.#graceTimer = undefined;
  }
}

function environmentOf(spec: InstanceSpec): Record<string, string | undefined> {
  const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith("LEVER_"));
  return {
    ...Object.fromEntries(inherited),
    ...spec.env,
    LEVER_ENVIRONMENT: spec.environment,
    LEVER_SERVICE: spec.service,
    LEVER_INSTANCE: spec.id,
  };
}

function startErrorText(error: NodeJS.ErrnoException): string {
  switch (error.code) {
    case "EAGAIN":
    case "EMFILE":
    case "ENFILE":
      return `the system has no process or file handle left for it (${error.code})`;
    case "EACCES":
      return "its directory may not be entered, or /bin/sh may not be run (EACCES)";
    default:
      return error.message;
  }
}

/** Terminals know what they show and what NO_COLOR and FORCE_COLOR say; other streams get none. */
function hasColours(stream: Writable): boolean {
  return (stream as Partial<NodeJS.WriteStream>).hasColors?.() ?? false;
}
