/** Services as tests describe them, and what is wrong with a description. */

import {
  defaultServicePolicy,
  type OnUncertain,
  type ServicePolicy,
  slotsMax,
} from "@leveros/protocol/control/discovery.ts";
import { leaseMsDefault } from "@leveros/protocol/control/lease.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { isDnsLabel, printUrl } from "@leveros/protocol/target/lever-url.ts";
import type { ResourceClass } from "../resources/resource-methods.ts";

const instancesMax = 100;
const idleMsMin = 1000;
export const labelRule = "expected 1 to 63 of a-z, 0-9 and -, not beginning or ending with -";

/** A service under test. */
export interface TestService {
  /** What `serve` would get; given as a function, each instance makes methods of its own. */
  readonly methods?: object | (() => object | Promise<object>);
  /** The class of the service's resources. One of the two must be given. */
  readonly resource?: ResourceClass;
  /** 0 to 100; 1 unless given. */
  readonly instances?: number;
  /** What the manifest declares of methods, by name; `*` is for all others. */
  readonly policies?: Readonly<Record<string, TestPolicy>>;
  /** What the manifest declares of resources. */
  readonly ownership?: TestOwnership;
}

export interface TestOwnership {
  /** 1 to 4,096; 256 unless given. */
  readonly slots?: number;
  /** `Wait` unless given. */
  readonly onUncertain?: OnUncertain;
  /** When a resource that is not called is closed, ms, 1,000 or more; 180,000 unless given. */
  readonly idleMs?: number;
}

export interface TestPolicy {
  /** 30,000 unless given. */
  readonly timeoutMs?: number;
  /** Calls may be repeated though they may have run. */
  readonly idempotent?: boolean;
}

/** What the operator is told of the service. */
export function servicePolicy({ policies, resource, ownership = {} }: TestService): ServicePolicy {
  const given = Object.entries<TestPolicy>({ "*": {}, ...policies });
  const { slots = 256, onUncertain = "Wait", idleMs = 180_000 } = ownership;
  return {
    ...defaultServicePolicy,
    // The environment's client may stand outside.
    access: { callers: [], gateway: { expose: "Public" } },
    methods: given.map(([name, { timeoutMs = 30_000, idempotent = false }]) => ({ name, timeoutMs, idempotent })),
    // This process is the test's own: none of its methods ends it.
    ...(resource !== undefined && {
      ownership: { slots, onUncertain, idleMs, onLapse: "Abort", leaseMs: leaseMsDefault },
    }),
  };
}

/** Throws INVALID_OPTION. */
export function checkServices(services: Readonly<Record<string, TestService>>): void {
  for (const [name, { instances = 1, methods, resource, ownership }] of Object.entries(services)) {
    if (!isDnsLabel(name)) {
      throw new LeverError("INVALID_OPTION", `a service is named ${JSON.stringify(name)}, ${labelRule}`);
    }
    if (!Number.isInteger(instances) || instances < 0 || instances > instancesMax) {
      throw new LeverError(
        "INVALID_OPTION",
        `instances of ${name} is ${String(instances)}, expected a whole number from 0 to ${instancesMax}`,
      );
    }
    if (methods === undefined && resource === undefined) {
      throw new LeverError(
        "INVALID_OPTION",
        `${name} has neither methods nor a resource, expected one of them or both`,
      );
    }
    if (ownership !== undefined) checkOwnership(name, resource, ownership);
  }
}

function checkOwnership(name: string, resource: TestService["resource"], ownership: TestOwnership): void {
  const { slots = 1, onUncertain = "Wait", idleMs = idleMsMin } = ownership;
  if (resource === undefined) {
    throw new LeverError("INVALID_OPTION", `${name} has ownership but no resource, expected its class too`);
  }
  if (!Number.isInteger(slots) || slots < 1 || slots > slotsMax) {
    throw new LeverError(
      "INVALID_OPTION",
      `slots of ${name} is ${String(slots)}, expected a whole number from 1 to ${slotsMax}`,
    );
  }
  if (!["Wait", "Fail", "Serve"].includes(onUncertain)) {
    throw new LeverError(
      "INVALID_OPTION",
      `onUncertain of ${name} is ${String(onUncertain)}, expected Wait, Fail or Serve`,
    );
  }
  if (!Number.isInteger(idleMs) || idleMs < idleMsMin) {
    throw new LeverError(
      "INVALID_OPTION",
      `idleMs of ${name} is ${String(idleMs)}, expected a whole number of ${idleMsMin} or more`,
    );
  }
}

/** Throws INVALID_URL for what is no resource's name. */
export function checkResource(resource: string): void {
  printUrl({ environment: undefined, port: undefined, service: "any", resource, method: "any" });
}
