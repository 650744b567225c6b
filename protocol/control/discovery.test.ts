import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { LeverError } from "../error/lever-error.ts";
import { decodeValue } from "../value/decode.ts";
import { encodeValue } from "../value/encode.ts";
import {
  decodeAgentMessage,
  decodeDiscoveryIdentity,
  decodeOperatorMessage,
  defaultServicePolicy,
  isAddress,
  type OperatorMessage,
} from "./discovery.ts";

const instance = { id: "chat-1-ab12", address: "127.0.0.1:4001", zone: "z1", state: "Serving" };
const service = { environment: "dev", service: "chat" };
const table = {
  type: "table",
  ...service,
  origin: "run-1",
  version: 7,
  part: 0,
  more: false,
  exists: true,
  instances: [instance],
  policy: defaultServicePolicy,
};
const delta = { type: "delta", ...service, from: 7, version: 9, changed: [instance], removed: ["chat-2-ab12"] };
const register = {
  type: "register",
  methods: [{ name: "say", kind: "call" }],
  resources: false,
  library: "leveros",
  version: "0.1.0",
};

function refusal(run: () => unknown): LeverError {
  try {
    run();
  } catch (error) {
    if (LeverError.is(error)) return error;
    throw error;
  }
  throw new Error("nothing was refused");
}

function withAccess(part: object) {
  return { ...defaultServicePolicy, access: { ...defaultServicePolicy.access, ...part } };
}

