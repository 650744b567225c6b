/** What the operator shows at `/metrics` of its CA and of what it issues. */

import { Counter, Gauge, type Registry } from "prom-client";
import { issueRefusals } from "./certificate-issuer.ts";
import type { OperatorIdentity } from "./operator-identity.ts";

export function addIssuerMetrics(registry: Registry, { secret, issuer }: OperatorIdentity): void {
  const registers = [registry];
  new Gauge({
    name: "lever_operator_authority_remaining_seconds",
    help: "Until the CA that signs ends; below 0: it has ended, or there is none yet.",
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
  const counter = <Label extends string>(
    name: string,
    help: string,
    label: Label,
    read: () => Record<string, number>,
  ) => {
    const told = new Map<string, number>();
    new Counter({
      name: `lever_operator_${name}_total`,
      help,
      labelNames: [label],
      registers,
      collect() {
        for (const [value, count] of Object.entries(read())) {
          this.inc({ [label]: value } as Record<Label, string>, count - (told.get(value) ?? 0));
          told.set(value, count);
        }
      },
    });
  };
  counter("certificates_issued", "Certificates that were issued here, by whom for.", "kind", () => issuer.issued);
  counter("certificates_refused", "Requests for certificates that were refused here, by why.", "reason", () =>
    Object.fromEntries(issueRefusals.map((reason) => [reason, issuer.refused[reason]])),
  );
}
