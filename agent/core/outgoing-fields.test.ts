import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import type { Gate } from "@leveros/protocol/session/gate.ts";
import {
  decodeFields,
  encodeFields,
  FieldKey,
  type RoutingFields,
  routingFixedBytes,
} from "@leveros/protocol/session/routing-header.ts";
import { xxHash32 } from "@leveros/protocol/target/slot.ts";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { chainTo, decodeChain, encodeChain, hookChain, resourceIdentity } from "./call-chain.ts";
import { type OutgoingOptions, outgoingCall, type ParentInvocation, plainCall } from "./outgoing-fields.ts";

const environment = "dev";
const service = "chat";
const args = Uint8Array.of(9, 8, 7);
const gate: Gate = { isOpen: true };
const noCaller = new Uint8Array(0);
const identityOf = (resource: string) => resourceIdentity(environment, service, Buffer.from(resource));

function frameOf(fields: RoutingFields): { frame: Uint8Array; payloadAt: number } {
  const encoded = encodeFields(fields);
  const payloadAt = routingFixedBytes + encoded.length;
  const frame = new Uint8Array(payloadAt + args.length);
  frame.set([0, 5, 0, 0, 1, 0, encoded.length >>> 8, encoded.length & 0xff]);
  frame.set(encoded, routingFixedBytes);
  frame.set(args, payloadAt);
  return { frame, payloadAt };
}

function go(fields: RoutingFields, options: Partial<OutgoingOptions> = {}) {
  const { frame, payloadAt } = frameOf(fields);
  const before = frame.slice();
  const out = outgoingCall(frame, payloadAt, {
    environment,
    service,
    caller: noCaller,
    invocations: new Map(),
    areAllKnown: true,
    ...options,
  });
  // What came in may be needed as it was.
  expect(frame).toEqual(before);
  const end = routingFixedBytes + (((out.frame[6] as number) << 8) | (out.frame[7] as number));
  expect([...out.frame.subarray(0, 6)]).toEqual([0, 5, 0, 0, 1, 0]);
  expect(out.frame.subarray(end)).toEqual(args);
  return { ...out, isSame: out.frame === frame, fields: decodeFields(out.frame.subarray(routingFixedBytes, end)) };
}

function reasonOf(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    const { reason, effect } = LeverError.from(error);
    return `${effect} ${reason}`;
  }
  return "none";
}

const within = (id: number, invocation: Partial<ParentInvocation>): Partial<OutgoingOptions> => ({
  invocations: new Map([[id, { slotEpoch: undefined, gate: undefined, chain: undefined, ...invocation }]]),
});

