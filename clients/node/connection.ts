/**
 * The one connection of a process to its agent (or to a gateway): dialed when first needed, dialed again when it broke,
 * shared by `serve` and all clients of the same address.
 */

import type { Clock } from "@leveros/protocol/clock/clock.ts";
import { runtimeClock } from "@leveros/protocol/clock/runtime-clock.ts";
import { DeadlineWheel } from "@leveros/protocol/deadline/deadline-wheel.ts";
import { encodeFault } from "@leveros/protocol/error/fault.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { AssemblyBudget, assemblyBytesMax } from "@leveros/protocol/invocation/assembly.ts";
import type { CallerRuntime } from "@leveros/protocol/invocation/outgoing-call.ts";
import type { Identity } from "@leveros/protocol/session/hello.ts";
import { defaultSessionLimits, type SessionLimits } from "@leveros/protocol/session/limits.ts";
import { type OpenFrame, Session } from "@leveros/protocol/session/session.ts";
import type { Stream } from "@leveros/protocol/session/stream.ts";
import type { Transport } from "@leveros/protocol/transport/transport.ts";

export const clock: Clock = runtimeClock(globalThis);

const redialMsMin = 50;
const redialMsMax = 5000;

/** What a process serves over its connection. */
export interface ServingHandler {
  onOpen(stream: Stream, open: OpenFrame): void;
  /** A new session is there: to register on. */
  onSession(session: Session): void;
}

export interface ConnectionOptions {
  readonly identity: Identity;
  readonly name: string;
  /** How often a peer that says nothing is asked; 0 where the system tells of its end. */
  readonly limits?: Partial<SessionLimits>;
  dial(): Promise<Transport>;
  readonly clock?: Clock;
}

export class Connection {
  readonly runtime: CallerRuntime;
  readonly clock: Clock;
  readonly #options: ConnectionOptions;
  #session: Session | undefined;
  /** Sessions that end by themselves once their streams have ended, beside the current one. */
  readonly #sessions = new Set<Session>();
  #dialing: Promise<Session> | undefined;
  #serving: ServingHandler | undefined;
  #users = 0;
  #isClosed = false;
  #failures = 0;
  #redialTimer: unknown;
  readonly #onRelease: () => void;

  constructor(options: ConnectionOptions, onRelease: () => void) {
    this.#options = options;
    this.#onRelease = onRelease;
    this.clock = options.clock ?? clock;
    this.runtime = {
      wheel: new DeadlineWheel(this.clock),
      budget: new AssemblyBudget(assemblyBytesMax),
      now: () => this.clock.now(),
    };
  }

  get name(): string {
    return this.#options.name;
  }

  /** The open session, if there is one. */
  get current(): Session | undefined {
    const session = this.#session;
    return session?.isAvailable === true ? session : undefined;
  }

  retain(): this {
    this.#users++;
    return this;
  }

  /** The last user closes the connection. */
  release(): void {
    this.#users--;
    if (this.#users > 0 || this.#isClosed) return;
    this.#isClosed = true;
    this.#onRelease();
    this.clock.clearTimer(this.#redialTimer);
    const error = new LeverError("CANCELLED", "the client was closed", { effect: "unknown" });
    for (const session of this.#sessions) session.close(error);
  }

  /** Serves over this connection from now on, and keeps it open. */
  serve(serving: ServingHandler): void {
    if (this.#serving !== undefined) {
      throw new LeverError("INVALID_OPTION", "this process serves already; call `serve` once, with all methods");
    }
    this.#serving = serving;
    this.#keepOpen();
  }

  stopServing(): void {
    this.#serving = undefined;
    this.clock.clearTimer(this.#redialTimer);
  }

  #keepOpen(): void {
    if (this.#serving === undefined || this.#isClosed) return;
    const session = this.current;
    if (session !== undefined) return this.#serving.onSession(session);
    this.open().catch(() => {
      // Dialed again with growing pauses for as long as the process serves.
      this.#redialTimer = this.clock.setTimer(() => this.#keepOpen(), this.#backoffMs());
    });
  }

  #backoffMs(): number {
    const ceiling = Math.min(redialMsMin * 2 ** Math.min(this.#failures, 10), redialMsMax);
    return ceiling * (0.5 + Math.random() / 2);
  }

  /** The open session, or a new one. One dial at a time. Rejects with AGENT_UNREACHABLE. */
  open(): Promise<Session> {
    const session = this.current;
    if (session !== undefined) return Promise.resolve(session);
    if (this.#isClosed) return Promise.reject(new LeverError("CANCELLED", "the client was closed", { effect: "none" }));
    this.#dialing ??= this.#dial().finally(() => {
      this.#dialing = undefined;
    });
    return this.#dialing;
  }

  /** As `open`, dialing again until `timeoutMs` is over (0: 5 s). */
  async openWithin(timeoutMs: number, signal: AbortSignal | undefined): Promise<Session> {
    const until = this.clock.now() + (timeoutMs === 0 ? redialMsMax : timeoutMs);
    for (;;) {
      try {
        return await this.open();
      } catch (error) {
        const pause = this.#backoffMs();
        if (this.#isClosed || signal?.aborted === true || this.clock.now() + pause >= until) throw error;
        await new Promise<void>((resolve) => this.clock.setTimer(resolve, pause));
      }
    }
  }

  async #dial(): Promise<Session> {
    let transport: Transport;
    try {
      transport = await this.#options.dial();
    } catch (cause) {
      this.#failures++;
      throw new LeverError(
        "AGENT_UNREACHABLE",
        `cannot connect to ${this.#options.name}: ${cause instanceof Error ? cause.message : String(cause)}`,
        { effect: "none", cause },
      );
    }
    this.#failures = 0;
    const session: Session = new Session({
      transport,
      clock: this.clock,
      side: "dialer",
      identity: this.#options.identity,
      limits: { ...defaultSessionLimits, ...this.#options.limits },
      handler: {
        onOpen: (stream, open) => {
          const serving = this.#serving;
          if (serving !== undefined) return serving.onOpen(stream, open);
          stream.refuse(
            encodeFault(new LeverError("METHOD_NOT_FOUND", "this process serves no methods", { effect: "none" })),
          );
          stream.release();
        },
        onGoAway: () => this.#lost(session),
        onClose: () => {
          this.#sessions.delete(session);
          this.#lost(session);
        },
      },
    });
    this.#sessions.add(session);
    this.#session = session;
    this.#serving?.onSession(session);
    return session;
  }

  #lost(session: Session): void {
    if (this.#session !== session) return;
    this.#session = undefined;
    if (this.#serving === undefined || this.#isClosed) return;
    this.clock.clearTimer(this.#redialTimer);
    this.#redialTimer = this.clock.setTimer(() => this.#keepOpen(), this.#backoffMs());
  }
}
