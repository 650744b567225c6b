/** Counters whose numbers are kept elsewhere, and told to prom-client at each scrape. */

import { Counter, type Registry } from "prom-client";

export interface ReadCounterOptions<Label extends string> {
  readonly registry: Registry;
  readonly name: string;
  readonly help: string;
  readonly labelNames: readonly Label[];
  /** What is counted so far, each set of labels once. None of them ever falls. */
  readonly read: () => Iterable<readonly [Record<Label, string>, number]>;
}

export function addReadCounter<Label extends string>(options: ReadCounterOptions<Label>): void {
  const { registry, name, help, labelNames, read } = options;
  const told = new Map<string, number>();
  new Counter<Label>({
    name,
    help,
    labelNames: [...labelNames],
    registers: [registry],
    collect() {
      for (const [labels, count] of read()) {
        const key = JSON.stringify(labels);
        this.inc(labels, count - (told.get(key) ?? 0));
        told.set(key, count);
      }
    },
  });
}
