/**
 * A histogram for prom-client that is cheap to feed: an observation is a search in a dozen bounds and three additions.
 * prom-client's own takes a map and two objects for each, which was a tenth of what a call costs in an agent.
 */

import type { Histogram, Registry } from "prom-client";

/** What is observed under one set of labels. */
export class DurationSeries {
  readonly labels: Readonly<Record<string, string>>;
  readonly counts: Float64Array;
  sumSeconds = 0;
  count = 0;
  readonly #boundsMs: Float64Array;

  constructor(labels: Readonly<Record<string, string>>, boundsMs: Float64Array) {
    this.labels = labels;
    this.#boundsMs = boundsMs;
    this.counts = new Float64Array(boundsMs.length);
  }

  observe(durationMs: number): void {
    this.sumSeconds += durationMs / 1000;
    this.count++;
    const bounds = this.#boundsMs;
    for (let index = 0; index < bounds.length; index++) {
      if (durationMs <= (bounds[index] as number)) {
        this.counts[index] = (this.counts[index] as number) + 1;
        return;
      }
    }
  }
}

export interface DurationHistogramOptions {
  readonly name: string;
  readonly help: string;
  /** Upper bounds in seconds, rising. */
  readonly buckets: readonly number[];
  readonly registry: Registry;
}

export class DurationHistogram {
  readonly name: string;
  readonly help: string;
  readonly type = "histogram";
  readonly aggregator = "sum";
  readonly #buckets: readonly number[];
  readonly #boundsMs: Float64Array;
  readonly #series: DurationSeries[] = [];

  constructor({ name, help, buckets, registry }: DurationHistogramOptions) {
    this.name = name;
    this.help = help;
    this.#buckets = buckets;
    this.#boundsMs = Float64Array.from(buckets, (seconds) => seconds * 1000);
    // A registry takes whatever has these members; its types name prom-client's own classes only.
    registry.registerMetric(this as unknown as Histogram);
  }

  series(labels: Readonly<Record<string, string>>): DurationSeries {
    const series = new DurationSeries(labels, this.#boundsMs);
    this.#series.push(series);
    return series;
  }

  /** For the registry, at each scrape. */
  async get() {
    const values: { metricName: string; labels: Record<string, string | number>; value: number; exemplar: null }[] = [];
    for (const { labels, counts, count, sumSeconds } of this.#series) {
      let cumulated = 0;
      for (const [index, le] of this.#buckets.entries()) {
        cumulated += counts[index] as number;
        values.push({ metricName: `${this.name}_bucket`, labels: { le, ...labels }, value: cumulated, exemplar: null });
      }
      values.push({
        metricName: `${this.name}_bucket`,
        labels: { le: "+Inf", ...labels },
        value: count,
        exemplar: null,
      });
      values.push({ metricName: `${this.name}_sum`, labels: { ...labels }, value: sumSeconds, exemplar: null });
      values.push({ metricName: `${this.name}_count`, labels: { ...labels }, value: count, exemplar: null });
    }
    return { name: this.name, help: this.help, type: this.type, values, aggregator: this.aggregator };
  }

  reset(): void {
    this.#series.length = 0;
  }
}
