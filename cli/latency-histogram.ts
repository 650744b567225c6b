/**
 * Durations counted in buckets of 1 %, from 1 µs to more than an hour: what a percentile costs does not grow with the
 * number of durations, and its error is at most that 1 %.
 */

const growth = 1.01;
const smallestMs = 0.001;
const bucketsMax = 2300;

export class LatencyHistogram {
  readonly #counts = new Float64Array(bucketsMax);
  #count = 0;
  #maxMs = 0;

  get count(): number {
    return this.#count;
  }

  get maxMs(): number {
    return this.#maxMs;
  }

  add(ms: number): void {
    const bucket = Math.ceil(Math.log(Math.max(ms, smallestMs) / smallestMs) / Math.log(growth));
    const at = Math.min(bucket, bucketsMax - 1);
    this.#counts[at] = (this.#counts[at] as number) + 1;
    this.#count++;
    if (ms > this.#maxMs) this.#maxMs = ms;
  }

  /** The duration that this part of all is not above; 0 when there are none. `part` is above 0 and at most 1. */
  percentile(part: number): number {
    const rank = Math.ceil(this.#count * part);
    let seen = 0;
    for (const [bucket, count] of this.#counts.entries()) {
      seen += count;
      if (count > 0 && seen >= rank) return Math.min(smallestMs * growth ** bucket, this.#maxMs);
    }
    return 0;
  }
}
