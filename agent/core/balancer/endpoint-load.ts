/**
 * How dear one more call to one instance is, as one caller's agent sees it: `cost`.
 *
 *     cost = (15 ms + latency) × load ÷ √share
 *
 * - latency: peak EWMA of the time to the first byte of the answer (Finagle's PeakEwma, also tower's and Linkerd's):
 *   a slower answer counts at once, faster ones bring it down, and without answers it fades with the time constant
 *   10 s, so that an instance which nobody calls is tried again. Beside that: an answer that is still out is at least as
 *   slow as its age, so the mean age of the calls in flight counts if it is more. An instance that hangs looks slow
 *   before the first deadline. At most 1 s: services with slow and fast methods would else shun whoever served a slow one.
 * - 15 ms: below that, differences are pauses of a scheduler or a garbage collector and not of instances.
 * - load: 1 + calls in flight from here + calls of others there, as the instance last reported, fading over 5 s
 *   + open channels from here × their weight + errors (below).
 * - share: grows from 0.1 to 1 in the first 30 s of an instance that joined a warm set (slow start). Its root, since
 *   the balancer compares squares: of a pair with a warm instance it then gets `share` calls to the other's one.
 *
 * An error is never a fast reply: fast refusals attract traffic. A failure counts as an answer of 1 s; any other error
 * brings the latency up but not down. And since an instance that errs at once has nothing in flight, which looks idle,
 * each error stays in the load for as long as a good answer would have taken.
 *
 * Invariant: nothing here allocates or looks anything up; `cost` changes nothing but what has faded to nothing.
 */

/** Differences in latency below this are not differences between instances. */
export const latencyFloorMs = 15;
/** No answer counts as slower; a failure counts as this slow. */
export const latencyMsMax = 1000;
/** Time constant of the latency's fading. */
const latencyFadeMs = 10_000;
/**
 * A faster answer brings the latency down by at least this part of the difference. By time alone one pause would
 * follow a busy instance for 10 s, over thousands of good answers.
 */
const fasterStepMin = 1 / 8;
/** What a peer reported of its load is worth nothing after this time. */
const reportFadeMs = 5000;
/** How long an instance that joins a warm set is spared, and its share of a warm one's calls in the beginning. */
export const slowStartMs = 30_000;
const slowStartShareMin = 0.1;

/** What an open channel weighs when an instance for a call is chosen: most channels are idle most of the time. */
export const channelWeightForCall = 0.05;
/** The same for a channel: it stays where it is opened, so that each counts in full and new instances get their share. */
export const channelWeightForChannel = 1;

/** The load that an instance's agent reports with each answer, 0 to 65,535; `calls` without the one being answered. */
export function reportedLoad(calls: number, channels: number): number {
  return Math.min(Math.round(calls + channels * channelWeightForCall), 0xffff);
}

export class EndpointLoad {
  /** Calls begun and not ended, and openings of channels. */
  inFlight = 0;
  /** Channels open from here. */
  openChannels = 0;
  private latencyMs: number;
  private latencyAtMs: number;
  private hasAnswered = false;
  /** Sum of the times at which the calls in flight began: with their number it gives their mean age. */
  private startedSumMs = 0;
  private othersInFlight = 0;
  private reportedAtMs = 0;
  /** Errors that still count as calls in flight, fading with the usual latency. */
  private errors = 0;
  private errorsAtMs = 0;
  private readonly slowStartUntilMs: number;

  /**
   * `latencyMs` is what is assumed until the first answer: the mean of the set that the instance joins, or 0 for "as
   * fast as any", which has all of a new set tried soon. `slowStart`: the set is warm.
   */
  constructor(now: number, latencyMs = 0, slowStart = false) {
    this.latencyMs = Math.min(latencyMs, latencyMsMax);
    this.latencyAtMs = now;
    this.slowStartUntilMs = slowStart ? now + slowStartMs : Number.NEGATIVE_INFINITY;
  }

  /** A call, or the opening of a channel, goes out at `now`. Exactly one of succeeded, failed and ended follows. */
  begin(now: number): void {
    this.inFlight++;
    this.startedSumMs += now;
  }

  /** A good answer began at `now`; the call had begun at `startedAt`. */
  succeeded(now: number, startedAt: number): void {
    this.leave(startedAt);
    this.observe(now, now - startedAt);
    this.hasAnswered = true;
  }

