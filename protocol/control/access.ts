/**
 * Who may call a service: the one rule, asked by the agents at both ends of a call and by the operator before it tells
 * somebody of a service's instances.
 *
 * Invariant: a caller is who its session's HELLO says, never what a call's fields say; whoever is neither an agent of the
 * service's own environment nor named by the policy may call nothing.
 */

import type { Identity } from "../session/hello.ts";
import { methodCharsMax } from "../target/lever-url.ts";
import type { FieldReader } from "./field-reader.ts";

/** Entries of `callers`. */
export const allowedCallersMax = 256;
/** Entries of `gateway.methods`. */
export const exposedMethodsMax = 1000;

export interface AllowedCaller {
  readonly environment: string;
  /** Undefined: all of the environment's services. */
  readonly service?: string;
}

export interface GatewayAccess {
  /** `None`: nobody outside can tell that there is the service. `Public`: everybody outside may call it. */
  readonly expose: "None" | "Public";
  /** Undefined: all of them. */
  readonly methods?: readonly string[];
}

/** Who may call a service, besides those of its own environment. */
export interface AccessPolicy {
  readonly callers: readonly AllowedCaller[];
  readonly gateway: GatewayAccess;
}

/** Nobody besides the own environment. */
export const defaultAccessPolicy: AccessPolicy = { callers: [], gateway: { expose: "None" } };

/** Who calls, by the HELLO of its session. */
export type CallerIdentity = Pick<Identity, "role" | "environment" | "service">;

/** What somebody may call of a service: every method, none, or these. */
export type AllowedMethods = "all" | "none" | ReadonlySet<string>;

/** What `caller` may call of a service of `environment` that has the policy. */
export function allowedMethods(access: AccessPolicy, environment: string, caller: CallerIdentity): AllowedMethods {
  if (caller.role === "gateway") {
    const { expose, methods } = access.gateway;
    if (expose !== "Public") return "none";
    return methods === undefined ? "all" : new Set(methods);
  }
  if (caller.role !== "agent" || caller.environment === undefined) return "none";
  if (caller.environment === environment) return "all";
  const isNamed = access.callers.some(
    (entry) =>
      entry.environment === caller.environment && (entry.service === undefined || entry.service === caller.service),
  );
  return isNamed ? "all" : "none";
}

export function isMethodAllowed(allowed: AllowedMethods, method: string): boolean {
  return allowed === "all" || (allowed !== "none" && allowed.has(method));
}

export function isSameAccess(a: AccessPolicy, b: AccessPolicy): boolean {
  const [mine, others] = [a.gateway.methods, b.gateway.methods];
  return (
    a.gateway.expose === b.gateway.expose &&
    mine?.length === others?.length &&
    (mine?.every((method, index) => method === others?.[index]) ?? true) &&
    a.callers.length === b.callers.length &&
    a.callers.every(
      ({ environment, service }, index) =>
        environment === b.callers[index]?.environment && service === b.callers[index]?.service,
    )
  );
}

/** Reads `access` of a policy. What a later version means by another `expose` is not for everybody: it counts as None. */
export function readAccess(
  fields: FieldReader,
  readName: (fields: FieldReader, key: string) => string,
  isMethod: (text: string) => boolean,
): AccessPolicy {
  const gateway = fields.map("gateway");
  const isPublic = gateway.text("expose", 32) === "Public";
  return {
    callers: fields.maps("callers", allowedCallersMax).map((entry) => ({
      environment: readName(entry, "environment"),
      ...(entry.has("service") && { service: readName(entry, "service") }),
    })),
    gateway: {
      expose: isPublic ? "Public" : "None",
      ...(gateway.has("methods") && {
        methods: gateway.list("methods", exposedMethodsMax).map((method, index) => {
          const isName = typeof method === "string" && method.length <= methodCharsMax && isMethod(method);
          if (!isName) gateway.refuse("methods", `a method's name at index ${index}`);
          return method as string;
        }),
      }),
    },
  };
}
