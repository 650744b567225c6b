/**
 * SPIFFE ids: who a certificate is for. One trust domain, three kinds:
 *
 *   spiffe://leveros.dev/environment/<environment>/service/<service>/instance/<pod>/uid/<pod uid>
 *   spiffe://leveros.dev/gateway/<pod>/uid/<pod uid>
 *   spiffe://leveros.dev/operator/<pod>
 *
 * Printing and parsing are inverse to each other; names are those of Kubernetes, of which none needs an escape.
 */

import type { Identity } from "../session/hello.ts";
import { operatorEnvironment, operatorService } from "./discovery.ts";

export const trustDomain = "leveros.dev";

export type SpiffeId =
  | {
      readonly kind: "instance";
      readonly environment: string;
      readonly service: string;
      /** The pod's name. */
      readonly instance: string;
      readonly uid: string;
    }
  | { readonly kind: "gateway"; readonly instance: string; readonly uid: string }
  | { readonly kind: "operator"; readonly instance: string };

const label = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?";
const podName = "[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?";
const uid = "[0-9A-Za-z-]{1,64}";
const pattern = new RegExp(
  `^spiffe://${trustDomain.replace(".", "\\.")}/(?:` +
    `environment/(?<environment>${label})/service/(?<service>${label})/instance/(?<instance>${podName})/uid/(?<uid>${uid})|` +
    `gateway/(?<gateway>${podName})/uid/(?<gatewayUid>${uid})|` +
    `operator/(?<operator>${podName}))$`,
);

export function printSpiffeId(id: SpiffeId): string {
  const root = `spiffe://${trustDomain}`;
  if (id.kind === "operator") return `${root}/operator/${id.instance}`;
  if (id.kind === "gateway") return `${root}/gateway/${id.instance}/uid/${id.uid}`;
  return `${root}/environment/${id.environment}/service/${id.service}/instance/${id.instance}/uid/${id.uid}`;
}

/** Undefined for whatever is none of the three. */
export function parseSpiffeId(text: string): SpiffeId | undefined {
  const found = pattern.exec(text)?.groups;
  if (found === undefined) return undefined;
  const { environment, service, instance, uid: podUid, gateway, gatewayUid, operator } = found;
  if (operator !== undefined) return { kind: "operator", instance: operator };
  if (gateway !== undefined && gatewayUid !== undefined) return { kind: "gateway", instance: gateway, uid: gatewayUid };
  if (!environment || !service || !instance || !podUid) return undefined;
  return { kind: "instance", environment, service, instance, uid: podUid };
}

/** What HELLO of a session has to say whose peer has proven this id. Of the operator the replica does not matter. */
export function helloOf(id: SpiffeId): Identity {
  if (id.kind === "operator") return { role: "operator", environment: operatorEnvironment, service: operatorService };
  if (id.kind === "gateway") return { role: "gateway", instance: id.instance };
  const { environment, service, instance } = id;
  return { role: "agent", environment, service, instance };
}
