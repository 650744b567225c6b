/**
 * What is said about slots: by a holder's agent to the operator's leader on
 * `lever://lever-system/operator/ownershipChan`, and by an app that serves resources to its agent on
 * `lever://lever-system/agent/ownershipChan`.
 *
 * A slot is a part of a service's resources (`target/slot.ts`); leases, epochs and moves are of slots. The agent knows
 * slots only; what lies in them is the app's library's. A holder is an *incarnation*: one registration of an app process
 * at one start of its agent, between two lapses of its lease. One channel to the leader is one incarnation's.
 *
 * Messages are values, maps with a `type`; after `state` and `token` the next message is their bytes. Decoders are
 * strict about what they know and skip unknown types and keys.
 */

import { fromOutside } from "../invocation/token-memory.ts";
import { resourceBytesMax, tokenBytesMax } from "../session/routing-header.ts";
import { isDnsLabel, methodCharsMax } from "../target/lever-url.ts";
import {
  addressCharsMax,
  addressRule,
  epochMax,
  idCharsMax,
  idRule,
  isAddress,
  isId,
  type OnLapse,
  readService,
  slotsMax,
} from "./discovery.ts";
import { FieldReader } from "./field-reader.ts";

export const ownershipMethod = "ownershipChan";
/** The agent as a service, on the links with its app and with its peers. */
export const agentService = "agent";
/** `lever://lever-system/agent/handOverChan`: the next holder's agent fetches what the last one left in a slot. */
export const handOverMethod = "handOverChan";

/** Streams that a `pong` names. */
export const orphansMax = 1000;
const incarnationCharsMax = 128;
const typeCharsMax = 64;
/** Slots in one message: all of a service. */
const slotsPerMessageMax = slotsMax;

/** A slot under one epoch. */
export interface SlotEpoch {
  readonly slot: number;
  readonly epoch: number;
}

/**
 * What a resource of the slot finds at its first call here, unless it was handed over itself: `fresh`, nothing was cut
 * off, and what there was has left nothing; `lost`, something may have been cut off and nobody can say what.
 */
export type AbsentMemory = "fresh" | "lost";

// ------------------------------------------------------------------ holder and leader

/** Who opens the channel: the only argument. */
export interface HolderIdentity {
  readonly environment: string;
  readonly service: string;
  readonly instance: string;
  /** `host:port` where other agents reach this one. */
  readonly address: string;
  /** Never used again once a later one has been. */
  readonly incarnation: string;
  /** The app's process, as it calls itself: a later incarnation of it proves that the earlier ones hold nothing. */
  readonly process: string;
  /**
   * Not before the app's process began, and not before the agent's: wall-clock ms of their machine. What is proven to
   * have ended there ended later than that, or is another process.
   */
  readonly appStartedAt: number;
  readonly agentStartedAt: number;
  /** As `SilentMessage` says. What it reports to hold may be another's by then, by the proof that its process has ended. */
  readonly isSilent: boolean;
  /** What this incarnation holds by an earlier connection. */
  readonly holds: readonly HeldSlot[];
  /** What it has released, for as long as it has seen no higher epoch of the slot. */
  readonly released: readonly ReleasedSlot[];
}

export interface HeldSlot extends SlotEpoch {
  readonly isDraining: boolean;
}

export interface ReleasedSlot extends SlotEpoch {
  /** The holder keeps what the slot's resources left, for the holder of the next epoch to fetch. */
  readonly hasState: boolean;
}

/** The n-th renewal: the app's newest answer belongs to a ping that was sent `ageMs` before this message. */
export interface RenewMessage {
  readonly type: "renew";
  readonly n: number;
  readonly ageMs: number;
}

/** The slots that were granted are open. */
export interface HeldMessage {
  readonly type: "held";
  readonly slots: readonly SlotEpoch[];
}

/** Every method of the slots has returned, all channels have ended, the resources are closed. */
export interface ReleasedMessage {
  readonly type: "released";
  readonly slots: readonly ReleasedSlot[];
}

/**
 * The slots were not granted here under these epochs, or nothing was admitted to them, and they will not be taken: the
 * answer to `withdraw`, and to a grant that cannot be taken or whose app went away before it had opened the slot. What
 * the last holder left is for the next one still.
 */
