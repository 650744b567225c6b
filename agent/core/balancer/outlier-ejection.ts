/**
 * Takes instances that fail out of the choice for a while. Passive: it learns from live calls only.
 *
 * - After 5 failures in a row an instance is ejected for 30 s, times the number of its ejections, at most 300 s; each
 *   30 s in service since its return take one off that number. (Envoy's rule, with its numbers.)
 * - At most 10 % of the instances are out, but one may be as soon as there are two: with fewer than 20 instances a plain
 *   10 % would protect nobody, and two leave one to serve. A single instance is never ejected: there is no other.
 * - Panic: when more than half of the instances fail at once, none is out. Then the fault is more likely here or in the
 *   network than in each of them, and the rest could not carry the load.
 * - After the time the next call is the probe. If it is served the instance is back; if it fails, out again for longer.
 *   While the probe is out no other call goes there. Any served call brings the instance back, also one sent before.
 *
 * Invariant: `ejectedCount` is at most `ejectedMax(size)` after each method. Choosing is the balancer's.
 */

import type { Reason } from "@leveros/protocol/error/catalogue.ts";

/** Failures in a row that eject. */
export const failuresMax = 5;
export const ejectionMs = 30_000;
export const ejectionMsMax = 300_000;

/** What the end of a call says about the instance that it was sent to. */
export type Verdict =
  /** The app answered: it serves. Errors of the method and of the caller's arguments are answers. */
  | "served"
  /** Alive, but it wants no more calls now: another one is to be preferred. */
  | "refused"
  /** Lost, silent, unreachable, or an agent that answers while its app does not serve. */
  | "failed"
  /** Nothing: the cause is at the caller. */
  | "none";

const verdicts: Record<Reason, Verdict> = {
  INVALID_ARGUMENTS: "served",
  ARGS_FORM: "served",
  ARGS_TOO_LARGE: "served",
  VALUE_NOT_ENCODABLE: "served",
  INVALID_VALUE_ENCODING: "served",
  INVALID_URL: "served",
  INVALID_OPTION: "served",
  METHOD_KIND_MISMATCH: "served",
  METHOD_NOT_FOUND: "served",
  SERVICE_NOT_FOUND: "served",
  PERMISSION_DENIED: "served",
  NO_RESOURCES: "served",
  HEADER_TOO_LARGE: "served",
  BODY_INVALID: "served",
  CONTENT_TYPE_UNSUPPORTED: "served",
  HTTP_METHOD_NOT_ALLOWED: "served",
  HTTP_PATH_INVALID: "served",
  HTTP_REQUEST_INVALID: "served",
  UNAUTHENTICATED: "served",
  IDENTITY_DENIED: "served",
  METHOD_ERROR: "served",
  METHOD_THREW: "served",
  RESULT_NOT_ENCODABLE: "served",
  RESULT_TOO_LARGE: "served",
  MESSAGE_TOO_LARGE: "served",
  DEADLINE_EXCEEDED: "failed",
  CANCELLED: "none",
  CONNECTION_LOST: "failed",
  NO_INSTANCES: "failed",
  INSTANCE_UNREACHABLE: "failed",
  AGENT_UNREACHABLE: "none",
  DISCOVERY_UNAVAILABLE: "none",
  DRAINING: "refused",
  NOT_LEADER: "refused",
  IDENTITY_UNAVAILABLE: "none",
  // Of a resource, not of the instance.
  MOVED: "none",
  RESOURCE_UNAVAILABLE: "none",
  LEASE_LAPSED: "none",
  HOOK_REENTRY: "none",
  HOOK_FAILED: "none",
  TOKEN_MEMORY_LOST: "none",
  OVERLOADED: "refused",
  APP_GONE: "failed",
  CHANNEL_TIME_LIMIT: "none",
  HTTP_REQUEST_TIMEOUT: "none",
  PROTOCOL_VIOLATION: "failed",
  VERSION_UNSUPPORTED: "failed",
  INVALID_IDENTITY: "failed",
  INTERNAL: "failed",
};

/** What an error with this reason says about the instance that the call was sent to. */
export function verdictOf(reason: Reason): Verdict {
  return verdicts[reason];
}

/** One instance's part; extended by what the balancer holds. The fields are `OutlierEjection`'s. */
export class EjectionRecord {
  isMember = false;
  isEjected = false;
  failuresInRow = 0;
  ejectedAtMs = 0;
  /** While ejected: when a call may probe it. */
  probeAtMs = 0;
  ejections = 0;
  returnedAtMs = 0;
}

