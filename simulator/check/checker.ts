/**
 * Judges a history by the promises of ownership, at every event. It knows neither what went wrong in the world nor how
 * the cores work; what it is told besides is which promises hold in this world (`Expectations`).
 *
 * Numbers of promises are those of `docs/guarantees.md`.
 */

import { mintedAtMs } from "../../clients/node/token.ts";
import type {
  AppName,
  CallAnswer,
  CallError,
  CallMade,
  ChannelClose,
  ChannelItem,
  ChannelOpen,
  ChannelSide,
  FollowedItem,
  Observer,
  ResourceClose,
  ResourceOpen,
  RunStart,
} from "./history.ts";

export interface Violation {
  readonly promise: string;
  readonly atMs: number;
  readonly text: string;
}

export interface Expectations {
  /** Only planned events come: no call fails, methods never overlap, nothing is lost. */
  readonly onlyPlanned: boolean;
  /** The longest that a resource which is called all the time is not served. */
  readonly unservedMsMax: number;
}

/** How long before another holder's first call the methods of the one before were aborted, at the least. */
const abortLeadMs = 3900;
/** Nothing that a stopped process missed lies further back: the longest lease, seen from outside. */
const leaseReachMs = 16_000;
/** Above the caller's own timeout: its client waits a quarter of a second longer than its agent. */
const answerSlackMs = 1500;

interface Tenure {
  readonly app: AppName;
  readonly epoch: number;
  firstMs: number;
  lastMs: number;
  lastWhat: string;
}

interface Run extends RunStart {
  readonly tenure: Tenure | undefined;
  abortedAtMs: number | undefined;
  endedAtMs: number | undefined;
}

interface Resource {
  readonly name: string;
  /** In the order of their first event. */
  readonly tenures: Tenure[];
  readonly running: Set<Run>;
  lastRun: Run | undefined;
  /** The object that was made last, and how it ended, once it has. */
  lastOpen: ResourceOpen | undefined;
  lastClose: ResourceClose | undefined;
}

interface Call extends CallMade {
  readonly runs: Run[];
  answer: CallAnswer | undefined;
}

interface Token {
  readonly runs: Run[];
}

interface Direction {
  next: number;
}

interface Channel {
  readonly name: string;
  readonly got: Record<ChannelSide, Direction>;
  readonly apps: Partial<Record<ChannelSide, AppName>>;
  readonly closedAtMs: Partial<Record<ChannelSide, number>>;
  run: number | undefined;
}

export class Checker implements Observer {
  readonly violations: Violation[] = [];
  readonly expectations: Expectations;
  /** How often what was judged, for who wonders whether anything was. */
  readonly counts: Record<string, number> = {};
  readonly #runs = new Map<number, Run>();
  readonly #resources = new Map<string, Resource>();
  readonly #calls = new Map<string, Call>();
  readonly #lastServedMs = new Map<string, number>();
  readonly #tokens = new Map<string, Token>();
  readonly #channels = new Map<string, Channel>();
  /** The next message of each channel that resumes. */
  readonly #followed = new Map<string, number>();
  readonly #slow = new Set<string>();
  readonly #stops = new Map<AppName, { fromMs: number; toMs: number }[]>();
  readonly #died = new Map<AppName, number>();

  constructor(expectations: Expectations) {
    this.expectations = expectations;
  }

