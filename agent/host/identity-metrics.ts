/** What every process with a certificate shows of it at `/metrics`. */

import { Gauge, type Registry } from "prom-client";
import { addReadCounter } from "./read-counter.ts";
import { type Refusals, refusalReasons } from "./refusals.ts";

export interface IdentityMetricsOptions {
  readonly registry: Registry;
  readonly prefix: "lever_agent" | "lever_gateway" | "lever_operator";
  readonly refusals: Refusals;
  /** Since 1970: when the own certificate ends; undefined while there is none. */
  readonly notAfterMs: () => number | undefined;
}

export function addIdentityMetrics({ registry, prefix, refusals, notAfterMs }: IdentityMetricsOptions): void {
  new Gauge({
    name: `${prefix}_certificate_remaining_seconds`,
    help: "Until the own certificate ends; below 0: it has ended, or there is none yet.",
    registers: [registry],
    collect() {
      const ends = notAfterMs();
      this.set(ends === undefined ? -1 : (ends - Date.now()) / 1000);
    },
  });
  addReadCounter({
    registry,
    name: `${prefix}_refused_connections_total`,
    help: "Connections at the port for frames that were refused, by why.",
    labelNames: ["reason"],
    read: () => refusalReasons.map((reason) => [{ reason }, refusals.counts[reason]] as const),
  });
}
