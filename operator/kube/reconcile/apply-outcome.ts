/**
 * What became of applying the Deployment of a service, and what an error of the API server means for the service.
 *
 * The API server says by code and reason what kind of error it is. Of Forbidden it has several kinds that its text alone
 * tells apart, and to what is no Deployment it answers with no reason at all: there, and only there, the text is looked at.
 */

import { type Finding, finding, quoted } from "./finding.ts";

export type ApplyOutcome =
  /** Not tried yet, or not needed. */
  | { readonly kind: "pending" }
  /** The API server has it as it is wanted. */
  | { readonly kind: "applied" }
  | {
      readonly kind: "failed";
      /** HTTP; undefined: there was no answer. */
      readonly code?: number | undefined;
      /** `reason` of the answer, such as Invalid. */
      readonly reason?: string | undefined;
      readonly message: string;
      /** The fields that it names (`details.causes`). */
      readonly fields?: readonly string[] | undefined;
    };

type Failure = Extract<ApplyOutcome, { kind: "failed" }>;

/** Undefined: it says nothing about the service; it is tried again. */
export function refusal({ code, reason, message, fields }: Failure, namespace: string): Finding | undefined {
  const said = quoted(message);
  // A selector never changes: the Deployment is one that somebody else has made meanwhile.
  if (code === 422 && fields?.includes("spec.selector")) {
    return finding("False", "NameClash", `A Deployment of the service's name is there, made by others: ${said}.`);
  }
  // What was read is old: the Deployment is another one now.
  if (code === 422 && fields?.includes("metadata.uid")) return undefined;
  if (code === 422 || code === 400 || isUntyped(code, reason, said)) {
    return finding(
      "False",
      "InvalidSpec",
      `The API server refuses the Deployment: ${said}. Correct the field; those of spec.template have the same path here.`,
    );
  }
  if (code === 403) return forbidden(said, namespace);
  if (code === 401) {
    return finding("False", "MissingRights", `The API server does not know the operator: ${said}.`);
  }
  if (code === 413 || reason === "RequestEntityTooLarge") {
    return finding("False", "InvalidSpec", `The Deployment is too large for the API server: ${said}.`);
  }
  return undefined;
}

/**
 * A field that no Deployment has, or an entry twice in a list that has each once: server-side apply answers 500 without a
 * reason, as if the fault were its own.
 */
function isUntyped(code: number | undefined, reason: string | undefined, said: string): boolean {
  return code === 500 && !reason && said.startsWith("failed to create typed patch object");
}

function forbidden(said: string, namespace: string): Finding | undefined {
  if (/is being terminated/.test(said)) {
    return finding("False", "NamespaceTerminating", `The namespace ${namespace} is being deleted: ${said}.`);
  }
  if (isQuota(said)) return quotaExceeded(said, namespace);
  if (isRightMissing(said)) {
    return finding(
      "False",
      "MissingRights",
      `The operator may not write Deployments in ${namespace}: ${said}. Give its service account the rights of the chart.`,
    );
  }
  return finding("False", "Denied", `A policy of the cluster refuses the Deployment: ${said}.`);
}

export function isRightMissing(said: string): boolean {
  return / cannot \w+ resource /.test(said);
}

export function isQuota(said: string): boolean {
  return /exceeded quota/.test(said);
}

export function quotaExceeded(said: string, namespace: string): Finding {
  return finding(
    "False",
    "QuotaExceeded",
    `${said}. Raise the ResourceQuota of ${namespace}, ask for less, or lower the number of instances.`,
  );
}
