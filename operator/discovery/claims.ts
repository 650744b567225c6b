/**
 * What a peer says of itself in the arguments of a method, against what the session has proven of it. Where nothing is
 * proven (`lever dev`, tests) it is believed.
 */

import type { DiscoveryIdentity } from "@leveros/protocol/control/discovery.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { describeIdentity, type Identity } from "@leveros/protocol/session/hello.ts";
import type { Session } from "@leveros/protocol/session/session.ts";

type Proven = Pick<Session, "provenIdentity">;

/** Throws IDENTITY_DENIED unless an agent asks as itself. A gateway serves nothing; a replica asks as one. */
export function checkDiscoverer({ provenIdentity: proven }: Proven, claimed: DiscoveryIdentity): void {
  if (proven !== undefined) check(proven.role === "operator" ? { role: "gateway" } : proven, claimed);
}

/** Throws IDENTITY_DENIED unless an agent asks as itself. */
export function checkHolder({ provenIdentity: proven }: Proven, claimed: Omit<Identity, "role">): void {
  if (proven !== undefined) check(proven, { ...claimed, role: "agent" });
}

/** What is for the operator's replicas alone. Throws IDENTITY_DENIED for others. */
export function checkReplica({ provenIdentity: proven }: Proven): void {
  if (proven !== undefined && proven.role !== "operator") throw denied(`${describeIdentity(proven)} is no replica`);
}

function check(proven: Identity, claimed: Omit<Identity, "library">): void {
  const { role, environment, service, instance } = proven;
  const isSame =
    claimed.role === role &&
    claimed.environment === environment &&
    claimed.service === service &&
    (role !== "agent" || claimed.instance === instance);
  if (!isSame) throw denied(`${describeIdentity(proven)} asks as ${describeIdentity(claimed)}`);
}

function denied(message: string): LeverError {
  return new LeverError("IDENTITY_DENIED", message, { effect: "none" });
}
