import { describe, expect, it } from "vitest";
import { LeverError } from "../error/lever-error.ts";
import { decodeValue } from "../value/decode.ts";
import { encodeValue } from "../value/encode.ts";
import {
  decodeAgentToAppMessage,
  decodeAppHolder,
  decodeAppMessage,
  decodeHandOverMessage,
  decodeHandOverRequest,
  decodeHolderIdentity,
  decodeHolderMessage,
  decodeLeaderMessage,
} from "./ownership.ts";

const at = { slot: 7, epoch: 1_764_000_000_123 };
const service = { environment: "dev", service: "chat" };
const state = { type: "state", ...at, resource: "room-7", form: "value" };
const token = { type: "token", ...at, resource: "", method: "pay", token: "order-1", flags: 4, forgetAt: 5 };
const closed = { type: "closed", ...at, hasState: true, absent: "fresh", tokensSince: 0 };

const identity = {
  ...service,
  instance: "chat-1-ab12",
  address: "127.0.0.1:4001",
  incarnation: "b1.0.s1",
  process: "p1",
  appStartedAt: 1_764_000_000_002,
  agentStartedAt: 1_764_000_000_001,
  isSilent: false,
  holds: [{ ...at, isDraining: false }],
  released: [{ slot: 8, epoch: 3, hasState: true }],
};

const read = {
  holder: decodeHolderMessage,
  leader: decodeLeaderMessage,
  "agent to app": decodeAgentToAppMessage,
  app: decodeAppMessage,
  "hand-over": decodeHandOverMessage,
} as const;

const messages: [keyof typeof read, Record<string, unknown>][] = [
  ["holder", { type: "renew", n: 1, ageMs: 12 }],
  ["holder", { type: "held", slots: [at] }],
  ["holder", { type: "neverHeld", slots: [at] }],
  ["holder", { type: "released", slots: [{ ...at, hasState: false }] }],
  ["holder", { type: "leaving" }],
  ["leader", { type: "renewed", n: 1 }],
  ["leader", { type: "grant", slots: [{ ...at, origin: { memory: "fresh" } }] }],
  ["leader", { type: "grant", slots: [{ ...at, origin: { memory: "state", address: "10.0.0.1:3837", epoch: 4 } }] }],
  ["leader", { type: "drain", slots: [{ ...at, next: at.epoch + 1 }] }],
  ["leader", { type: "resume", slots: [at] }],
  ["leader", { type: "withdraw", slots: [] }],
  ["leader", { type: "drop", slots: [at] }],
  ["agent to app", { type: "config", slots: 256, idleMs: 180_000, onLapse: "Kill", servesUncertain: false }],
  ["agent to app", { type: "ping", n: 3 }],
  ["agent to app", { type: "lease", n: 3, admitMs: 9000, killMs: -1, gateMs: 13_300 }],
  ["agent to app", { type: "open", ...at, absent: "lost", tokensSince: 9, keeps: 4 }],
  ["agent to app", { type: "open", ...at, absent: "fresh", tokensSince: 0 }],
  ["agent to app", { type: "drain", ...at }],
  ["agent to app", { type: "resume", ...at }],
  ["agent to app", { type: "abort", ...at }],
  ["agent to app", state],
  ["agent to app", token],
  ["app", { type: "pong", n: 3, asks: 4 }],
  ["app", { type: "opened", ...at }],
  ["app", { type: "left", ...at, count: 2 }],
  ["app", { type: "leaving" }],
  ["app", state],
  ["app", token],
  ["app", closed],
  ["hand-over", state],
  ["hand-over", token],
  ["hand-over", closed],
];

describe("messages", () => {
  it.each(messages)("of a %s pass as they are: $type", (from, message) => {
    const decode = read[from] as (value: unknown) => unknown;
    expect(decode(decodeValue(encodeValue(message, "message")))).toEqual(message);
    expect(decode({ ...message, later: [1] })).toEqual(message);
  });

  it.each(messages)("of a %s are refused without any one of their fields: $type", (from, message) => {
    const decode = read[from] as (value: unknown) => unknown;
    for (const key of Object.keys(message)) {
      if (key === "type" || key === "keeps") continue;
      const { [key]: _, ...rest } = message;
      expect(() => decode(rest), key).toThrow(LeverError);
      try {
        decode(rest);
      } catch (error) {
        expect(error).toMatchObject({ reason: "PROTOCOL_VIOLATION", details: { field: `message.${key}` } });
      }
    }
  });

  it.each(Object.keys(read) as (keyof typeof read)[])("of a %s with an unknown type are skipped", (from) => {
    expect(read[from]({ type: "later", slots: 5 })).toBeUndefined();
  });

  it.each([
    ["slot", { slot: 4096 }],
    ["slot", { slot: -1 }],
    ["epoch", { epoch: 2 ** 48 }],
    ["epoch", { epoch: 1.5 }],
  ])("are refused with a %s out of range", (field, wrong) => {
    const where = `message.slots[0].${field}`;
    for (const [decode, type] of [
      [decodeHolderMessage, "held"],
      [decodeLeaderMessage, "resume"],
    ] as const) {
      expect(() => decode({ type, slots: [{ ...at, ...wrong }] })).toThrow(where);
    }
  });
});

describe("openings", () => {
  it("pass as they are", () => {
    expect(decodeHolderIdentity([identity])).toEqual(identity);
    const app = { process: "p1", holds: [{ ...at, running: 2 }] };
    expect(decodeAppHolder([app])).toEqual(app);
    expect(decodeHandOverRequest([{ ...service, ...at }])).toEqual({ ...service, ...at });
  });

  it.each(Object.keys(identity))("of a holder are refused without %s", (key) => {
    const { [key as keyof typeof identity]: _, ...rest } = identity;
    expect(() => decodeHolderIdentity([rest])).toThrow(`args[0].${key}`);
  });

  it.each([undefined, null, 5, [], "x"])("are refused when they are %s", (wrong) => {
    expect(() => decodeHolderIdentity([wrong])).toThrow(LeverError);
    expect(() => decodeAppHolder([wrong])).toThrow(LeverError);
    expect(() => decodeHandOverRequest([wrong])).toThrow(LeverError);
  });
});
