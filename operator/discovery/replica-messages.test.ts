import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { decodeReplicaMessage, encodeReplicaMessage, type ReplicaMessage } from "./replica-messages.ts";

const key = { environment: "shop", service: "chat", instance: "chat-1-aaaaa" };
const report = { ...key, address: "10.0.0.1:3837" };
const registration = { methods: [{ name: "say", kind: "call" as const }], resources: true, library: "l", version: "1" };

const messages: ReplicaMessage[] = [
  { type: "complete" },
  { type: "gone", ...key },
  { type: "heard", report, word: { says: "nothing" } },
  { type: "heard", report: { ...report, zone: "z1" }, word: { says: "draining" } },
  { type: "heard", report, word: { says: "unregister" } },
  { type: "heard", report, word: { says: "register", registration } },
];

describe("what replicas say", () => {
  test.each(messages.map((message) => [message.type, message] as const))("%s is read as it was said", (_, message) => {
    expect(decodeReplicaMessage(encodeReplicaMessage(message))).toEqual(message);
  });

  test("that this version does not know is passed over, and what is more in a message too", () => {
    expect(decodeReplicaMessage({ type: "later" })).toBeUndefined();
    expect(decodeReplicaMessage({ type: "heard", ...report, says: "later" })).toBeUndefined();
    expect(decodeReplicaMessage({ type: "gone", ...key, more: 1 })).toEqual({ type: "gone", ...key });
  });

  test.each<[unknown, string]>([
    [{ type: "gone", ...key, instance: "A B" }, "message.instance"],
    [{ type: "heard", ...report, address: "nowhere", says: "nothing" }, "message.address"],
    [{ type: "heard", ...report, says: 7 }, "message.says"],
    [{ type: "heard", ...report, says: "register" }, "message.methods"],
    [7, "message"],
  ])("%j breaks the rules, and the field is named", (value, field) => {
    expect(() => decodeReplicaMessage(value)).toThrow(
      expect.objectContaining({ reason: "PROTOCOL_VIOLATION", details: expect.objectContaining({ field }) }),
    );
  });

  test("whatever comes is read, passed over, or a typed error", () => {
    fc.assert(
      fc.property(fc.anything({ maxDepth: 3 }), (value) => {
        try {
          decodeReplicaMessage(value);
        } catch (error) {
          expect(error).toMatchObject({ reason: "PROTOCOL_VIOLATION" });
        }
      }),
    );
  });
});
