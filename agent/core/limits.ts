import { handOverBytesMax } from "@leveros/protocol/control/lease.ts";

/** What one agent holds at most; `docs/limits.md` has the table. What a service allows (`policy.limits`) comes on top. */
export interface AgentLimits {
  /** Calls that wait for a table or for a connection, over all services. One more is refused: OVERLOADED. */
  readonly heldCallsMax: number;
  /**
   * Arguments kept for a possible retry, bytes over all calls (and 256 for each frame of them). A call that does not fit
   * is not retried after it has left.
   */
  readonly retainedBytesMax: number;
  /** How long it may take to connect to a peer, its HELLO included. */
  readonly dialTimeoutMs: number;
  /** After a failed dial, calls to that instance fail at once for this long. */
  readonly dialBackoffMs: number;
  /** Tries of one call, the first included. */
  readonly attemptsMax: number;
  /** A service that was not called for this long is no longer subscribed to. */
  readonly subscriptionIdleMs: number;
  /** Sessions that the agent takes from apps, from peers and from outside, each. The connection of one more is closed. */
  readonly sessionsMax: number;
  /** Of those that it takes from peers, the ones of a single peer that has proven who it is. */
  readonly sessionsOfPeerMax: number;
  /**
   * What released slots had in them, kept here for their next holders, and what is received of others: bytes together. A
   * slot whose contents do not fit is handed over without them.
   */
  readonly handOverBytesMax: number;
}

export const defaultAgentLimits: AgentLimits = {
  heldCallsMax: 1000,
  retainedBytesMax: 16 * 1024 * 1024,
  dialTimeoutMs: 2000,
  dialBackoffMs: 200,
  attemptsMax: 5,
  subscriptionIdleMs: 600_000,
  sessionsMax: 4096,
  // A peer needs one; but a channel may outlive the session that new calls go by, for as long as it likes.
  sessionsOfPeerMax: 512,
  handOverBytesMax,
};
