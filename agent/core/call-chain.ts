/**
 * The chain of a call that was made by a method or a hook of a resource: the routing field `Chain`, which agents alone
 * write.
 *
 *   | flags u8 | resource, 8 bytes | resource, 8 bytes … |
 *
 * That it is there says that the call is nested: a holder that drains still takes it, since the method that waits for it
 * may be what the drain waits for. Bit 0 says that the chain starts in a hook; only then are there resources in it, those
 * that were called on the way. A hook that waits for a resource which waits for that hook would wait in vain, so such a
 * call is refused instead.
 *
 * A resource stands as two xxHash32 of its whole name. Two that look alike (once in 2^64 pairs) cost one refusal of a
 * call from a hook. Pure functions; what is refused when is for who routes.
 */

import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { xxHash32 } from "@leveros/protocol/target/slot.ts";

/** Resources in a chain. */
export const chainResourcesMax = 64;

const identityBytes = 8;
const hookBit = 0x01;
const secondSeed = 0x9e3779b1;
const encoder = new TextEncoder();

export interface CallChain {
  readonly startsInHook: boolean;
  /** 8 bytes each; empty unless the chain starts in a hook. */
  readonly resources: Uint8Array;
}

const noResources = new Uint8Array(0);
/** A method of a resource calls. */
export const nestedChain: CallChain = { startsInHook: false, resources: noResources };
/** A hook calls. */
export const hookChain: CallChain = { startsInHook: true, resources: noResources };

/** What stands for a resource in a chain. */
export function resourceIdentity(environment: string, service: string, resource: Uint8Array): Uint8Array {
  const place = encoder.encode(`${environment}/${service}/`);
  const name = new Uint8Array(place.length + resource.length);
  name.set(place);
  name.set(resource, place.length);
  const identity = new Uint8Array(identityBytes);
  const view = new DataView(identity.buffer);
  view.setUint32(0, xxHash32(name));
  view.setUint32(4, xxHash32(name, secondSeed));
  return identity;
}

/** The field's bytes, at most 513. */
export function encodeChain({ startsInHook, resources }: CallChain): Uint8Array {
  const bytes = new Uint8Array(1 + resources.length);
  bytes[0] = startsInHook ? hookBit : 0;
  bytes.set(resources, 1);
  return bytes;
}

/**
 * The chain in a field's bytes, of which it keeps a copy. Bits that this version does not know are skipped. Throws
 * PROTOCOL_VIOLATION.
 */
export function decodeChain(bytes: Uint8Array): CallChain {
  const count = (bytes.length - 1) / identityBytes;
  if (!Number.isInteger(count) || count < 0 || count > chainResourcesMax) {
    throw new LeverError(
      "PROTOCOL_VIOLATION",
      `the field chain has ${bytes.length} bytes, expected 1 and 8 for each of at most ${chainResourcesMax} resources`,
      { effect: "none" },
    );
  }
  if (((bytes[0] as number) & hookBit) === 0) return nestedChain;
  return { startsInHook: true, resources: bytes.slice(1) };
}

/**
 * The chain of a call to `resource` (an identity) that is made within `chain`. Throws HOOK_REENTRY if the chain starts
 * in a hook and has the resource already, or has as many as it may.
 */
export function chainTo(chain: CallChain, resource: Uint8Array): CallChain {
  const { resources } = chain;
  if (!chain.startsInHook) return chain;
  if (includes(resources, resource)) {
    throw new LeverError(
      "HOOK_REENTRY",
      "the call began in a hook of a resource, and has come back to a resource that it went through: each would wait " +
        "for the other",
      { effect: "none" },
    );
  }
  if (resources.length >= chainResourcesMax * identityBytes) {
    throw new LeverError(
      "HOOK_REENTRY",
      `the call began in a hook of a resource and has gone through ${chainResourcesMax} resources, the most that may be`,
      { effect: "none", details: { limit: "chainResourcesMax", chainResourcesMax } },
    );
  }
  const longer = new Uint8Array(resources.length + identityBytes);
  longer.set(resources);
  longer.set(resource, resources.length);
  return { startsInHook: true, resources: longer };
}

function includes(resources: Uint8Array, resource: Uint8Array): boolean {
  for (let at = 0; at < resources.length; at += identityBytes) {
    let same = 0;
    while (same < identityBytes && resources[at + same] === resource[same]) same++;
    if (same === identityBytes) return true;
  }
  return false;
}