export interface NeverHeldMessage {
  readonly type: "neverHeld";
  readonly slots: readonly SlotEpoch[];
}

/** The instance is about to stop: move all its slots, grant it no more. */
export interface LeavingMessage {
  readonly type: "leaving";
}

/**
 * The connection with the app is over, and nothing that the app had said is still to go out: with the end of the app's
 * process that proves that the incarnation holds nothing.
 */
export interface SilentMessage {
  readonly type: "silent";
}

export type HolderMessage =
  | RenewMessage
  | HeldMessage
  | ReleasedMessage
  | NeverHeldMessage
  | LeavingMessage
  | SilentMessage;

/** Answers exactly one renewal. */
export interface RenewedMessage {
  readonly type: "renewed";
  readonly n: number;
}

/** What a grant says of the slot's past. */
export type SlotOrigin =
  | { readonly memory: AbsentMemory }
  /** The holder of `epoch` has released it and keeps what was in it, at `address`. */
  | { readonly memory: "state"; readonly address: string; readonly epoch: number };

export type GrantedSlot = SlotEpoch & { readonly origin: SlotOrigin };

/** The slots are the incarnation's for as long as its lease runs, until it releases them. */
export interface GrantMessage {
  readonly type: "grant";
  readonly slots: readonly GrantedSlot[];
}

export interface DrainingSlot extends SlotEpoch {
  /** The epoch that callers are to wait for. */
  readonly next: number;
}

/** Come to an end with these slots and release them. */
export interface DrainMessage {
  readonly type: "drain";
  readonly slots: readonly DrainingSlot[];
}

/** The drain is called off. */
export interface ResumeMessage {
  readonly type: "resume";
  readonly slots: readonly SlotEpoch[];
}

/** To whom the slots were to be moved: the move is called off. Answer `neverHeld`, or `released` if they were opened. */
export interface WithdrawMessage {
  readonly type: "withdraw";
  readonly slots: readonly SlotEpoch[];
}

/** The incarnation reported slots that are not its own (any more): abort what runs, and report `released` without state. */
export interface DropMessage {
  readonly type: "drop";
  readonly slots: readonly SlotEpoch[];
}

export type LeaderMessage =
  | RenewedMessage
  | GrantMessage
  | DrainMessage
  | ResumeMessage
  | WithdrawMessage
  | DropMessage;

// ------------------------------------------------------------------ agent and app

/** Who opens the channel: the only argument. */
export interface AppHolder {
  /** Random, one for each process: at most 64 characters. */
  readonly process: string;
  /** What the process still has from an earlier connection. */
  readonly holds: readonly AppSlot[];
}

export interface AppSlot extends SlotEpoch {
  /** Methods of the slot that have not returned. */
  readonly running: number;
}

/** The first message. */
export interface ConfigMessage {
  readonly type: "config";
  readonly slots: number;
  readonly idleMs: number;
  readonly onLapse: OnLapse;
  /** The service is to serve even while nobody knows who holds a resource: there is no lease to keep. */
  readonly servesUncertain: boolean;
}

export interface PingMessage {
  readonly type: "ping";
  readonly n: number;
}

/** Answers the app's question `n`: how much of the lease is left, ms; below 0 once it is over. */
export interface LeaseMessage {
  readonly type: "lease";
  readonly n: number;
  readonly admitMs: number;
  readonly killMs: number;
  readonly gateMs: number;
}

/**
 * The slot is the app's, after the `state` and `token` messages of what the last holder left in it. Answer `opened`.
 * `keeps`: what the process itself has of this earlier epoch is handed over within it.
 */
export interface OpenSlotMessage extends SlotEpoch {
  readonly type: "open";
  readonly absent: AbsentMemory;
  /** From when on (wall-clock ms) every token is remembered; 0: always. */
  readonly tokensSince: number;
  readonly keeps?: number;
}

/** Close the slot as soon as no method runs in it any more. Answer `closed`. */
export interface DrainSlotMessage extends SlotEpoch {
  readonly type: "drain";
}

export interface ResumeSlotMessage extends SlotEpoch {
  readonly type: "resume";
}

