/** What the operator shows at `/metrics` of its CA and of what it issues. */

import { addReadCounter } from "@leveros/agent/host/read-counter.ts";
import { Gauge, type Registry } from "prom-client";
import { issueRefusals } from "./certificate-issuer.ts";
import type { OperatorIdentity } from "./operator-identity.ts";

export function addIssuerMetrics(registry: Registry, { secret, issuer }: OperatorIdentity): void {
  const registers = [registry];
  new Gauge({
    name: "lever_operator_authority_remaining_seconds",
    help: "Until the CA that signs ends, or one above it; below 0: it has ended, or there is none yet.",
    registers,
    collect() {
      const { identity } = secret;
      this.set(identity === undefined ? -1 : (identity.authority.notAfterMs - Date.now()) / 1000);
    },
  });
  new Gauge({
    name: "lever_operator_identity_broken",
    help: "1 while the Secret of the operator's identity is missing or cannot be used, else 0.",
    registers,
    collect() {
      this.set(secret.isBroken ? 1 : 0);
    },
  });
  addReadCounter({
    registry,
    name: "lever_operator_certificates_issued_total",
    help: "Certificates that were issued here, by whom for.",
    labelNames: ["kind"],
    read: () => Object.entries(issuer.issued).map(([kind, count]) => [{ kind }, count] as const),
  });
  addReadCounter({
    registry,
    name: "lever_operator_certificates_refused_total",
    help: "Requests for certificates that were refused here, by why.",
    labelNames: ["reason"],
    read: () => issueRefusals.map((reason) => [{ reason }, issuer.refused[reason]] as const),
  });
}