  #count(what: string): void {
    this.counts[what] = (this.counts[what] ?? 0) + 1;
  }

  #violated(promise: string, atMs: number, text: string): void {
    this.violations.push({ promise, atMs, text });
  }

  // ---------------------------------------------------------------- promise 1: one holder

  #resource(name: string): Resource {
    let resource = this.#resources.get(name);
    if (resource === undefined) {
      resource = {
        name,
        tenures: [],
        running: new Set(),
        lastRun: undefined,
        lastOpen: undefined,
        lastClose: undefined,
      };
      this.#resources.set(name, resource);
    }
    return resource;
  }

  /** Something of the tenure happened that nobody else may do at that time. */
  #touch(resource: Resource, app: AppName, epoch: number, atMs: number, what: string): Tenure {
    let tenure = resource.tenures.findLast((each) => each.app === app && each.epoch === epoch);
    if (tenure === undefined) {
      tenure = { app, epoch, firstMs: atMs, lastMs: atMs, lastWhat: what };
      resource.tenures.push(tenure);
      if (resource.tenures.length > 50) resource.tenures.shift();
      this.#count("tenures");
    }
    tenure.firstMs = Math.min(tenure.firstMs, atMs);
    if (atMs >= tenure.lastMs) {
      tenure.lastMs = atMs;
      tenure.lastWhat = what;
    }
    for (const other of resource.tenures) {
      if (other === tenure) continue;
      if (other.epoch === epoch) {
        this.#violated("1a", atMs, `${resource.name}: ${app} and ${other.app} both run it under epoch ${epoch}`);
      } else if (other.firstMs < tenure.lastMs && tenure.firstMs < other.lastMs) {
        if (other.app === app) continue;
        const [a, b] = other.firstMs < tenure.firstMs ? [other, tenure] : [tenure, other];
        this.#violated(
          "1a",
          atMs,
          `${resource.name}: ${a.app} (epoch ${a.epoch}) was still at it (${a.lastWhat}) at ${seconds(a.lastMs)}, while ` +
            `${b.app} (epoch ${b.epoch}) had begun at ${seconds(b.firstMs)}`,
        );
      } else if (other.epoch > epoch !== other.firstMs > tenure.firstMs) {
        this.#violated(
          "1a",
          atMs,
          `${resource.name}: epoch ${epoch} of ${app} (from ${seconds(tenure.firstMs)}) and ${other.epoch} of ` +
            `${other.app} (from ${seconds(other.firstMs)}) are in the wrong order`,
        );
      }
    }
    return tenure;
  }

  started(event: RunStart): void {
    this.#count("runs");
    const resource = event.resource === "" ? undefined : this.#resource(event.resource);
    const tenure =
      resource && this.#touch(resource, event.app, event.epoch, event.atMs, `run ${event.run} of ${event.call} starts`);
    const run: Run = { ...event, tenure, abortedAtMs: undefined, endedAtMs: undefined };
    this.#runs.set(run.run, run);
    if (resource !== undefined) {
      for (const other of resource.running) this.#checkOverlap(resource, other, run);
      resource.running.add(run);
      resource.lastRun = run;
    }
    this.#checkCall(run);
    if (run.token !== undefined) this.#checkToken(run, run.token);
    // What a method calls on its own machine is not seen on the wire.
    if (run.parent !== undefined) this.#producedLocally(run.parent, run.app, event.atMs);
  }

  /** 1b, 1c, and R7 within one process. */
  #checkOverlap(resource: Resource, one: Run, other: Run): void {
    if (one.app === other.app && one.epoch === other.epoch) return;
    // One that was stopped within tells late what it began before.
    const [older, run] = one.atMs <= other.atMs ? [one, other] : [other, one];
    const diedAtMs = this.#died.get(older.app);
    if (diedAtMs !== undefined && diedAtMs <= run.atMs) {
      resource.running.delete(older);
      return;
    }
    this.#count("overlaps of methods");
    const what =
      `${resource.name}: run ${older.run} (${older.app}, epoch ${older.epoch}, since ${seconds(older.atMs)}) has not ` +
      `returned when run ${run.run} (${run.app}, epoch ${run.epoch}) starts at ${seconds(run.atMs)}`;
    if (older.app === run.app) return this.#violated("1b", run.atMs, `${what}, in one process`);
    if (this.expectations.onlyPlanned) return this.#violated("1b", run.atMs, what);
    if (older.abortedAtMs !== undefined && older.abortedAtMs <= run.atMs - abortLeadMs) return;
    if (this.#wasStopped(older.app, run.atMs - leaseReachMs, run.atMs)) return;
    const abort = older.abortedAtMs === undefined ? "never aborted" : `aborted at ${seconds(older.abortedAtMs)}`;
    this.#violated("1c", run.atMs, `${what}; it was ${abort}`);
  }

  #wasStopped(app: AppName, fromMs: number, toMs: number): boolean {
    return this.#stops.get(app)?.some((stop) => stop.fromMs <= toMs && stop.toMs >= fromMs) === true;
  }

  aborted(run: number, atMs: number): void {
    const known = this.#runs.get(run);
    if (known === undefined) return;
    known.abortedAtMs ??= atMs;
    if (this.expectations.onlyPlanned && known.endedAtMs === undefined) {
      this.#violated("5", atMs, `run ${run} of ${known.call} is aborted in a planned event`);
    }
  }

  ended(run: number, atMs: number): void {
    const known = this.#runs.get(run);
    if (known === undefined) return;
    known.endedAtMs = atMs;
    this.#resources.get(known.resource)?.running.delete(known);
  }

  wentOut(run: number, machine: string, atMs: number): void {
    const known = this.#runs.get(run);
    // Agents of others pass on what it has produced.
    if (known !== undefined && machineOf(known.app) === machine) this.#produced(known, atMs);
  }

  #produced({ run, resource, app, epoch, tenure }: Run, atMs: number): void {
    if (tenure === undefined) return;
    this.#count("things that went out");
    this.#touch(this.#resource(resource), app, epoch, atMs, `something of run ${run} goes out`);
  }

  /** It is seen where it arrives: on a machine where that takes long it says nothing of when it passed the gate. */
  #producedLocally(parent: number, app: AppName, atMs: number): void {
    const known = this.#runs.get(parent);
    const machine = machineOf(app);
    if (known !== undefined && machineOf(known.app) === machine && !this.#slow.has(machine)) {
      this.#produced(known, atMs);
    }
  }

  claimRefused(resource: string, app: AppName, epoch: number, storedEpoch: number, atMs: number): void {
    const tenures = this.#resource(resource).tenures;
    const stored = tenures.find((each) => each.epoch === storedEpoch);
    const own = tenures.find((each) => each.app === app && each.epoch === epoch);
    // An old holder that woke up late is refused by right.
    if (stored === undefined || own === undefined || own.firstMs < stored.firstMs) return;
    this.#violated(
      "1 (store)",
      atMs,
      `${resource}: the store knows epoch ${storedEpoch} and refuses the later ${epoch} of ${app}`,
    );
  }

  // ---------------------------------------------------------------- what a resource finds

  opened(event: ResourceOpen): void {
    this.#count(`opened ${event.memory}`);
    const resource = this.#resource(event.resource);
    const { name, lastRun, lastOpen, lastClose } = resource;
    // One that was stopped within tells late what it was about to do: its store refuses it, and nobody hears it.
    if (lastOpen !== undefined && event.atMs < lastOpen.atMs) return;
    if (lastOpen !== undefined && lastOpen.epoch > event.epoch) {
      const text = `${name}: ${event.app} opens epoch ${event.epoch} after ${lastOpen.app} has opened ${lastOpen.epoch}`;
      return this.#violated("1a", event.atMs, text);
    }
    resource.lastOpen = event;
    resource.lastClose = undefined;
    const what = `${name}: ${event.app} opens epoch ${event.epoch}`;
    const before =
      lastOpen === undefined ? "nobody" : `object ${lastOpen.object} of ${lastOpen.app} (epoch ${lastOpen.epoch})`;
    switch (event.memory) {
      case "lost":
        if (this.expectations.onlyPlanned)
          this.#violated("2", event.atMs, `${what} without memory, and nothing went wrong`);
        return;
      case "state":
        if (event.from !== lastOpen?.object && !isOpenedAgain(event, lastRun, lastOpen, lastClose)) {
          this.#violated("2", event.atMs, `${what} with the state of object ${event.from}, after ${before}`);
        } else if (lastRun !== undefined && lastRun.object === event.from && lastRun.run !== event.lastRun) {
          this.#violated(
            "2",
            event.atMs,
            `${what} with the state after run ${event.lastRun}, while ${before} has run ${lastRun.run} since`,
          );
        }
        return;
      case "fresh":
        // Nothing was there, or it was closed for good.
        if (lastOpen === undefined || (lastClose !== undefined && !lastClose.isHandedOver)) return;
        this.#violated(
          "2",
          event.atMs,
          `${what} as if nothing had been there, after ${before}, which was ` +
            `${lastClose === undefined ? "never closed" : "handed over"}`,
        );
    }
  }

  closed(event: ResourceClose): void {
    const resource = this.#resource(event.resource);
    if (resource.lastOpen?.object === event.object) resource.lastClose = event;
  }

  // ---------------------------------------------------------------- promise 3: effect none

  called(event: CallMade): void {
    this.#count("calls");
    this.#calls.set(event.call, { ...event, runs: [], answer: undefined });
  }

  #checkCall(run: Run): void {
    const call = this.#calls.get(run.call);
    if (call === undefined) return;
    call.runs.push(run);
    if (call.answer?.error?.effect === "none") this.#lied(call, run);
  }

  #lied(call: Call, run: Run): void {
    const { error } = call.answer as CallAnswer;
    this.#violated(
      "3",
      run.atMs,
      `${call.call} was answered ${error?.text} (none) and ran at ${run.app} (run ${run.run})`,
    );
  }

  answered(event: CallAnswer): void {
    const call = this.#calls.get(event.call);
    if (call === undefined) return;
    call.answer = event;
    const { error } = event;
    this.#count(error === undefined ? "results" : `answers ${error.reason} ${error.effect}`);
    if (error?.effect === "none" && call.runs.length > 0) this.#lied(call, call.runs[0] as Run);
    if (error === undefined) this.#served(call.resource, event.atMs);
    const run = event.run === undefined ? undefined : this.#runs.get(event.run);
    const isOwn = run?.call === call.call || (run?.token !== undefined && run.token === call.token);
    if (event.run !== undefined && !isOwn) {
      this.#violated("3", event.atMs, `${call.call} was given the result of run ${event.run}, of ${run?.call}`);
    }
    // Nobody promises that a plain method's instance remembers what came before it.
    const isForgotten = call.resource === "" && error?.reason === "TOKEN_MEMORY_LOST";
    if (this.expectations.onlyPlanned && error !== undefined && !isForgotten) {
      this.#violated(
        "5",
        event.atMs,
        `${call.call} to ${call.resource} failed in a planned event: ${error.text} (${error.effect})`,
      );
    }
    const lateMs =
      event.atMs - call.atMs - call.timeoutMs * 1.03 - answerSlackMs - this.#stoppedMs(call.caller, call.atMs);
    if (lateMs > 0) {
      this.#violated("deadline", event.atMs, `${call.call} was answered ${Math.round(lateMs)} ms after its deadline`);
    }
    // One that was stopped reads late what had reached it in time.
    if (run !== undefined && this.#stoppedMs(call.caller, run.atMs) === 0) {
      this.#producedLocally(run.run, call.caller, event.atMs);
    }
  }

  #served(resource: string, atMs: number): void {
    const { unservedMsMax } = this.expectations;
    const lastMs = this.#lastServedMs.get(resource);
    this.#lastServedMs.set(resource, atMs);
    if (lastMs === undefined || resource === "" || atMs - lastMs <= unservedMsMax) return;
    this.#violated("liveness", atMs, `${resource} was served by nobody from ${seconds(lastMs)} on`);
  }

  #stoppedMs(app: AppName, sinceMs: number): number {
    let sum = 0;
    for (const stop of this.#stops.get(app) ?? []) sum += Math.max(0, stop.toMs - Math.max(stop.fromMs, sinceMs));
    return sum;
  }

  // ---------------------------------------------------------------- promise 4: tokens

  #checkToken(run: Run, text: string): void {
    let token = this.#tokens.get(text);
    if (token === undefined) {
      token = { runs: [] };
      this.#tokens.set(text, token);
    }
    token.runs.push(run);
    const [first] = token.runs;
    if (first === undefined || first === run) return;
    this.#count("runs of a token again");
    // Without the time of its minting nothing is promised of it over a crash.
    if (mintedAtMs(text) === undefined && !this.expectations.onlyPlanned) return;
    this.#violated(
      "4",
      run.atMs,
      `token ${text} ran at ${first.app} (run ${first.run}, epoch ${first.epoch}) and again at ${run.app} (run ` +
        `${run.run}, epoch ${run.epoch})`,
    );
  }

  // ---------------------------------------------------------------- promise 2: channels

  #channel(name: string): Channel {
    let channel = this.#channels.get(name);
    if (channel === undefined) {
      channel = {
        name,
        got: { caller: { next: 0 }, method: { next: 0 } },
        apps: {},
        closedAtMs: {},
        run: undefined,
      };
      this.#channels.set(name, channel);
    }
    return channel;
  }

  channelOpened(event: ChannelOpen): void {
    const channel = this.#channel(event.channel);
    const known = channel.apps[event.side];
    if (known !== undefined) {
      this.#violated(
        "2",
        event.atMs,
        `channel ${event.channel} has two ${event.side} ends, at ${known} and ${event.app}`,
      );
    }
    channel.apps[event.side] = event.app;
    channel.run ??= event.run;
    if (event.side === "caller") this.#count("channels");
  }

  channelGot(event: ChannelItem): void {
    const channel = this.#channel(event.channel);
    const direction = channel.got[event.side];
    this.#count("channel messages");
    if (event.sequence !== direction.next) {
      this.#violated(
        "2",
        event.atMs,
        `channel ${event.channel}: its ${event.side} got message ${event.sequence}, expected ${direction.next}`,
      );
    }
    direction.next = event.sequence + 1;
  }

  followed({ atMs, channel, sequence, isDiscontinuous }: FollowedItem): void {
    this.#count("messages of channels that resume");
    const expected = this.#followed.get(channel) ?? 0;
    this.#followed.set(channel, sequence + 1);
    if (isDiscontinuous) this.#count("discontinuities");
    if (isDiscontinuous && this.expectations.onlyPlanned) {
      this.#violated("2", atMs, `channel ${channel} resumes with a discontinuity, and its method took the cursor`);
    }
    const isRight = isDiscontinuous ? sequence >= expected : sequence === expected;
    if (!isRight)
      this.#violated("2", atMs, `channel ${channel} resumes with message ${sequence}, expected ${expected}`);
  }

  channelClosed(event: ChannelClose): void {
    const channel = this.#channel(event.channel);
    channel.closedAtMs[event.side] = event.atMs;
    if (event.side === "caller" && event.error !== undefined) this.#count(`channels ended by ${event.error}`);
  }

  // ---------------------------------------------------------------- processes

  stopped(app: AppName, fromMs: number, toMs: number): void {
    const stops = this.#stops.get(app) ?? [];
    stops.push({ fromMs, toMs });
    this.#stops.set(app, stops);
  }

  slowedWithin(machine: string): void {
    this.#slow.add(machine);
  }

  madeAnew(): void {
    for (const resource of this.#resources.values()) {
      resource.lastOpen = undefined;
      resource.lastClose = undefined;
    }
    this.#tokens.clear();
  }

  died(app: AppName, atMs: number): void {
    this.#died.set(app, atMs);
  }

  // ---------------------------------------------------------------- the end

  /** Everything has been well for long enough: who waits for something waits for ever. */
  finish(atMs: number): void {
    for (const call of this.#calls.values()) {
      if (call.answer === undefined && !this.#died.has(call.caller)) {
        this.#violated("liveness", atMs, `${call.call}, made at ${seconds(call.atMs)}, was never answered`);
      }
    }
    for (const channel of this.#channels.values()) {
      for (const [side, other] of [
        ["caller", "method"],
        ["method", "caller"],
      ] as const) {
        const app = channel.apps[side];
        const otherApp = channel.apps[other];
        if (app === undefined || this.#died.has(app) || channel.closedAtMs[side] !== undefined) continue;
        const isOtherGone =
          (otherApp !== undefined && this.#died.has(otherApp)) || channel.closedAtMs[other] !== undefined;
        if (isOtherGone) {
          this.#violated("2", atMs, `channel ${channel.name}: its ${side} never learned that the other end is gone`);
        }
      }
    }
  }

  failedWhenWell(what: string, error: CallError, atMs: number): void {
    this.#violated("liveness", atMs, `${what} failed when all was well again: ${error.text} (${error.effect})`);
  }
}

/**
 * The object before could not be opened ([open] failed, or took too long), or nobody came to use it: what it was opened
 * with has not changed, and is given to the next one of the same epoch.
 */
function isOpenedAgain(
  event: ResourceOpen,
  lastRun: Run | undefined,
  lastOpen: ResourceOpen | undefined,
  lastClose: ResourceClose | undefined,
): boolean {
  return (
    lastOpen?.memory === "state" &&
    lastOpen.from === event.from &&
    lastOpen.app === event.app &&
    lastOpen.epoch === event.epoch &&
    lastClose?.isHandedOver === false &&
    lastRun?.object !== lastOpen.object
  );
}

/** An app is called after its machine. */
function machineOf(app: AppName): string {
  return app.slice(0, app.indexOf("/"));
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(3)} s`;
}
