/**
 * Which replica leads: a Lease object that one of them holds and renews.
 *
 * Rule R14. The leader counts from when it *sent* the renewal that succeeded, by the largest of its machine's clocks, and
 * is leader for less than the lease; a candidate counts from when the first answer that showed the present version
 * *came*, by its monotonic clock, and acts after more than the lease, by compare-and-swap on that version. Both margins
 * are the clocks' error. Invariant, with clock rates within that error: no two replicas' `isLeader` are ever true at
 * once, whatever requests are lost, late or doubled, and whoever is stopped for however long. The times in the object are
 * for people; nobody decides by them.
 *
 * A Lease that is absent may have been deleted under a leader, and nobody can tell an absence from a later one. So a
 * candidate makes one that nobody holds, and it is waited for as for one that is held: its version is never another's.
 *
 * Source: Gray and Cheriton, "Leases", SOSP 1989; client-go's `tools/leaderelection` for the object's fields.
 */

import type { Clock, Random } from "@leveros/protocol/clock/clock.ts";
import { type ClockReading, elapsedMs, type LeaseClock } from "@leveros/protocol/clock/lease-clock.ts";
import { clockRateError } from "@leveros/protocol/control/lease.ts";
import type { KubeClient } from "./kube-client.ts";
import { KubeError } from "./kube-error.ts";
import { type KubeObject, leases, type ObjectMeta } from "./kube-object.ts";
import { pause } from "./pause.ts";

/** D. */
export const leaderLeaseMs = 5000;
const renewalMs = 1000;
/** How often a candidate looks: it sees a change up to this late, and waits that much longer. */
const pollMs = 500;
/** A renewal that gets no answer must leave time for another one. */
const requestTimeoutMs = 1500;
/** After a failed request of the leader: it has to get through before its lease ends. */
const retryMs = 200;
/** A leader whose object was deleted has this long to make it anew before others make one that nobody holds. */
const leaderMakesAnewMs = 2000;
const releaseTriesMax = 3;
/** A leader that has not renewed for so long is late, and will not be the leader for much longer. */
const lateMs = 2 * renewalMs;
/** What the server said longer ago says nothing of now. */
const recentMs = 3 * pollMs;

const addressAnnotation = "leveros.dev/address";
/** On a Lease that was absent: it names no holder, and there may be one. */
const unclaimedAnnotation = "leveros.dev/unclaimed";

export interface Lease extends KubeObject {
  readonly spec?: {
    readonly holderIdentity?: string;
    readonly leaseDurationSeconds?: number;
    readonly acquireTime?: string;
    readonly renewTime?: string;
    readonly leaseTransitions?: number;
  };
}

export interface LeaseHolder {
  /** The holder's `candidate`. */
  readonly candidate: string;
  readonly identity: string;
  /** As the holder gave it. */
  readonly address: string | undefined;
}

/** Why it is not the leader any more. */
export type LeadershipLoss =
  /** Its lease has ended by its own clock. */
  | "expired"
  /** The object names somebody else. */
  | "superseded"
  | "stopped";

export interface LeaderElectionOptions {
  readonly client: Pick<KubeClient, "get" | "create" | "replace">;
  readonly clock: Clock;
  readonly leaseClock: LeaseClock;
  readonly random: Random;
  /** Of the Lease object. */
  readonly namespace: string;
  readonly name: string;
  /** Who this is, for people and for followers that name the leader: the pod's name. */
  readonly candidate: string;
  /** Where the leader is to be found; followers pass it on. */
  readonly address?: string;
  /**
   * It leads from now on, as the leader of this term: terms grow for as long as the object lives. Does not throw.
   */
  readonly onElected: (term: number) => void;
  /** It does not lead any more; comes before the next `onElected`. Does not throw. */
  readonly onLost: (term: number, why: LeadershipLoss) => void;
  /** For the log; what has failed is tried again. Does not throw. */
  readonly onError?: (error: unknown) => void;
}

/** A version of the object, and since when it is known to have been there. */
interface Seen {
  /** Undefined: there is no object. */
  readonly lease: Lease | undefined;
  readonly sinceMonotonicMs: number;
}

export class LeaderElection {
  /** Of this process: never that of one before it with the same candidate. */
  readonly identity: string;
  readonly #options: LeaderElectionOptions;
  readonly #abort = new AbortController();
  #running: Promise<void> | undefined;
  #seen: Seen | undefined;
  #answeredAtMonotonicMs = 0;
  /** Whether `#seen` is what is there as far as is known: after a request without an answer it has to be read. */
  #mustRead = true;
  /** Since when this one leads, or could. */
  #validFrom: ClockReading | undefined;
  #term: number | undefined;
  #expiry: unknown;
  #acquireTime = "";
  #nextRenewalAtMs = 0;

  constructor(options: LeaderElectionOptions) {
    this.#options = options;
    const nonce = Math.floor(options.random() * 2 ** 48)
      .toString(36)
      .padStart(10, "0");
    this.identity = `${options.candidate}_${nonce}`;
  }