/** Lost: abort what runs, and answer `closed` when it has returned. */
export interface AbortSlotMessage extends SlotEpoch {
  readonly type: "abort";
}

/** What one resource left. The next message is its bytes. In both directions. */
export interface StateMessage extends SlotEpoch {
  readonly type: "state";
  readonly resource: string;
  /** Of the bytes: raw, or one encoded value. */
  readonly form: "bytes" | "value";
}

/** The outcome of a call with a token. The next message is its bytes. In both directions. */
export interface TokenMessage extends SlotEpoch {
  readonly type: "token";
  readonly resource: string;
  readonly method: string;
  readonly token: string;
  /** Of a stranger: its environment, if that is another one than the service's, or `fromOutside`. */
  readonly from?: string;
  /** The reply's flags. */
  readonly flags: number;
  /** Wall-clock ms. */
  readonly forgetAt: number;
}

export type AgentToAppMessage =
  | ConfigMessage
  | PingMessage
  | LeaseMessage
  | OpenSlotMessage
  | DrainSlotMessage
  | ResumeSlotMessage
  | AbortSlotMessage
  | StateMessage
  | TokenMessage;

/** The answer to ping `n`, and the app's own question `asks`. */
export interface PongMessage {
  readonly type: "pong";
  readonly n: number;
  readonly asks: number;
  /**
   * The streams of methods that run although their stream has ended: its caller cancelled, or they closed their channel.
   * At most `orphansMax`; left out if there are more.
   */
  readonly orphans?: readonly number[];
}

export interface OpenedMessage extends SlotEpoch {
  readonly type: "opened";
}

/** After the slot's `state` and `token` messages, if there are any. */
export interface ClosedMessage extends SlotEpoch {
  readonly type: "closed";
  /** What was in the slot is handed over, all of it. */
  readonly hasState: boolean;
  readonly absent: AbsentMemory;
  readonly tokensSince: number;
}

/** Methods have returned whose caller had gone before: nothing else tells the agent. */
export interface LeftMessage extends SlotEpoch {
  readonly type: "left";
  readonly count: number;
}

/** The app is about to stop, as in `HolderMessage`; it goes on until all its slots are closed. */
export type AppMessage =
  | PongMessage
  | OpenedMessage
  | ClosedMessage
  | LeftMessage
  | StateMessage
  | TokenMessage
  | LeavingMessage;

// ------------------------------------------------------------------ hand-over between agents

/** The only argument of `handOverChan`. Its messages: `state` and `token`, then one `closed`. */
export interface HandOverRequest extends SlotEpoch {
  readonly environment: string;
  readonly service: string;
}

export type HandOverMessage = StateMessage | TokenMessage | ClosedMessage;

// ------------------------------------------------------------------ reading

/** Checks the opening's argument. Throws INVALID_ARGUMENTS (`details.field`). */
export function decodeHolderIdentity(args: readonly unknown[]): HolderIdentity {
  const fields = new FieldReader(args[0], "args[0]", "INVALID_ARGUMENTS");
  return {
    ...readService(fields),
    instance: fields.text("instance", idCharsMax, isId, idRule),
    address: fields.text("address", addressCharsMax, isAddress, addressRule),
    incarnation: fields.text("incarnation", incarnationCharsMax, isFilled, filledRule),
    process: fields.text("process", typeCharsMax, isFilled, filledRule),
    appStartedAt: readCount(fields, "appStartedAt"),
    agentStartedAt: readCount(fields, "agentStartedAt"),
    isSilent: fields.boolean("isSilent"),
    holds: fields.maps("holds", slotsPerMessageMax).map((slot) => ({
      ...readSlotEpoch(slot),
      isDraining: slot.boolean("isDraining"),
    })),
    released: readReleased(fields, "released"),
  };
}

/** Checks the opening's argument. Throws INVALID_ARGUMENTS (`details.field`). */
export function decodeAppHolder(args: readonly unknown[]): AppHolder {
  const fields = new FieldReader(args[0], "args[0]", "INVALID_ARGUMENTS");
  return {
    process: fields.text("process", typeCharsMax, isFilled, filledRule),
    holds: fields.maps("holds", slotsPerMessageMax).map((slot) => ({
      ...readSlotEpoch(slot),
      running: slot.integer("running", 0, Number.MAX_SAFE_INTEGER),
    })),
  };
}

