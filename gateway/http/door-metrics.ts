/** What the HTTP door counts; docs/metrics.md describes it. */

import { Counter, Gauge, Histogram, type Registry } from "prom-client";

export interface DoorGauges {
  readonly connections: () => number;
  readonly running: () => number;
  readonly heldBytes: () => number;
}

const buckets = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];

export class DoorMetrics {
  readonly #requests: Counter<"status">;
  readonly #durations: Histogram;

  constructor(registry: Registry, gauges: DoorGauges) {
    const registers = [registry];
    this.#requests = new Counter({
      name: "lever_gateway_http_requests_total",
      help: "HTTP requests that are over, by the status of their answer; aborted: the client went away before.",
      labelNames: ["status"],
      registers,
    });
    this.#durations = new Histogram({
      name: "lever_gateway_http_request_duration_seconds",
      help: "Time from a request's headers to the end of its answer.",
      buckets,
      registers,
    });
    const gauge = (name: string, help: string, read: () => number) =>
      new Gauge({
        name: `lever_gateway_http_${name}`,
        help,
        registers,
        collect() {
          this.set(read());
        },
      });
    gauge("connections", "Open HTTP connections.", gauges.connections);
    gauge("requests_running", "HTTP requests that are being answered, channels over HTTP included.", gauges.running);
    gauge("held_bytes", "Bodies and results that are held for HTTP clients.", gauges.heldBytes);
  }

  answered(status: string, durationMs: number): void {
    this.#requests.inc({ status });
    this.#durations.observe(durationMs / 1000);
  }

  /** A request that was none. */
  refused(status: number): void {
    this.#requests.inc({ status: String(status) });
  }
}
