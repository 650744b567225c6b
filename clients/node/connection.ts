/**
 * The one connection of a process to its agent (or to a gateway), shared by `serve` and all clients of the same address:
 * dialed when first needed and again when it broke, one dial at a time, with growing pauses.
 *
 * Invariant: after the last `release` no timer, dial or socket is left, and nobody waits any more.
 */

import { uptime } from "node:os";
import type { Clock, Random, TimerHandle } from "@leveros/protocol/clock/clock.ts";
import { type LeaseClock, runtimeLeaseClock } from "@leveros/protocol/clock/lease-clock.ts";
import { runtimeClock } from "@leveros/protocol/clock/runtime-clock.ts";
import { DeadlineWheel } from "@leveros/protocol/deadline/deadline-wheel.ts";
import { encodeFault } from "@leveros/protocol/error/fault.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { AssemblyBudget, assemblyBytesMax } from "@leveros/protocol/invocation/assembly.ts";
import type { CallerRuntime, CancelSignal } from "@leveros/protocol/invocation/outgoing-stream.ts";
import type { Identity } from "@leveros/protocol/session/hello.ts";
import { defaultSessionLimits, type SessionLimits } from "@leveros/protocol/session/limits.ts";
import { type OpenFrame, Session } from "@leveros/protocol/session/session.ts";
import type { Stream } from "@leveros/protocol/session/stream.ts";
import type { Transport } from "@leveros/protocol/transport/transport.ts";
import { ClosingTransport } from "./closing-transport.ts";

export const clock: Clock = runtimeClock(globalThis);
const leaseClock: LeaseClock = runtimeLeaseClock(globalThis, () => uptime() * 1000);

/** The pause before a dial is half to all of `redialMsMin` × 2^(failures in a row - 1), at most `redialMsMax`. */
export const redialMsMin = 50;
export const redialMsMax = 5000;
/** A session that lived this long was no failure. */
const stableMs = 5000;
/** How long a call without a timeout waits for a connection. */
export const connectWaitMs = 5000;

/** What a process serves over its connection. */
export interface ServingHandler {
  onOpen(stream: Stream, open: OpenFrame): void;
  /** A new session is there: to register on. */
  onSession(session: Session): void;
}

export interface ConnectionOptions {
  readonly identity: Identity;
  /** For messages: `the agent at unix:///run/lever/agent.sock`. */
  readonly name: string;
  readonly limits?: Partial<SessionLimits>;
  /** Who has never been reached is not waited for: the address may be wrong. Without it a first dial is repeated too. */
  readonly failsFirst?: boolean;
  /** Rejects, soon, when the signal is aborted. */
  dial(signal: AbortSignal): Promise<Transport>;
  readonly clock?: Clock;
  readonly random?: Random;
  /** Of the same machine as `clock`. */
  readonly leaseClock?: LeaseClock;
  /** As in `SessionOptions`. */
  readonly streamIdMax?: number;
}

interface Waiter {
  readonly resolve: (session: Session) => void;
  readonly reject: (error: LeverError) => void;
}

export class Connection {
  readonly runtime: CallerRuntime;
  readonly clock: Clock;
  readonly leaseClock: LeaseClock;
  readonly random: Random;
  readonly #options: ConnectionOptions;
  readonly #onClosed: () => void;
  #session: Session | undefined;
  #openedAt = 0;
  #hasBeenOpen = false;
  /** Sessions that are not over; beside the current one those that end by themselves with their last streams. */
  readonly #sessions = new Set<Session>();
  /** It ends by itself, because this end said so. */
  #goingAway: Session | undefined;
  /** Transports that are not closed yet; a session is over before its last bytes have left. */
  readonly #transports = new Set<ClosingTransport>();
  #serving: ServingHandler | undefined;
  #isKeptOpen = false;
  #users = 0;
  /** Why it is closed, once it is. */
  #closedWith: LeverError | undefined;

  readonly #waiters = new Set<Waiter>();
  /** Ends the pause or the dial that is under way. */
  #cancelAttempt: (() => void) | undefined;
  #failures = 0;
  #lastError: LeverError | undefined;

  constructor(options: ConnectionOptions, onClosed: () => void = () => {}) {
    this.#options = options;
    this.#onClosed = onClosed;
    this.clock = options.clock ?? clock;
    this.leaseClock = options.leaseClock ?? leaseClock;
    this.random = options.random ?? Math.random;
    this.runtime = {
      wheel: new DeadlineWheel(this.clock),
      budget: new AssemblyBudget(assemblyBytesMax),
      now: () => this.clock.now(),
    };
  }

  get name(): string {
    return this.#options.name;
  }

  /** Why there was no connection at the last try. */
  get lastError(): LeverError | undefined {
    return this.#lastError;
  }

