/** What every process shows of itself: prom-client's default metrics, and which build it is. */

import { collectDefaultMetrics, Gauge, type Registry } from "prom-client";

/** Gauges with names of counters, which Prometheus' lint refuses; each is the sum of one that has them by `type`. */
const misnamed = ["nodejs_active_handles_total", "nodejs_active_requests_total", "nodejs_active_resources_total"];

export function collectProcessMetrics(
  registry: Registry,
  component: "agent" | "gateway" | "operator",
  version: string,
): void {
  collectDefaultMetrics({ register: registry });
  for (const name of misnamed) registry.removeSingleMetric(name);
  new Gauge({
    name: "lever_build_info",
    help: "Always 1; the labels say which build this is.",
    labelNames: ["component", "version"],
    registers: [registry],
  }).set({ component, version }, 1);
}