  /** The instance failed the call: lost, silent, or it refused for want of room. */
  failed(now: number, startedAt: number): void {
    this.leave(startedAt);
    this.linger(now, now - startedAt);
    this.observe(now, latencyMsMax);
    this.hasAnswered = true;
  }

  /** The call ended in a way that is no proof of speed: with an error of the method or of the caller, or cancelled. */
  ended(now: number, startedAt: number): void {
    this.leave(startedAt);
    const elapsedMs = now - startedAt;
    this.linger(now, elapsedMs);
    // It answers, so the latency does not fade as that of an instance that nobody calls.
    if (elapsedMs >= this.latency(now)) this.latencyMs = Math.min(elapsedMs, latencyMsMax);
    this.latencyAtMs = now;
  }

  /** What to take for the latency of an instance that has not given a good answer: that of the others. */
  assume(now: number, latencyMs: number): void {
    if (this.hasAnswered || latencyMs <= this.latencyMs) return;
    this.latencyMs = latencyMs;
    this.latencyAtMs = now;
  }

  /** An answer brought the instance's `reportedLoad`; what is in flight from here is not counted twice. */
  reported(now: number, load: number): void {
    this.othersInFlight = Math.max(0, load - this.inFlight - this.openChannels * channelWeightForCall);
    this.reportedAtMs = now;
  }

  /** The peak EWMA at `now`, ms: 0 to 1,000. */
  latency(now: number): number {
    const silentMs = now - this.latencyAtMs;
    return silentMs <= 0 ? this.latencyMs : this.latencyMs * Math.exp(-silentMs / latencyFadeMs);
  }

  /** True once a call was answered or failed; until then `latency` is an assumption. */
  get isKnown(): boolean {
    return this.hasAnswered;
  }

  /** See the head of the file; above 0 and finite. Only the ratio of two costs means anything. */
  cost(now: number, channelWeight: number): number {
    let latencyMs = this.latency(now);
    let load = 1 + this.inFlight + this.openChannels * channelWeight;
    if (this.inFlight > 0) {
      const meanAgeMs = Math.min(now - this.startedSumMs / this.inFlight, latencyMsMax);
      if (meanAgeMs > latencyMs) latencyMs = meanAgeMs;
    }
    if (this.othersInFlight > 0) {
      const fresh = 1 - (now - this.reportedAtMs) / reportFadeMs;
      if (fresh > 0) load += this.othersInFlight * fresh;
      else this.othersInFlight = 0;
    }
    if (this.errors > 0) {
      const left = this.errorsLeft(now);
      if (left > 0.01) load += left;
      else this.errors = 0;
    }
    const cost = (latencyFloorMs + latencyMs) * load;
    return now < this.slowStartUntilMs ? cost / Math.sqrt(this.share(now)) : cost;
  }

  private share(now: number): number {
    return Math.max(slowStartShareMin, 1 - (this.slowStartUntilMs - now) / slowStartMs);
  }

  private leave(startedAt: number): void {
    if (this.inFlight === 0) return;
    this.inFlight--;
    // At zero the sum is set, not reduced: no rounding stays behind.
    this.startedSumMs = this.inFlight === 0 ? 0 : this.startedSumMs - startedAt;
  }

  private observe(now: number, sampleMs: number): void {
    const sample = Math.min(Math.max(sampleMs, 0), latencyMsMax);
    if (!this.hasAnswered || sample >= this.latency(now)) this.latencyMs = sample;
    else {
      const step = Math.max(fasterStepMin, 1 - Math.exp((this.latencyAtMs - now) / latencyFadeMs));
      this.latencyMs += (sample - this.latencyMs) * step;
    }
    this.latencyAtMs = now;
  }

  /** By Little's law, `rate × latency` calls are in flight; errors count towards that for the time that they saved. */
  private linger(now: number, elapsedMs: number): void {
    const usualMs = latencyFloorMs + this.latencyMs;
    if (elapsedMs >= usualMs) return;
    this.errors = this.errorsLeft(now) + 1 - Math.max(elapsedMs, 0) / usualMs;
    this.errorsAtMs = now;
  }

  private errorsLeft(now: number): number {
    if (this.errors === 0) return 0;
    return this.errors * Math.exp((this.errorsAtMs - now) / (latencyFloorMs + this.latencyMs));
  }
}
