/**
 * The instances of a service in the caller's own zone, or all the others, and what answers from there said lately.
 *
 * Calls stay in the own zone unless its mean cost is clearly above the rest's:
 *
 *     cost = (15 ms + mean latency) × (8 + mean load),   share that leaves = 1 − 2 × cost of the rest ÷ own cost
 *
 * So nothing leaves up to twice the rest's cost, and then the more the dearer. Mean load is what instances report, over
 * all their callers: what is in flight from here says nothing about a zone to which nothing is sent. Eight calls are no
 * load. Both means follow the last answers; a failure counts as an answer of 1 s.
 *
 * Since only answers tell, one call goes to the rest when nothing was heard from there for 10 s and 100 calls.
 */

import { latencyFloorMs, latencyMsMax } from "./endpoint-load.ts";

/** Below this many calls at an instance, one more or less is no difference. */
const loadFloor = 8;
/** The own zone may cost this many times as much before anything leaves it. */
const dearerMax = 2;
/** Each answer moves a mean by this part of the difference, or by more after a silence. */
const stepMin = 1 / 32;
const silenceMs = 10_000;
const silenceCalls = 100;

export class ZoneGroup<Entry> {
  /** Those that may be chosen; the balancer's. */
  candidates: Entry[] = [];
  /** Of answers that came from here and of failures; 0 while there was none. */
  meanLatencyMs = 0;
  private load = 0;
  private hasAnswered = false;
  private answeredAtMs = 0;
  /** Calls of the own zone since the rest was last asked. */
  private callsSince = 0;
  private askedAtMs = Number.NEGATIVE_INFINITY;

  /** An answer came, or failed after 1 s as it were; `load` as reported, below 0 if nothing was. */
  observe(now: number, latencyMs: number, load: number): void {
    const step = this.hasAnswered ? Math.min(1, Math.max(stepMin, (now - this.answeredAtMs) / silenceMs)) : 1;
    this.meanLatencyMs += (Math.min(latencyMs, latencyMsMax) - this.meanLatencyMs) * step;
    if (load >= 0) this.load += (load - this.load) * step;
    this.hasAnswered = true;
    this.answeredAtMs = now;
  }

  private get cost(): number {
    return (latencyFloorMs + this.meanLatencyMs) * (loadFloor + this.load);
  }

  /** For the own zone's group: which part of the calls goes to `rest` now, 0 to 1. */
  shareThatLeaves(now: number, rest: ZoneGroup<Entry>): number {
    if (now - Math.max(rest.answeredAtMs, rest.askedAtMs) >= silenceMs || !rest.hasAnswered) {
      if (++rest.callsSince > silenceCalls) {
        rest.callsSince = 0;
        rest.askedAtMs = now;
        return 1;
      }
    } else rest.callsSince = 0;
    if (!this.hasAnswered || !rest.hasAnswered) return 0;
    return Math.max(0, 1 - (dearerMax * rest.cost) / this.cost);
  }
}