describe("the fields of a call on its way out", () => {
  it("stay as they are in a call that needs none", () => {
    expect(go({})).toMatchObject({ call: plainCall, isSame: true });
    const fields = { token: "t", metadata: { a: "b" } };
    expect(go(fields)).toMatchObject({ call: { ...plainCall, hasToken: true }, isSame: true, fields });
  });

  it("begin with an epoch where there is a resource, to be written over", () => {
    const { frame, call, fields } = go({ resource: "a/é", token: "t" });
    expect(call).toEqual({ ...plainCall, resourceHash: xxHash32(Buffer.from("a/é")), hasToken: true });
    expect([...frame.subarray(routingFixedBytes, routingFixedBytes + 9)]).toEqual([
      FieldKey.Epoch,
      0,
      6,
      0,
      0,
      0,
      0,
      0,
      0,
    ]);
    expect(fields).toEqual({ resource: "a/é", token: "t", epoch: 0 });
  });

  it("lose what only agents may say", () => {
    const foreign = { epoch: 5, chain: Uint8Array.of(1), metadata: { a: "b" } };
    expect(go(foreign).fields).toEqual({ metadata: { a: "b" } });
    const caller = encodeFields({ caller: { outside: true } });
    const byClient = go({ ...foreign, hook: "a", caller: { service: "liar" } }, { caller, invocations: undefined });
    expect(byClient.fields).toEqual({ metadata: { a: "b" }, caller: { outside: true } });
    expect(byClient.call).toEqual(plainCall);
    expect(go({}, { caller }).fields).toEqual({ caller: { outside: true } });
  });

  it("of a method of a resource: a chain, and the gate of its slot", () => {
    const made = within(7, { slotEpoch: 3, gate });
    const { call, fields } = go({ resource: "b", parent: 7 }, made);
    expect(call).toMatchObject({ isNested: true, startsInHook: false, gate });
    expect(fields).toEqual({ resource: "b", epoch: 0, chain: Uint8Array.of(0) });
    expect(go({ parent: 7 }, made).fields).toEqual({ chain: Uint8Array.of(0) });
    // One that is served although nobody holds the slot has no gate.
    expect(go({ parent: 7 }, within(7, { slotEpoch: 0 })).fields).toEqual({ chain: Uint8Array.of(0) });
  });

  it("of a method without a resource: the chain that it was called with, or none", () => {
    expect(go({ parent: 7 }, within(7, {}))).toMatchObject({ call: plainCall, fields: {} });
    const { call, fields } = go({ parent: 7 }, within(7, { chain: Uint8Array.of(0) }));
    expect([call.isNested, fields]).toEqual([true, { chain: Uint8Array.of(0) }]);
  });

  it("of a hook, and of what a hook has called: the resources on the way", () => {
    const asked: string[] = [];
    const hookOf = (resource: Uint8Array) => {
      asked.push(new TextDecoder().decode(resource));
      return { chain: chainTo(hookChain, identityOf("own")), gate };
    };
    const first = go({ resource: "a", hook: "own" }, { hookOf });
    expect(asked).toEqual(["own"]);
    expect(first.call).toMatchObject({ isNested: true, startsInHook: true, gate });
    expect(first.fields.hook).toBeUndefined();
    const chain = first.fields.chain as Uint8Array;
    const started = chainTo(hookChain, identityOf("own"));
    expect(decodeChain(chain)).toEqual(chainTo(started, identityOf("a")));
    expect(reasonOf(() => go({ resource: "own", hook: "own" }, { hookOf }))).toBe("none HOOK_REENTRY");
    expect(reasonOf(() => go({ resource: "own", parent: 7 }, within(7, { chain })))).toBe("none HOOK_REENTRY");
    const second = go({ resource: "b", parent: 7 }, within(7, { slotEpoch: 1, gate, chain }));
    expect(second.call).toMatchObject({ startsInHook: true, gate });
    expect(decodeChain(second.fields.chain as Uint8Array)).toEqual(
      chainTo(chainTo(started, identityOf("a")), identityOf("b")),
    );
    expect(go({ parent: 7 }, within(7, { chain })).fields.chain).toEqual(chain);
    expect(reasonOf(() => go({ resource: "a", parent: 7 }, within(7, { chain })))).toBe("none HOOK_REENTRY");
  });

  it("of an invocation that is over: refused where all that runs is known", () => {
    expect(reasonOf(() => go({ parent: 7 }))).toBe("none CANCELLED");
    expect(go({ parent: 7, token: "t" }, { areAllKnown: false }).fields).toEqual({ token: "t" });
  });

  it("grow too large with a chain: refused", () => {
    const chain = encodeChain({ startsInHook: true, resources: new Uint8Array(8 * 60) });
    const metadata = { a: "x".repeat(16_000) };
    expect(reasonOf(() => go({ metadata, parent: 7 }, within(7, { chain })))).toBe("none HEADER_TOO_LARGE");
  });

  it("whatever comes, give a call or a refusal that says none", () => {
    const options = { environment, service, caller: noCaller, ...within(7, { slotEpoch: 1, gate }) } as OutgoingOptions;
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        const frame = new Uint8Array(routingFixedBytes + bytes.length);
        frame[7] = bytes.length;
        frame.set(bytes, routingFixedBytes);
        expect(reasonOf(() => outgoingCall(frame, frame.length, options))).toMatch(
          /^none( (PROTOCOL_VIOLATION|VERSION_UNSUPPORTED|CANCELLED))?$/,
        );
      }),
    );
  });
});