/** Checks the opening's argument. Throws INVALID_ARGUMENTS (`details.field`). */
export function decodeHandOverRequest(args: readonly unknown[]): HandOverRequest {
  const fields = new FieldReader(args[0], "args[0]", "INVALID_ARGUMENTS");
  return { ...readService(fields), ...readSlotEpoch(fields) };
}

/** Undefined for a type that this version does not know. Throws PROTOCOL_VIOLATION (`details.field`). */
export function decodeHolderMessage(value: unknown): HolderMessage | undefined {
  const fields = new FieldReader(value, "message", "PROTOCOL_VIOLATION");
  const type = fields.text("type", typeCharsMax);
  switch (type) {
    case "renew":
      return { type, n: readCount(fields, "n"), ageMs: readCount(fields, "ageMs") };
    case "held":
    case "neverHeld":
      return { type, slots: readSlots(fields) };
    case "released":
      return { type, slots: readReleased(fields, "slots") };
    case "leaving":
    case "silent":
      return { type };
    default:
      return undefined;
  }
}

/** Undefined for a type that this version does not know. Throws PROTOCOL_VIOLATION (`details.field`). */
export function decodeLeaderMessage(value: unknown): LeaderMessage | undefined {
  const fields = new FieldReader(value, "message", "PROTOCOL_VIOLATION");
  const type = fields.text("type", typeCharsMax);
  switch (type) {
    case "renewed":
      return { type, n: readCount(fields, "n") };
    case "grant":
      return {
        type,
        slots: fields.maps("slots", slotsPerMessageMax).map((slot) => ({
          ...readSlotEpoch(slot),
          origin: readOrigin(slot.map("origin")),
        })),
      };
    case "drain":
      return {
        type,
        slots: fields.maps("slots", slotsPerMessageMax).map((slot) => ({
          ...readSlotEpoch(slot),
          next: slot.integer("next", 0, epochMax),
        })),
      };
    case "resume":
    case "withdraw":
    case "drop":
      return { type, slots: readSlots(fields) };
    default:
      return undefined;
  }
}

/** Undefined for a type that this version does not know. Throws PROTOCOL_VIOLATION (`details.field`). */
export function decodeAgentToAppMessage(value: unknown): AgentToAppMessage | undefined {
  const fields = new FieldReader(value, "message", "PROTOCOL_VIOLATION");
  const type = fields.text("type", typeCharsMax);
  switch (type) {
    case "config":
      return {
        type,
        slots: fields.integer("slots", 1, slotsMax),
        idleMs: readCount(fields, "idleMs"),
        onLapse: fields.text("onLapse", 32) === "Kill" ? "Kill" : "Abort",
        servesUncertain: fields.boolean("servesUncertain"),
      };
    case "ping":
      return { type, n: readCount(fields, "n") };
    case "lease":
      return {
        type,
        n: readCount(fields, "n"),
        admitMs: readDuration(fields, "admitMs"),
        killMs: readDuration(fields, "killMs"),
        gateMs: readDuration(fields, "gateMs"),
      };
    case "open":
      return {
        type,
        ...readSlotEpoch(fields),
        absent: readAbsent(fields, "absent"),
        tokensSince: readCount(fields, "tokensSince"),
        ...(fields.has("keeps") && { keeps: fields.integer("keeps", 0, epochMax) }),
      };
    case "drain":
    case "resume":
    case "abort":
      return { type, ...readSlotEpoch(fields) };
    case "state":
    case "token":
      return readItem(type, fields);
    default:
      return undefined;
  }
}

/** Undefined for a type that this version does not know. Throws PROTOCOL_VIOLATION (`details.field`). */
export function decodeAppMessage(value: unknown): AppMessage | undefined {
  const fields = new FieldReader(value, "message", "PROTOCOL_VIOLATION");
  const type = fields.text("type", typeCharsMax);
  switch (type) {
    case "pong":
      return {
        type,
        n: readCount(fields, "n"),
        asks: readCount(fields, "asks"),
        ...(fields.has("orphans") && { orphans: readStreams(fields, "orphans") }),
      };
    case "opened":
      return { type, ...readSlotEpoch(fields) };
    case "left":
      return { type, ...readSlotEpoch(fields), count: readCount(fields, "count") };
    case "leaving":
      return { type };
    default:
      return readHandOver(type, fields);
  }
}

