/** What every process with a certificate shows of it at `/metrics`. */

import { Counter, Gauge, type Registry } from "prom-client";
import { type Refusals, refusalReasons } from "./refusals.ts";

export interface IdentityMetricsOptions {
  readonly registry: Registry;
  readonly prefix: "lever_agent" | "lever_gateway" | "lever_operator";
  readonly refusals: Refusals;
  /** Since 1970: when the own certificate ends; undefined while there is none. */
  readonly notAfterMs: () => number | undefined;
}

export function addIdentityMetrics({ registry, prefix, refusals, notAfterMs }: IdentityMetricsOptions): void {
  const registers = [registry];
  new Gauge({
    name: `${prefix}_certificate_remaining_seconds`,
    help: "Until the own certificate ends; below 0: it has ended, or there is none yet.",
    registers,
    collect() {
      const ends = notAfterMs();
      this.set(ends === undefined ? -1 : (ends - Date.now()) / 1000);
    },
  });
  const told = new Map<string, number>();
  new Counter({
    name: `${prefix}_refused_connections_total`,
    help: "Connections at the port for frames that were refused, by why.",
    labelNames: ["reason"],
    registers,
    collect() {
      for (const reason of refusalReasons) {
        const count = refusals.counts[reason];
        this.inc({ reason }, count - (told.get(reason) ?? 0));
        told.set(reason, count);
      }
    },
  });
}