/** How many of `size` instances may be out at once. */
export function ejectedMax(size: number): number {
  return size < 2 ? 0 : Math.max(1, Math.floor(size / 10));
}

export class OutlierEjection<Entry extends EjectionRecord> {
  /** When the next probe is due; infinite while none is ejected. */
  nextProbeAtMs = Number.POSITIVE_INFINITY;
  readonly #onChange: () => void;
  readonly #ejected: Entry[] = [];
  #size = 0;
  #failingCount = 0;

  /** `onChange` runs when `isOut` of any entry has changed, and not from within `add` and `remove`. */
  constructor(onChange: () => void) {
    this.#onChange = onChange;
  }

  get ejectedCount(): number {
    return this.#ejected.length;
  }

  /** More than half of the instances fail: none is out. */
  get isPanicking(): boolean {
    return this.#failingCount * 2 > this.#size;
  }

  /** The instance is not to be chosen, unless nothing else is left. */
  isOut(entry: Entry): boolean {
    return entry.isEjected && !this.isPanicking;
  }

  add(entry: Entry): void {
    if (entry.isMember) return;
    entry.isMember = true;
    entry.failuresInRow = 0;
    this.#size++;
  }

  remove(entry: Entry): void {
    if (!entry.isMember) return;
    entry.isMember = false;
    this.#size--;
    if (entry.failuresInRow >= failuresMax) this.#failingCount--;
    if (entry.isEjected) this.#return(entry);
    // A smaller set may have fewer out: who was out longest returns.
    while (this.#ejected.length > ejectedMax(this.#size)) this.#return(this.#ejected[0] as Entry);
  }

  /** A call was served, at any time. */
  served(entry: Entry, now: number): void {
    if (entry.failuresInRow === 0) return;
    if (!entry.isMember) return;
    const wasPanicking = this.isPanicking;
    const wasEjected = entry.isEjected;
    if (entry.failuresInRow >= failuresMax) this.#failingCount--;
    entry.failuresInRow = 0;
    if (wasEjected) {
      entry.returnedAtMs = now;
      this.#return(entry);
    }
    if (wasEjected || wasPanicking !== this.isPanicking) this.#onChange();
  }

  /** A call that was sent at `startedAt` has failed. */
  failed(entry: Entry, now: number, startedAt: number): void {
    // What was sent before the ejection says nothing new.
    if (!entry.isMember || (entry.isEjected && startedAt < entry.ejectedAtMs)) return;
    const wasPanicking = this.isPanicking;
    entry.failuresInRow++;
    if (entry.failuresInRow === failuresMax) this.#failingCount++;
    if (entry.failuresInRow < failuresMax) return;
    const wasEjected = entry.isEjected;
    if (wasEjected) this.#setProbe(entry, now);
    else if (this.#ejected.length < ejectedMax(this.#size)) {
      const servedMs = now - entry.returnedAtMs;
      entry.ejections = Math.max(0, entry.ejections - Math.floor(servedMs / ejectionMs));
      entry.isEjected = true;
      this.#ejected.push(entry);
      this.#setProbe(entry, now);
    }
    if (wasEjected !== entry.isEjected || wasPanicking !== this.isPanicking) this.#onChange();
  }

  /** The first ejected instance that may be probed now, if `isEligible`. The caller sends a call there. */
  takeProbe(now: number, isEligible: (entry: Entry) => boolean): Entry | undefined {
    for (const entry of this.#ejected) {
      if (entry.probeAtMs > now || !isEligible(entry)) continue;
      // If the probe is never heard of again, another may follow.
      entry.probeAtMs = now + ejectionMs;
      this.#schedule();
      return entry;
    }
    return undefined;
  }

  #setProbe(entry: Entry, now: number): void {
    entry.ejections++;
    entry.ejectedAtMs = now;
    entry.probeAtMs = now + Math.min(ejectionMs * entry.ejections, ejectionMsMax);
    this.#schedule();
  }

  #return(entry: Entry): void {
    entry.isEjected = false;
    this.#ejected.splice(this.#ejected.indexOf(entry), 1);
    this.#schedule();
  }

  #schedule(): void {
    let next = Number.POSITIVE_INFINITY;
    for (const entry of this.#ejected) if (entry.probeAtMs < next) next = entry.probeAtMs;
    this.nextProbeAtMs = next;
  }
}