  /** By a reading of the clocks taken now. Ask at each decision; what was true before an `await` may not be after it. */
  get isLeader(): boolean {
    return this.isLeaderAt(this.#options.leaseClock.read());
  }

  /** At `reading`, of this machine's clocks: for a decision that goes by other times too, of the same reading. */
  isLeaderAt(reading: ClockReading): boolean {
    return (
      this.#term !== undefined &&
      this.#validFrom !== undefined &&
      elapsedMs(this.#validFrom, reading) < leaderLeaseMs * (1 - clockRateError)
    );
  }

  /** The term that it leads; undefined: it does not. */
  get term(): number | undefined {
    return this.isLeader ? this.#term : undefined;
  }

  /**
   * This one looks on, and as far as it knows nobody leads, or whoever does is late: soon there will be a leader, and it
   * may be this one. Not when the server does not answer: then others may know more.
   */
  get isUndecided(): boolean {
    const now = this.#options.leaseClock.read();
    if (this.#seen === undefined || this.#mustRead || this.#abort.signal.aborted || this.isLeaderAt(now)) return false;
    if (now.monotonicMs - this.#answeredAtMonotonicMs > recentMs) return false;
    const { lease } = this.#seen;
    return lease === undefined || (lease.spec?.holderIdentity ?? "") === "" || this.#unchangedMs(now) >= lateMs;
  }

  /** Whom the object last named. That one may have lost it since. */
  get holder(): LeaseHolder | undefined {
    const lease = this.#seen?.lease;
    const identity = lease?.spec?.holderIdentity ?? "";
    if (lease === undefined || identity === "") return undefined;
    return {
      candidate: identity.includes("_") ? identity.slice(0, identity.lastIndexOf("_")) : identity,
      identity,
      address: lease.metadata.annotations?.[addressAnnotation],
    };
  }

  start(): void {
    if (!this.#abort.signal.aborted) this.#running ??= this.#run();
  }

  /**
   * It leads no more when this returns its promise: `onLost` has been called. Then the lease is released, if the server
   * can be reached, so that another one need not wait; not before `quiet` resolves: what was written as the leader must
   * not come after what the next one writes.
   */
  async stop(quiet: () => Promise<unknown> = async () => {}): Promise<void> {
    const isRunning = this.#running !== undefined && !this.#abort.signal.aborted;
    this.#abort.abort();
    this.#lose("stopped");
    await Promise.all([this.#running, quiet()]);
    if (isRunning) await this.#release();
  }

  async #run(): Promise<void> {
    const { clock } = this.#options;
    const { signal } = this.#abort;
    while (!signal.aborted) {
      let waitMs: number;
      try {
        waitMs = await this.#step();
      } catch (error) {
        // What a write that was not answered has done is to be read.
        this.#mustRead = true;
        this.#nextRenewalAtMs = clock.now();
        const isConflict = KubeError.is(error) && error.isConflict;
        if (!isConflict) this.#options.onError?.(error);
        waitMs = isConflict ? 0 : this.#isOurs ? retryMs : pollMs * (1 + this.#options.random());
      }
      this.#loseIfOver();
      if (waitMs > 0) await pause(clock, waitMs, signal);
    }
  }

  /** Makes one request at most; how long to wait before the next step. */
  async #step(): Promise<number> {
    const { clock, leaseClock } = this.#options;
    if (this.#mustRead || this.#seen === undefined) {
      await this.#read();
      return 0;
    }
    // A leader whose object was deleted makes it anew, as its own.
    if (this.isLeader && (this.#isOurs || this.#seen.lease === undefined)) {
      const waitMs = Math.ceil(this.#nextRenewalAtMs - clock.now());
      if (waitMs > 0) return waitMs;
    } else if (this.#seen.lease === undefined) {
      if (this.#unchangedMs(leaseClock.read()) < leaderMakesAnewMs) {
        await pause(clock, pollMs, this.#abort.signal);
        if (!this.#abort.signal.aborted) await this.#read();
        return 0;
      }
      this.#see(await this.#put(this.#unclaimed()));
      return 0;
    } else if (!this.#isOurs && !this.#isReleased) {
      const leftMs = leaderLeaseMs * (1 + clockRateError) - this.#unchangedMs(leaseClock.read());
      if (leftMs > 0) {
        await pause(clock, Math.ceil(Math.min(leftMs, pollMs)), this.#abort.signal);
        if (this.#abort.signal.aborted) return 0;
        // At the end of its time the write itself tells whether it has changed.
        if (leftMs > pollMs) await this.#read();
        return 0;
      }
    }
    await this.#write();
    return 0;
  }

  async #read(): Promise<void> {
    const { client, namespace, name } = this.#options;
    let lease: Lease | undefined;
    try {
      lease = await client.get<Lease>(leases, { namespace, name }, { timeoutMs: requestTimeoutMs });
    } catch (error) {
      if (!KubeError.is(error) || !error.isNotFound) throw error;
    }
    this.#see(lease);
    if (lease !== undefined && !this.#isOurs) this.#lose("superseded");
  }

  /** Acquires, or renews. */
  async #write(): Promise<void> {
    const { clock, leaseClock, onElected } = this.#options;
    // Read before the write is made: whatever happens on its way, it was not sent any earlier.
    const sentAt = leaseClock.read();
    this.#loseIfOver();
    const renewedTerm = this.#term;
    this.#nextRenewalAtMs = clock.now() + renewalMs;
    const lease = await this.#put(this.#next(sentAt));
    this.#loseIfOver();
    this.#see(lease);
    if (this.#abort.signal.aborted || this.#term !== renewedTerm) return;
    const validMs = leaderLeaseMs * (1 - clockRateError) - elapsedMs(sentAt, leaseClock.read());
    // So late that it is over: the next write begins anew.
    if (validMs <= 0) return;
    this.#validFrom = sentAt;
    if (this.#expiry !== undefined) clock.clearTimer(this.#expiry);
    this.#expiry = clock.setTimer(() => this.#loseIfOver(), validMs);
    if (renewedTerm !== undefined) return;
    this.#term = lease.spec?.leaseTransitions ?? 0;
    onElected(this.#term);
  }

  async #release(): Promise<void> {
    const { onError } = this.#options;
    for (let tries = 0; tries < releaseTriesMax; tries++) {
      try {
        if (this.#mustRead) await this.#read();
        const lease = this.#seen?.lease;
        if (lease === undefined || !this.#isOurs) return;
        const { holderIdentity: _, ...spec } = lease.spec ?? {};
        await this.#put({ ...lease, spec });
        return;
      } catch (error) {
        this.#mustRead = true;
        if (!KubeError.is(error) || !error.isConflict) onError?.(error);
      }
    }
  }

  #put(lease: Lease): Promise<Lease> {
    const { client } = this.#options;
    const options = { timeoutMs: requestTimeoutMs };
    return lease.metadata.resourceVersion === undefined
      ? client.create<Lease>(leases, lease, options)
      : client.replace<Lease>(leases, lease, options);
  }

  /** The object as this one writes it: everything that others have put into it stays. */
  #next(now: ClockReading): Lease {
    const { namespace, name, address } = this.#options;
    const seen = this.#seen?.lease;
    const time = new Date(now.wallMs).toISOString().replace("Z", "000Z");
    const term = this.#term;
    if (term === undefined) this.#acquireTime = time;
    const { [addressAnnotation]: _, [unclaimedAnnotation]: __, ...annotations } = seen?.metadata.annotations ?? {};
    const metadata: ObjectMeta = {
      ...(seen?.metadata ?? { namespace, name }),
      annotations: { ...annotations, ...(address !== undefined && { [addressAnnotation]: address }) },
    };
    const transitions = seen?.spec?.leaseTransitions ?? 0;
    return {
      metadata,
      spec: {
        ...seen?.spec,
        holderIdentity: this.identity,
        leaseDurationSeconds: leaderLeaseMs / 1000,
        acquireTime: this.#acquireTime,
        renewTime: time,
        leaseTransitions: term ?? transitions + 1,
      },
    };
  }

  #unclaimed(): Lease {
    const { namespace, name } = this.#options;
    return {
      metadata: { namespace, name, annotations: { [unclaimedAnnotation]: "true" } },
      spec: { leaseDurationSeconds: leaderLeaseMs / 1000, leaseTransitions: 0 },
    };
  }

  #see(lease: Lease | undefined): void {
    const isSame =
      this.#seen !== undefined && this.#seen.lease?.metadata.resourceVersion === lease?.metadata.resourceVersion;
    const { monotonicMs } = this.#options.leaseClock.read();
    if (!isSame) this.#seen = { lease, sinceMonotonicMs: monotonicMs };
    this.#answeredAtMonotonicMs = monotonicMs;
    this.#mustRead = false;
  }

  /** For how long the object is known to have been as it is. The monotonic clock alone: it must not be too long. */
  #unchangedMs(now: ClockReading): number {
    return this.#seen === undefined ? 0 : now.monotonicMs - this.#seen.sinceMonotonicMs;
  }

  get #isOurs(): boolean {
    return this.#seen?.lease?.spec?.holderIdentity === this.identity;
  }

  get #isReleased(): boolean {
    const lease = this.#seen?.lease;
    if (lease === undefined || lease.metadata.annotations?.[unclaimedAnnotation] !== undefined) return false;
    return (lease.spec?.holderIdentity ?? "") === "";
  }

  #loseIfOver(): void {
    if (this.#term !== undefined && !this.isLeader) this.#lose("expired");
  }

  #lose(why: LeadershipLoss): void {
    const { clock, onLost } = this.#options;
    if (this.#expiry !== undefined) clock.clearTimer(this.#expiry);
    this.#expiry = undefined;
    this.#validFrom = undefined;
    const term = this.#term;
    this.#term = undefined;
    if (term !== undefined) onLost(term, why);
  }
}