describe("messages", () => {
  const agentMessages = [
    { type: "subscribe", ...service },
    { type: "subscribe", ...service, version: 0, origin: "run-1" },
    { type: "unsubscribe", ...service },
    register,
    { type: "unregister" },
    { type: "draining" },
  ];
  it.each(agentMessages)("of an agent pass as they are: $type", (message) => {
    expect(decodeAgentMessage(decodeValue(encodeValue(message, "message")))).toEqual(message);
    expect(decodeAgentMessage({ ...message, later: [1] })).toEqual(message);
  });

  const operatorMessages = [
    table,
    { ...table, exists: false, instances: [] },
    delta,
    { ...delta, policy: { ...defaultServicePolicy, methods: [{ name: "say", timeoutMs: 1, idempotent: true }] } },
    { ...table, policy: withAccess({}) },
    {
      ...table,
      policy: withAccess({ callers: [{ environment: "billing" }, { environment: "crm", service: "people" }] }),
    },
    { ...delta, policy: withAccess({ gateway: { expose: "Public" } }) },
    { ...delta, policy: withAccess({ gateway: { expose: "Public", methods: ["say", "joinChan"] } }) },
  ];
  it.each(operatorMessages)("of the operator pass as they are: $type", (message) => {
    expect(decodeOperatorMessage(decodeValue(encodeValue(message, "message")))).toEqual(message);
    expect(decodeOperatorMessage({ ...message, later: { a: 1 } })).toEqual(message);
  });

  it("of a type that is not known yet are skipped", () => {
    expect(decodeAgentMessage({ type: "report", load: 3 })).toBeUndefined();
    expect(decodeOperatorMessage({ type: "slots", runs: [] })).toBeUndefined();
  });

  it("with a state that is not known yet say Unreachable, so that nobody calls the instance", () => {
    const message = decodeOperatorMessage({ ...table, instances: [{ ...instance, state: "Frozen" }] });
    expect((message as OperatorMessage & { type: "table" }).instances[0]?.state).toBe("Unreachable");
  });

  it("without access, or with one that is not known yet, are for the own environment alone", () => {
    const { access: _, ...before } = defaultServicePolicy;
    expect(decodeOperatorMessage({ ...table, policy: before })).toEqual(table);
    const later = withAccess({ gateway: { expose: "Authenticated", issuers: [1] } });
    expect(decodeOperatorMessage({ ...table, policy: later })).toEqual(table);
  });

  it("without a policy give the default one", () => {
    expect(decodeOperatorMessage({ ...table, policy: null })).toEqual(table);
  });

  const invalid: [(value: unknown) => unknown, unknown, string][] = [
    [decodeAgentMessage, "subscribe", "message"],
    [decodeAgentMessage, new Uint8Array(3), "message"],
    [decodeAgentMessage, {}, "message.type"],
    [decodeAgentMessage, { type: "x".repeat(65) }, "message.type"],
    [decodeAgentMessage, { type: "subscribe", service: "chat" }, "message.environment"],
    [decodeAgentMessage, { type: "subscribe", ...service, service: "Chat" }, "message.service"],
    [decodeAgentMessage, { type: "subscribe", ...service, version: 1 }, "message.origin"],
    [decodeAgentMessage, { type: "subscribe", ...service, origin: "run-1" }, "message.version"],
    [decodeAgentMessage, { type: "subscribe", ...service, version: 1.5, origin: "run-1" }, "message.version"],
    [decodeAgentMessage, { type: "unsubscribe", environment: "dev" }, "message.service"],
    [decodeAgentMessage, { ...register, methods: [{ name: "_x", kind: "call" }] }, "message.methods[0].name"],
    [decodeOperatorMessage, { ...table, origin: 7 }, "message.origin"],
    [decodeOperatorMessage, { ...table, version: -1 }, "message.version"],
    [decodeOperatorMessage, { ...table, exists: "yes" }, "message.exists"],
    [decodeOperatorMessage, { ...table, more: undefined }, "message.more"],
    [decodeOperatorMessage, { ...table, part: 10_001 }, "message.part"],
    [decodeOperatorMessage, { ...table, instances: null }, "message.instances"],
    [decodeOperatorMessage, { ...table, instances: Array(1001).fill(instance) }, "message.instances"],
    [decodeOperatorMessage, { ...table, instances: [instance, 7] }, "message.instances[1]"],
    [decodeOperatorMessage, { ...table, instances: [{ ...instance, id: "" }] }, "message.instances[0].id"],
    [decodeOperatorMessage, { ...table, instances: [{ ...instance, id: "a/b" }] }, "message.instances[0].id"],
    [decodeOperatorMessage, { ...table, instances: [{ ...instance, state: 4 }] }, "message.instances[0].state"],
    [decodeOperatorMessage, { ...table, instances: [{ ...instance, address: "" }] }, "message.instances[0].address"],
    [decodeOperatorMessage, { ...table, instances: [{ ...instance, zone: 1 }] }, "message.instances[0].zone"],
    [decodeOperatorMessage, { ...table, policy: [] }, "message.policy"],
    [decodeOperatorMessage, { ...table, policy: { ...defaultServicePolicy, limits: 1 } }, "message.policy.limits"],
    [
      decodeOperatorMessage,
      { ...table, policy: { ...defaultServicePolicy, limits: { ...defaultServicePolicy.limits, argsBytes: -1 } } },
      "message.policy.limits.argsBytes",
    ],
    [
      decodeOperatorMessage,
      { ...delta, policy: { ...defaultServicePolicy, methods: [{ name: "_", timeoutMs: 1, idempotent: true }] } },
      "message.policy.methods[0].name",
    ],
    [
      decodeOperatorMessage,
      { ...delta, policy: { ...defaultServicePolicy, methods: [{ name: "*", timeoutMs: 0, idempotent: true }] } },
      "message.policy.methods[0].timeoutMs",
    ],
    ...(
      [
        [{ callers: {} }, "callers"],
        [{ callers: [7] }, "callers[0]"],
        [{ callers: [{ service: "people" }] }, "callers[0].environment"],
        [{ callers: [{ environment: "a/b" }] }, "callers[0].environment"],
        [{ callers: [{ environment: "crm", service: "" }] }, "callers[0].service"],
        [{ callers: Array(257).fill({ environment: "crm" }) }, "callers"],
        [{ gateway: "Public" }, "gateway"],
        [{ gateway: {} }, "gateway.expose"],
        [{ gateway: { expose: "Public", methods: "say" } }, "gateway.methods"],
        [{ gateway: { expose: "Public", methods: ["say", "_say"] } }, "gateway.methods"],
        [{ gateway: { expose: "Public", methods: Array(1001).fill("say") } }, "gateway.methods"],
      ] as const
    ).map(([part, field]): [(value: unknown) => unknown, unknown, string] => [
      decodeOperatorMessage,
      { ...table, policy: withAccess(part) },
      `message.policy.access.${field}`,
    ]),
    [decodeOperatorMessage, { ...table, policy: { ...defaultServicePolicy, access: [] } }, "message.policy.access"],
    [decodeOperatorMessage, { ...delta, from: "7" }, "message.from"],
    [decodeOperatorMessage, { ...delta, changed: {} }, "message.changed"],
    [decodeOperatorMessage, { ...delta, removed: ["ok", ""] }, "message.removed"],
    [decodeOperatorMessage, { ...delta, removed: Array(1001).fill("x") }, "message.removed"],
  ];
  it.each(invalid)("%o refuses %j, by field", (decode, value, field) => {
    expect(refusal(() => decode(value))).toMatchObject({
      reason: "PROTOCOL_VIOLATION",
      effect: "none",
      details: { field },
    });
  });

  it("of any value give a typed error or a message", () => {
    const pieces = fc.constantFrom<unknown>(table, delta, register, instance, 7, "chat", null, [instance], true);
    const keys = [...new Set([...Object.keys(table), ...Object.keys(delta), ...Object.keys(register)])];
    const mutated = fc
      .tuple(
        fc.constantFrom<object>(table, delta, register),
        fc.constantFrom(...keys),
        fc.oneof(pieces, fc.jsonValue()),
      )
      .map(([message, key, value]) => ({ ...message, [key]: value }));
    fc.assert(
      fc.property(fc.oneof(fc.jsonValue(), mutated), (value) => {
        for (const decode of [decodeAgentMessage, decodeOperatorMessage]) {
          try {
            const message = decode(value);
            // What passed once passes again, unchanged.
            if (message !== undefined) expect(decode(message)).toEqual(message);
          } catch (error) {
            if (!LeverError.is(error)) throw error;
            expect(error.reason).toBe("PROTOCOL_VIOLATION");
          }
        }
      }),
      { numRuns: 2000 },
    );
  });
});

