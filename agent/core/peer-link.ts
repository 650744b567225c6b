/**
 * The connection to one peer agent: dialed on the first call, kept, dialed anew after it broke. Relays wait here while
 * it is being made; how many may wait is the agent's limit, how long each one's deadline.
 *
 * Invariant: a link is open when the peer has said HELLO, not before. So calls that go to an agent which takes
 * connections and does nothing more (it is stopped, or something else has its port) never left, and go elsewhere; and
 * only then is it known how many streams the peer takes.
 */

import type { Clock, TimerHandle } from "@leveros/protocol/clock/clock.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { describeIdentity } from "@leveros/protocol/session/hello.ts";
import type { Session } from "@leveros/protocol/session/session.ts";
import type { Transport } from "@leveros/protocol/transport/transport.ts";

/** Who has to answer, where that can be proven: another instance may have got the address meanwhile. */
export interface LinkPeer {
  readonly environment: string;
  readonly service: string;
  /** Undefined: any of the service. */
  readonly instance?: string;
}

/** Who waits for a link. */
export interface LinkWaiter {
  /** With `error`, and no session, when none can be had now. */
  onLink(session: Session | undefined, error: LeverError | undefined): void;
}

/** What a link needs of its agent. */
export interface LinkHost {
  readonly clock: Clock;
  readonly limits: {
    /** How long it may take from dialing to the peer's HELLO. */
    readonly dialTimeoutMs: number;
    /** After a failed dial nobody dials for this long. */
    readonly dialBackoffMs: number;
  };
  /** Connects to `host:port`; rejects when that cannot be done. */
  dial(address: string): Promise<Transport>;
  /** Starts a session on the dialer's side. */
  openLink(transport: Transport, onHello: () => void, onClose: (error: LeverError) => void): Session;
}

export class PeerLink {
  readonly address: string;
  readonly #peer: LinkPeer;
  readonly #host: LinkHost;
  /** The peer has said HELLO. */
  #session: Session | undefined;
  /** Connected, without the peer's HELLO. */
  #opening: Session | undefined;
  /** Set while dialing, until HELLO; told apart from that of an earlier dial. */
  #timer: TimerHandle | undefined;
  readonly #waiters = new Set<LinkWaiter>();
  #isClosed = false;
  #failedAt = Number.NEGATIVE_INFINITY;
  #failure: LeverError | undefined;

  constructor(host: LinkHost, address: string, peer: LinkPeer) {
    this.#host = host;
    this.address = address;
    this.#peer = peer;
  }

  /** The open session, if it takes streams. */
  get session(): Session | undefined {
    const session = this.#session;
    return session?.isAvailable === true ? session : undefined;
  }

  /** Tells the waiter, perhaps at once, of the session or why there is none; unless it leaves before. */
  dial(waiter: LinkWaiter): void {
    const open = this.session;
    if (open !== undefined) return waiter.onLink(open, undefined);
    const { clock, limits } = this.#host;
    if (this.#isClosed || clock.now() - this.#failedAt < limits.dialBackoffMs) {
      return waiter.onLink(undefined, this.#failure);
    }
    this.#waiters.add(waiter);
    if (this.#timer === undefined) this.#connect();
  }

  /** Waits no longer. */
  leave(waiter: LinkWaiter): void {
    this.#waiters.delete(waiter);
  }

  #connect(): void {
    const { clock, limits } = this.#host;
    const timer = clock.setTimer(() => {
      this.#failed(new Error(`no answer within ${limits.dialTimeoutMs} ms`));
    }, limits.dialTimeoutMs);
    this.#timer = timer;
    this.#host.dial(this.address).then(
      (transport) => {
        // Too late, or not wanted any more.
        if (this.#timer !== timer) return transport.destroy();
        const session: Session = this.#host.openLink(
          transport,
          () => {
            if (this.#opening === session) this.#opened(session);
          },
          (error) => {
            if (this.#opening === session) this.#failed(error);
          },
        );
        this.#opening = session;
      },
      (cause: unknown) => {
        if (this.#timer === timer) this.#failed(cause);
      },
    );
  }

  #opened(session: Session): void {
    const { environment, service, instance } = this.#peer;
    const proven = session.provenIdentity;
    if (
      proven !== undefined &&
      (proven.environment !== environment ||
        proven.service !== service ||
        (instance !== undefined && proven.instance !== instance))
    ) {
      const expected = `${environment}/${service}/${instance ?? "*"}`;
      return this.#failed(new Error(`${describeIdentity(proven)} answers there, expected ${expected}`));
    }
    this.#opening = undefined;
    // One whose numbers are used up goes on until its streams have ended.
    this.#session?.goAway(new LeverError("CONNECTION_LOST", "another connection has replaced this one"));
    this.#session = session;
    this.#tell(session, undefined);
  }

  #failed(cause: unknown): void {
    const opening = this.#opening;
    this.#opening = undefined;
    const failure = LeverError.is(cause) && cause.reason === "INSTANCE_UNREACHABLE" ? cause : this.#unreachable(cause);
    opening?.destroy(failure);
    this.#failedAt = this.#host.clock.now();
    this.#failure = failure;
    this.#tell(undefined, failure);
  }

  #unreachable(cause: unknown): LeverError {
    const why = LeverError.is(cause) ? cause.rawMessage : cause instanceof Error ? cause.message : String(cause);
    return new LeverError("INSTANCE_UNREACHABLE", `no connection to the agent at ${this.address}: ${why}`, {
      effect: "none",
      cause,
    });
  }

  #tell(session: Session | undefined, error: LeverError | undefined): void {
    if (this.#timer !== undefined) this.#host.clock.clearTimer(this.#timer);
    this.#timer = undefined;
    const waiters = [...this.#waiters];
    this.#waiters.clear();
    for (const waiter of waiters) waiter.onLink(session, error);
  }

  /** The instance has gone from the table: what is open goes on to its own end, nothing new is opened. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    const gone = new LeverError("INSTANCE_UNREACHABLE", `the instance at ${this.address} is gone from the table`);
    this.#failed(gone);
    this.#session?.goAway(gone);
  }
}
