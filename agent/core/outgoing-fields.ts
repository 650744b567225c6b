/**
 * The routing fields of a call that an app or a client makes, and what they become on its way to an instance.
 *
 * Invariant: what only agents may say (Epoch, Chain, Caller) is never taken from an app or a client, and Parent and Hook,
 * which have a meaning on the app's link only, go no further. A call with a resource goes on with Epoch as its first field, so
 * that each attempt can write its own.
 */

import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import type { Gate } from "@leveros/protocol/session/gate.ts";
import {
  FieldKey,
  integerField,
  routingFixedBytes,
  scanFields,
  withFields,
} from "@leveros/protocol/session/routing-header.ts";
import { xxHash32 } from "@leveros/protocol/target/slot.ts";
import { type CallChain, chainTo, decodeChain, encodeChain, nestedChain, resourceIdentity } from "./call-chain.ts";

/** What is known of a call beside its target. */
export interface OutgoingCall {
  /** xxHash32 of the resource; undefined if it names none. */
  readonly resourceHash: number | undefined;
  readonly hasToken: boolean;
  /** Made by a method or a hook of a resource: who drains still takes it. */
  readonly isNested: boolean;
  /** It is refused where it might wait for the hook that it began in. */
  readonly startsInHook: boolean;
  /** Of the slot whose method makes the call. */
  readonly gate: Gate | undefined;
}

/** Of a call without any such field. */
export const plainCall: OutgoingCall = {
  resourceHash: undefined,
  hasToken: false,
  isNested: false,
  startsInHook: false,
  gate: undefined,
};

/** The invocation within which an app makes a call. */
export interface ParentInvocation {
  /** The slot whose method runs; undefined for a method without a resource. */
  readonly slotEpoch: unknown;
  /** Of that slot. */
  readonly gate: Gate | undefined;
  /** The field Chain with which it came. */
  readonly chain: Uint8Array | undefined;
}

/** How a chain goes on from the app. */
export interface ChainStart {
  readonly chain: CallChain | undefined;
  readonly gate: Gate | undefined;
}

export interface OutgoingOptions {
  readonly environment: string;
  readonly service: string;
  /** The field Caller, encoded, to be put in; empty for an app's calls. */
  readonly caller: Uint8Array;
  /** The invocations of the app's session, by stream id; undefined for a client, which has none. */
  readonly invocations: ReadonlyMap<number, ParentInvocation> | undefined;
  /** The chain of a call that is made within a hook of the app's resource, and the gate of that resource's slot. */
  readonly hookOf?: ((resource: Uint8Array) => ChainStart) | undefined;
  /** Whatever still runs in the app is one of them: a call within another is of a method that may not call any more. */
  readonly areAllKnown?: boolean;
}

const written = [FieldKey.Epoch, FieldKey.Parent, FieldKey.Hook, FieldKey.Chain] as const;
const writtenWithCaller = [...written, FieldKey.Caller] as const;

/**
 * Reads the fields of `frame`, a first OPEN whose payload begins at `payloadAt`, and gives the frame that goes on.
 * Throws PROTOCOL_VIOLATION and VERSION_UNSUPPORTED for fields that are none, HEADER_TOO_LARGE, HOOK_REENTRY, and
 * CANCELLED if the invocation is over; all with effect none.
 */
export function outgoingCall(
  frame: Uint8Array,
  payloadAt: number,
  options: OutgoingOptions,
): { readonly call: OutgoingCall; readonly frame: Uint8Array } {
  const { caller } = options;
  if (payloadAt === routingFixedBytes) {
    return { call: plainCall, frame: caller.length === 0 ? frame : withFields(frame, [FieldKey.Caller], caller) };
  }
  const { resource, hasToken, epoch, parent, hook, chain } = scanFields(frame, routingFixedBytes, payloadAt);
  const made =
    hook !== undefined ? options.hookOf?.(hook) : parent === undefined ? undefined : madeWithin(parent, options);
  let goesOn = made?.chain;
  if (goesOn?.startsInHook === true && resource !== undefined) {
    goesOn = chainTo(goesOn, resourceIdentity(options.environment, options.service, resource));
  }
  const call: OutgoingCall = {
    resourceHash: resource === undefined ? undefined : xxHash32(resource),
    hasToken,
    isNested: goesOn !== undefined,
    startsInHook: goesOn?.startsInHook === true,
    gate: made?.gate,
  };
  const isWritten = resource !== undefined || goesOn !== undefined;
  const isForeign = epoch !== undefined || parent !== undefined || hook !== undefined || chain !== undefined;
  if (!isWritten && !isForeign && caller.length === 0) return { call, frame };
  const fields = joined(
    resource === undefined ? nothing : integerField(FieldKey.Epoch, 0, 6),
    goesOn === undefined ? nothing : chainField(goesOn),
    caller,
  );
  return { call, frame: withFields(frame, caller.length === 0 ? written : writtenWithCaller, fields) };
}

function madeWithin(parent: number, { invocations, areAllKnown = false }: OutgoingOptions): ChainStart | undefined {
  if (invocations === undefined) return undefined;
  const invocation = invocations.get(parent);
  if (invocation === undefined) {
    // Without resources nothing depends on it: a method may leave something behind that calls when it has returned.
    if (!areAllKnown) return undefined;
    throw new LeverError("CANCELLED", "the invocation within which the call was made is over", { effect: "none" });
  }
  const { slotEpoch, gate, chain } = invocation;
  if (chain !== undefined) return { chain: decodeChain(chain), gate };
  return { chain: slotEpoch === undefined ? undefined : nestedChain, gate };
}

function chainField(chain: CallChain): Uint8Array {
  const bytes = encodeChain(chain);
  const field = new Uint8Array(3 + bytes.length);
  field[0] = FieldKey.Chain;
  field[1] = bytes.length >>> 8;
  field[2] = bytes.length;
  field.set(bytes, 3);
  return field;
}

function joined(...parts: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}

const nothing = new Uint8Array(0);
