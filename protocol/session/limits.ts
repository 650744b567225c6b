/** What one end of a session accepts. Announced in HELLO where the peer has to know it; `docs/limits.md` has the table. */

export interface SessionLimits {
  /** Credit for each stream's flow-controlled frames, in bytes of cost; at least `streamWindowBytesMin`. */
  readonly streamWindowBytes: number;
  /** Credit for all streams together; the last half is kept for calls, so that stalled channels never block them. */
  readonly sessionWindowBytes: number;
  /** Streams that the peer has opened and this end has not finished with. One more is refused: OVERLOADED. */
  readonly streamsMax: number;
  /** Targets that the peer may give a number to. */
  readonly targetsMax: number;
  /** A PING goes out when nothing came in for this long. 0: none. */
  readonly pingIntervalMs: number;
  /** With nothing coming in for about this long, the peer is dead. 0: the transport alone tells. */
  readonly silenceMs: number;
  /** The peer's HELLO has to be there by then. */
  readonly helloTimeoutMs: number;
  /** A stream may outlive a GOAWAY by this long. */
  readonly goAwayGraceMs: number;
}

/** The least that an implementation offers; assumed until the peer's HELLO is there. */
export const streamWindowBytesMin = 128 * 1024;
export const sessionWindowBytesMin = 1024 * 1024;
export const streamsMaxMin = 100;
/** No window may ever be larger: u31. */
export const windowBytesMax = 0x7fffffff;

export const helloBytesMax = 4096;
export const targetBytesMax = 512;
/** The routing header's fields: resource, token, trace context, caller, metadata. */
export const headerFieldsBytesMax = 16 * 1024;
/** Frames that are not flow-controlled (answers to PING, refusals, credit) and that the peer does not read. */
export const controlBacklogBytesMax = 4 * 1024 * 1024;
/** Bytes of replies and of ends with an error that the peer gives no credit for; above it new streams are refused. */
export const queuedAnswerBytesMax = 64 * 1024 * 1024;
/** PINGs of the peer that are answered per second; more is a flood. */
export const pingsPerSecondMax = 200;
/** Above this many unwritten bytes a session takes frames from its streams no more, until the transport drains. */
export const writeHighWaterBytes = 256 * 1024;

export const defaultSessionLimits: SessionLimits = {
  streamWindowBytes: streamWindowBytesMin,
  sessionWindowBytes: 32 * 1024 * 1024,
  streamsMax: 16_384,
  targetsMax: 1024,
  pingIntervalMs: 1000,
  silenceMs: 3500,
  helloTimeoutMs: 5000,
  goAwayGraceMs: 60_000,
};

/**
 * Of sessions that agents and gateways have with the operator for their tables, at both ends. There are thousands at one
 * replica, all idle; whoever is cut off from it goes on with what it has, and finds dead peers by its sessions with them.
 */
export const operatorLinkTimes = { pingIntervalMs: 5000, silenceMs: 12_500 } as const;
