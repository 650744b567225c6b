/** What it means for a service that its namespace's ConfigMap with the trusted CAs cannot be had: no pod starts without it. */

import { isQuota, isRightMissing } from "./apply-outcome.ts";
import { type Finding, finding, quoted } from "./finding.ts";
import { trustMapName } from "./wanted-deployment.ts";

export type TrustProblem =
  /** One of that name is there that is not Lever's. */
  | { readonly kind: "foreign" }
  /** The API server does not take it. */
  | { readonly kind: "refused"; readonly message: string };

export function trustMissing(problem: TrustProblem, namespace: string): Finding {
  if (problem.kind === "foreign") {
    return finding(
      "False",
      "TrustMissing",
      `The ConfigMap ${trustMapName}, which pods are mounted to know whom to trust, is there without the label ` +
        "app.kubernetes.io/managed-by: lever: it is somebody else's, and is left alone. Lever makes its own when it is gone: " +
        `kubectl delete configmap ${trustMapName} -n ${namespace}.`,
    );
  }
  const said = quoted(problem.message);
  return finding(
    "False",
    "TrustMissing",
    `The ConfigMap ${trustMapName}, which pods are mounted to know whom to trust, cannot be written: ${said}. ` +
      remedyOf(said, namespace),
  );
}

function remedyOf(said: string, namespace: string): string {
  if (isQuota(said)) return `Raise the ResourceQuota of ${namespace}, or delete ConfigMaps.`;
  if (isRightMissing(said)) return "Give the operator's service account the rights of the chart.";
  return `Have whatever refuses it let the operator write ${trustMapName}.`;
}