describe("the opening's argument", () => {
  const whole = { role: "agent", ...service, instance: "chat-1-ab12", address: "[::1]:4001", zone: "z1" };

  it("names the instance wholly, or none", () => {
    expect(decodeDiscoveryIdentity([whole])).toEqual(whole);
    expect(decodeDiscoveryIdentity([{ role: "gateway", environment: "dev", later: 1 }])).toEqual({ role: "gateway" });
  });

  it.each([
    [[], "args[0]"],
    [[null], "args[0]"],
    [[{}], "args[0].role"],
    [[{ role: "operator" }], "args[0].role"],
    [[{ ...whole, environment: undefined }], "args[0].environment"],
    [[{ ...whole, service: undefined }], "args[0].service"],
    [[{ ...whole, address: undefined }], "args[0].address"],
    [[{ ...whole, address: "127.0.0.1" }], "args[0].address"],
    [[{ ...whole, instance: "UPPER" }], "args[0].instance"],
    [[{ ...whole, zone: "z".repeat(64) }], "args[0].zone"],
  ])("%j is refused, by field", (args, field) => {
    expect(refusal(() => decodeDiscoveryIdentity(args))).toMatchObject({
      reason: "INVALID_ARGUMENTS",
      effect: "none",
      details: { field },
    });
  });
});

describe("an address", () => {
  it.each(["127.0.0.1:1", "10.244.1.7:3837", "localhost:65535", "[::1]:80", "[fe80::1%eth0]:80"])(
    "may be %s",
    (text) => {
      expect(isAddress(text)).toBe(true);
    },
  );

  it.each([
    "",
    ":80",
    "host",
    "host:",
    "host:0",
    "host:65536",
    "host:80:80",
    "::1:80",
    "ho st:80",
    "host:080",
    "h:8/x",
  ])("may not be %j", (text) => {
    expect(isAddress(text)).toBe(false);
  });
});
