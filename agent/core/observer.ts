/** What a host may count, and by which code the ends of calls and channels are counted. */

import { decodeFault } from "@leveros/protocol/error/fault.ts";
import { Flag } from "@leveros/protocol/frame/frame.ts";

/**
 * Called on the hot path: no allocation, no throw. Codes are OK, those of the catalogue, and UNKNOWN for an error that
 * is the method's own.
 */
export interface AgentObserver {
  /** A call of an app here (or of a client outside) is over. `durationMs` is from its OPEN to its end. */
  callEnded(environment: string, service: string, code: string, durationMs: number): void;
  /** A channel's opening is over, as `callEnded`. */
  channelOpened(environment: string, service: string, code: string, durationMs: number): void;
  /** A channel that was opened with OK is over. */
  channelClosed(environment: string, service: string, code: string): void;
  /** A call goes to another instance, or to the same once more. */
  retried(reason: string): void;
  /** A call for a resource was refused by who did not hold it (any more), and goes to whoever does. */
  moved(): void;
  /** A call or channel was ended because who has it may have lost the resource: nothing that it says counts. */
  fenced(): void;
  /** A call or channel that a peer sent to the app here is over, or was refused. */
  served(code: string, durationMs: number): void;
}

export const silentObserver: AgentObserver = {
  callEnded() {},
  channelOpened() {},
  channelClosed() {},
  retried() {},
  moved() {},
  fenced() {},
  served() {},
};

/**
 * The code of an end that says how it went by the flags of its last frame: REPLY or END. A fault begins at `faultAt` of
 * that frame; one of several frames, which no library sends, counts as INTERNAL.
 */
export function endCode(flags: number, payload: Uint8Array, faultAt: number): string {
  if ((flags & Flag.Error) !== 0) return "UNKNOWN";
  return (flags & Flag.Fault) !== 0 ? decodeFault(payload.subarray(faultAt)).code : "OK";
}