  /** The open session, if there is one. Until the other end's HELLO it is not known how many streams that takes. */
  get current(): Session | undefined {
    const session = this.#session;
    return session?.isAvailable === true && session.hello !== undefined ? session : undefined;
  }

  // ---------------------------------------------------------------- users

  retain(): this {
    this.#users++;
    return this;
  }

  /** The last user closes the connection: calls that are under way, or wait for it, are CANCELLED. */
  release(): void {
    this.#users--;
    if (this.#users <= 0) this.close();
  }

  /** Whoever uses it: ends it now. */
  close(): void {
    this.#end(new LeverError("CANCELLED", "the client was closed", { effect: "none" }), (session, error) =>
      session.close(error),
    );
  }

  /** As `close`, without a word to the other end. */
  destroy(): void {
    this.#end(
      new LeverError("CONNECTION_LOST", `the connection with ${this.name} was cut`, { effect: "none" }),
      (session, error) => session.destroy(error),
    );
  }

  #end(error: LeverError, endSession: (session: Session, error: LeverError) => void): void {
    if (this.#closedWith !== undefined) return;
    this.#closedWith = error;
    this.#onClosed();
    this.#cancelAttempt?.();
    this.#cancelAttempt = undefined;
    this.#rejectWaiters(error);
    for (const session of [...this.#sessions]) endSession(session, error);
  }

  // ---------------------------------------------------------------- serving

  /** Serves over this connection from now on, and keeps it open. Throws INVALID_OPTION. */
  serve(serving: ServingHandler): void {
    if (this.#serving !== undefined) {
      throw new LeverError("INVALID_OPTION", "this process serves already; call `serve` once, with all methods");
    }
    this.#serving = serving;
    this.#isKeptOpen = true;
    const session = this.current;
    if (session === undefined) this.#connect();
    else serving.onSession(session);
  }

  /** Takes no more streams, on any session; those that are there go on. Calls from here dial when they need to. */
  goAway(error: LeverError): void {
    this.#isKeptOpen = false;
    this.#goingAway = this.#session;
    for (const session of [...this.#sessions]) session.goAway(error);
  }

  /** The end of serving. `cutsOff`: what still runs loses its session. */
  stopServing(serving: ServingHandler, cutsOff: boolean): void {
    if (this.#serving !== serving) return;
    this.#serving = undefined;
    this.#isKeptOpen = false;
    if (!cutsOff) return;
    const error = new LeverError("CONNECTION_LOST", "the instance has stopped, without waiting any longer");
    for (const session of [...this.#sessions]) session.close(error);
  }

  /** Resolves when all that was sent has reached the other end, at the latest after `timeoutMs`. */
  async flush(timeoutMs: number): Promise<void> {
    const flushed = [...this.#sessions].map((session) => session.roundTrip().catch(() => {}));
    const ended = [...this.#transports].filter((transport) => transport.isEnding).map(({ closed }) => closed);
    let timer: TimerHandle;
    const late = new Promise<void>((resolve) => {
      timer = this.clock.setTimer(resolve, timeoutMs);
    });
    await Promise.race([Promise.all([...flushed, ...ended]), late]);
    this.clock.clearTimer(timer);
  }

  // ---------------------------------------------------------------- connecting

  /**
   * The open session, or a new one. Rejects with AGENT_UNREACHABLE after `timeoutMs` (0: 5 s), with CANCELLED, and with
   * why the connection was closed; all with effect none.
   */
  open(timeoutMs: number, signal: CancelSignal | undefined): Promise<Session> {
    const session = this.current;
    if (session !== undefined) return Promise.resolve(session);
    if (this.#closedWith !== undefined) return Promise.reject(this.#closedWith);
    if (signal?.aborted === true) return Promise.reject(cancelled(signal));
    const waitMs = timeoutMs === 0 ? connectWaitMs : timeoutMs;
    return new Promise((resolve, reject) => {
      const settle = () => {
        this.#waiters.delete(waiter);
        this.clock.clearTimer(timer);
        signal?.removeEventListener("abort", onAbort);
      };
      const waiter: Waiter = {
        resolve: (opened) => {
          settle();
          resolve(opened);
        },
        reject: (error) => {
          settle();
          reject(error);
        },
      };
      const onAbort = () => waiter.reject(cancelled(signal as CancelSignal));
      const timer = this.clock.setTimer(() => waiter.reject(this.#unreachable(waitMs)), waitMs);
      signal?.addEventListener("abort", onAbort, { once: true });
      this.#waiters.add(waiter);
      this.#connect();
    });
  }

  #unreachable(waitMs: number): LeverError {
    const last = this.#lastError;
    if (last !== undefined) return last;
    return new LeverError("AGENT_UNREACHABLE", `no connection to ${this.name} within ${Math.round(waitMs)} ms`, {
      effect: "none",
    });
  }

  #rejectWaiters(error: LeverError): void {
    for (const waiter of [...this.#waiters]) waiter.reject(error);
  }

  /** Begins an attempt, unless one is under way. */
  #connect(): void {
    if (this.#closedWith !== undefined || this.#cancelAttempt !== undefined) return;
    this.#retire();
    if (this.#failures === 0) return this.#dial();
    const ceilingMs = Math.min(redialMsMin * 2 ** Math.min(this.#failures - 1, 10), redialMsMax);
    const timer = this.clock.setTimer(
      () => {
        this.#cancelAttempt = undefined;
        if (this.#isWanted) this.#dial();
      },
      ceilingMs * (0.5 + this.random() / 2),
    );
    this.#cancelAttempt = () => this.clock.clearTimer(timer);
  }

  /** A session whose numbers are used up ends with its last streams. */
  #retire(): void {
    const session = this.#session;
    this.#session = undefined;
    session?.goAway(new LeverError("CONNECTION_LOST", "all numbers of streams were used", { effect: "none" }));
  }

  #dial(): void {
    const controller = new AbortController();
    this.#cancelAttempt = () => controller.abort();
    // What `dial` throws at once is a failure like any.
    new Promise<Transport>((resolve) => resolve(this.#options.dial(controller.signal))).then(
      (transport) => {
        if (controller.signal.aborted) return transport.destroy();
        this.#cancelAttempt = undefined;
        this.#opened(new ClosingTransport(transport));
      },
      (cause: unknown) => {
        if (controller.signal.aborted) return;
        this.#cancelAttempt = undefined;
        this.#failed(
          new LeverError(
            "AGENT_UNREACHABLE",
            `cannot connect to ${this.name}: ${cause instanceof Error ? cause.message : String(cause)}`,
            { effect: "none", cause },
          ),
        );
      },
    );
  }

  #failed(error: LeverError): void {
    this.#failures++;
    this.#wasLost(error);
  }

  /** Who waits goes on waiting for a peer that was reached before. */
  #wasLost(error: LeverError): void {
    this.#lastError = error;
    if (this.#options.failsFirst === true && !this.#hasBeenOpen) this.#rejectWaiters(error);
    this.#connectIfWanted();
  }

  get #isWanted(): boolean {
    return this.#isKeptOpen || this.#waiters.size > 0;
  }

  #connectIfWanted(): void {
    if (this.#isWanted) this.#connect();
  }

  #opened(transport: ClosingTransport): void {
    this.#transports.add(transport);
    void transport.closed.then(() => this.#transports.delete(transport));
    const session: Session = new Session({
      transport,
      clock: this.clock,
      side: "dialer",
      identity: this.#options.identity,
      limits: { ...defaultSessionLimits, ...this.#options.limits },
      ...(this.#options.streamIdMax === undefined ? {} : { streamIdMax: this.#options.streamIdMax }),
      handler: {
        onHello: () => {
          this.#hasBeenOpen = true;
          this.#lastError = undefined;
          if (this.#session === session) this.#ready(session);
        },
        onOpen: (stream, open) => {
          const serving = this.#serving;
          if (serving !== undefined) return serving.onOpen(stream, open);
          stream.refuse(
            encodeFault(new LeverError("METHOD_NOT_FOUND", "this process serves no methods", { effect: "none" })),
          );
          stream.release();
        },
        onGoAway: (error) => this.#lost(session, error),
        onClose: (error) => {
          this.#sessions.delete(session);
          this.#lost(session, error);
        },
      },
    });
    this.#sessions.add(session);
    this.#session = session;
    this.#openedAt = this.clock.now();
    // Still under way: the session itself ends if no HELLO comes.
    this.#cancelAttempt = () => {};
  }

  #ready(session: Session): void {
    this.#cancelAttempt = undefined;
    this.#serving?.onSession(session);
    for (const waiter of [...this.#waiters]) waiter.resolve(session);
  }

  #lost(session: Session, error: LeverError): void {
    if (this.#session !== session) return;
    this.#session = undefined;
    if (session.hello === undefined) this.#cancelAttempt = undefined;
    if (session === this.#goingAway) return this.#connectIfWanted();
    // Who takes connections only to close them is not to be dialed again at once.
    if (this.clock.now() - this.#openedAt >= stableMs) this.#failures = 0;
    else this.#failures++;
    this.#wasLost(
      new LeverError("AGENT_UNREACHABLE", `${this.name} closed the connection: ${error.message}`, {
        effect: "none",
        cause: error,
      }),
    );
  }
}

function cancelled(signal: CancelSignal): LeverError {
  return new LeverError("CANCELLED", "the call was cancelled by its caller before it left", {
    effect: "none",
    cause: signal.reason,
  });
}