/** Undefined for a type that this version does not know. Throws PROTOCOL_VIOLATION (`details.field`). */
export function decodeHandOverMessage(value: unknown): HandOverMessage | undefined {
  const fields = new FieldReader(value, "message", "PROTOCOL_VIOLATION");
  return readHandOver(fields.text("type", typeCharsMax), fields);
}

function readHandOver(type: string, fields: FieldReader): HandOverMessage | undefined {
  switch (type) {
    case "state":
    case "token":
      return readItem(type, fields);
    case "closed":
      return {
        type,
        ...readSlotEpoch(fields),
        hasState: fields.boolean("hasState"),
        absent: readAbsent(fields, "absent"),
        tokensSince: readCount(fields, "tokensSince"),
      };
    default:
      return undefined;
  }
}

function readItem(type: "state" | "token", fields: FieldReader): StateMessage | TokenMessage {
  // The rule counts bytes; a name of that many characters may be longer, and is refused where it is used.
  const resource = fields.text("resource", resourceBytesMax);
  if (type === "state") {
    const form = fields.text("form", 16, (text) => text === "bytes" || text === "value", '"bytes" or "value"');
    return { type, ...readSlotEpoch(fields), resource, form: form as StateMessage["form"] };
  }
  const isFrom = (text: string) => text === fromOutside || isDnsLabel(text);
  const from = fields.optionalText("from", 63, isFrom, `an environment, or "${fromOutside}"`);
  return {
    type,
    ...readSlotEpoch(fields),
    resource,
    method: fields.text("method", methodCharsMax),
    token: fields.text("token", tokenBytesMax),
    ...(from !== undefined && { from }),
    flags: fields.integer("flags", 0, 255),
    forgetAt: readCount(fields, "forgetAt"),
  };
}

function readSlotEpoch(fields: FieldReader): SlotEpoch {
  return { slot: fields.integer("slot", 0, slotsMax - 1), epoch: fields.integer("epoch", 0, epochMax) };
}

function readSlots(fields: FieldReader): SlotEpoch[] {
  return fields.maps("slots", slotsPerMessageMax).map(readSlotEpoch);
}

function readReleased(fields: FieldReader, key: string): ReleasedSlot[] {
  return fields.maps(key, slotsPerMessageMax).map((slot) => ({
    ...readSlotEpoch(slot),
    hasState: slot.boolean("hasState"),
  }));
}

function readOrigin(fields: FieldReader): SlotOrigin {
  const memory = fields.text("memory", 16, (text) => memories.has(text), '"fresh", "lost" or "state"');
  if (memory !== "state") return { memory: memory as AbsentMemory };
  return {
    memory,
    address: fields.text("address", addressCharsMax, isAddress, addressRule),
    epoch: fields.integer("epoch", 0, epochMax),
  };
}

const memories: ReadonlySet<string> = new Set(["fresh", "lost", "state"]);

function readAbsent(fields: FieldReader, key: string): AbsentMemory {
  const isAbsent = (text: string) => text === "fresh" || text === "lost";
  return fields.text(key, 16, isAbsent, '"fresh" or "lost"') as AbsentMemory;
}

function readCount(fields: FieldReader, key: string): number {
  return fields.integer(key, 0, Number.MAX_SAFE_INTEGER);
}

function readStreams(fields: FieldReader, key: string): number[] {
  return fields.list(key, orphansMax).map((id) => {
    if (typeof id !== "number" || !Number.isInteger(id) || id < 0 || id > 0xffffffff) {
      fields.refuse(key, "the numbers of streams");
    }
    return id as number;
  });
}

function readDuration(fields: FieldReader, key: string): number {
  return fields.integer(key, Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER);
}

const isFilled = (text: string) => text !== "";
const filledRule = "1 or more characters";
