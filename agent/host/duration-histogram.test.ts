import { Histogram, Registry } from "prom-client";
import { expect, test } from "vitest";
import { DurationHistogram } from "./duration-histogram.ts";

test("shows exactly what prom-client's own histogram shows", async () => {
  const buckets = [0.001, 0.01, 0.1, 1];
  const own = new Registry();
  const theirs = new Registry();
  const histogram = new DurationHistogram({ name: "x_seconds", help: "How long.", buckets, registry: own });
  const reference = new Histogram({
    name: "x_seconds",
    help: "How long.",
    labelNames: ["service"],
    buckets,
    registers: [theirs],
  });
  for (const service of ["a", "b"]) {
    const series = histogram.series({ service });
    for (const seconds of [0, 0.0005, 0.001, 0.0011, 0.01, 0.5, 1, 1.5, 40]) {
      series.observe(seconds * 1000);
      reference.observe({ service }, (seconds * 1000) / 1000);
    }
  }
  const lines = (text: string) => text.trim().split("\n").sort();
  expect(lines(await own.metrics())).toEqual(lines(await theirs.metrics()));
});
