/**
 * Counts latencies in buckets of a bounded relative width, as HdrHistogram does: up to 25.6 µs in steps of 0.1 µs,
 * above in 128 steps per power of two, so that a percentile is at most 0.8 % too high. Recording is a few integer
 * operations and never allocates.
 */

const UNITS_PER_MICRO = 10;
const STEPS_LOG2 = 7;
const STEPS = 1 << STEPS_LOG2;
const UNITS_MAX = 0xffffffff;

export class LatencyHistogram {
  #counts = new Float64Array(bucketOf(UNITS_MAX) + 1);
  #total = 0;

  get total(): number {
    return this.#total;
  }

  /** `micros` ≥ 0; what is above 429 s counts as 429 s. */
  record(micros: number): void {
    const bucket = bucketOf(Math.min(Math.round(micros * UNITS_PER_MICRO), UNITS_MAX));
    this.#counts[bucket] = (this.#counts[bucket] ?? 0) + 1;
    this.#total++;
  }

  /**
   * The least latency in µs that at least `percent` (0 to 100) of all records do not exceed, rounded up to its bucket's
   * upper end; NaN when nothing was recorded.
   */
  percentile(percent: number): number {
    if (this.#total === 0) return Number.NaN;
    const wanted = Math.max(1, Math.ceil((percent / 100) * this.#total));
    let seen = 0;
    for (let bucket = 0; bucket < this.#counts.length; bucket++) {
      seen += this.#counts[bucket] ?? 0;
      if (seen >= wanted) return upperEndOf(bucket) / UNITS_PER_MICRO;
    }
    return Number.NaN;
  }
}

function bucketOf(units: number): number {
  if (units < 2 * STEPS) return units;
  const shift = 31 - Math.clz32(units) - STEPS_LOG2;
  return shift * STEPS + (units >>> shift);
}

function upperEndOf(bucket: number): number {
  if (bucket < 2 * STEPS) return bucket;
  const shift = Math.floor(bucket / STEPS) - 1;
  return (bucket - shift * STEPS + 1) * 2 ** shift - 1;
}
