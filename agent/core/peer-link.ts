/**
 * The connection to one peer agent: dialed on the first call, kept, dialed anew after it broke. Relays wait here while
 * it is being made; how many may wait is the agent's limit, how long each one's deadline.
 */

import type { Clock } from "@leveros/protocol/clock/clock.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import type { Session } from "@leveros/protocol/session/session.ts";

/** Who waits for a link. */
export interface LinkWaiter {
  onLink(session: Session | undefined, error: LeverError | undefined): void;
}

/** Makes a session to an address; rejects when it cannot be made in time. */
export type DialPeer = (address: string) => Promise<Session>;

export class PeerLink {
  readonly address: string;
  readonly #dial: DialPeer;
  readonly #clock: Clock;
  readonly #backoffMs: number;
  readonly #onClosed: () => void;
  #session: Session | undefined;
  #waiters: LinkWaiter[] = [];
  #isDialing = false;
  #isClosed = false;
  #failedAt = Number.NEGATIVE_INFINITY;
  #failure: LeverError | undefined;

  constructor(address: string, dial: DialPeer, clock: Clock, backoffMs: number, onClosed: () => void) {
    this.address = address;
    this.#dial = dial;
    this.#clock = clock;
    this.#backoffMs = backoffMs;
    this.#onClosed = onClosed;
  }

  /** The open session, if it takes streams. */
  get session(): Session | undefined {
    const session = this.#session;
    return session?.isAvailable === true ? session : undefined;
  }

  /** Tells the waiter, perhaps at once, of the session or why there is none. */
  dial(waiter: LinkWaiter): void {
    const open = this.session;
    if (open !== undefined) return waiter.onLink(open, undefined);
    if (this.#isClosed || this.#clock.now() - this.#failedAt < this.#backoffMs) {
      return waiter.onLink(undefined, this.#failure ?? unreachable(this.address, undefined));
    }
    this.#waiters.push(waiter);
    if (this.#isDialing) return;
    this.#isDialing = true;
    this.#dial(this.address).then(
      (session) => {
        if (this.#isClosed) session.close(new LeverError("CONNECTION_LOST", "the instance is gone from the table"));
        // A session that takes no more streams goes on until its streams have ended.
        this.#session = session;
        this.#done(this.session, undefined);
      },
      (cause: unknown) => {
        this.#failedAt = this.#clock.now();
        this.#failure = unreachable(this.address, cause);
        this.#done(undefined, this.#failure);
      },
    );
  }

  #done(session: Session | undefined, error: LeverError | undefined): void {
    this.#isDialing = false;
    const waiters = this.#waiters;
    this.#waiters = [];
    for (const waiter of waiters) waiter.onLink(session, error);
  }

  /** The instance has gone from the table: what is open ends by itself, nothing new is opened. */
  close(): void {
    this.#isClosed = true;
    this.#onClosed();
    this.#session?.goAway(new LeverError("CONNECTION_LOST", "the instance is gone from the table", { effect: "none" }));
  }
}

function unreachable(address: string, cause: unknown): LeverError {
  const why = cause instanceof Error ? `: ${cause.message}` : "";
  return new LeverError("INSTANCE_UNREACHABLE", `no connection to the agent at ${address}${why}`, {
    effect: "none",
    cause,
  });
}
