/**
 * What agents and the operator say to each other on `lever://lever-system/operator/discoveryChan`.
 *
 * An agent (or gateway) opens the channel with one argument, who it is. Then it asks for the tables of services and
 * reports its app; the operator answers each `subscribe` with the service's table and goes on with deltas. Messages are
 * values, maps with a `type`. Decoders are strict about what they know and skip unknown types and keys, so that
 * neighbouring versions work together.
 *
 * Versions are ordered within one `origin` only (the process or store that gave them): a delta applies to exactly the
 * version in `from`; a full table replaces whatever was there.
 */

import { argsBytesDefault, messageBytesDefault, resultBytesDefault } from "../invocation/item-limits.ts";
import { isCallableName, methodCharsMax } from "../target/lever-url.ts";
import { type AccessPolicy, defaultAccessPolicy, readAccess } from "./access.ts";
import { FieldReader } from "./field-reader.ts";
import { leaseMsMax, leaseMsMin } from "./lease.ts";
import { type Registration, readRegistration } from "./registration.ts";

/** Where the operator's discovery is: `lever://lever-system/operator/discoveryChan`. */
export const operatorEnvironment = "lever-system";
export const operatorService = "operator";
export const discoveryMethod = "discoveryChan";

/** Subscriptions of one agent. */
export const subscriptionsMax = 10_000;
/** Instances in one message; a larger table comes in several. */
export const instancesPerMessageMax = 1000;
/** Instances of one service. */
export const instancesPerServiceMax = 10_000;
/** Entries of a policy's methods: one for each that can be registered, and the default. */
export const policyMethodsMax = 1025;
export const slotsDefault = 256;
export const slotsMax = 4096;
/** Rows in one message. */
export const slotRowsPerMessageMax = 1000;

export type InstanceState =
  /** Its app has not registered. */
  | "Starting"
  /** Its app is registered with its agent, and the agent with the operator. */
  | "Serving"
  /** It is about to stop: what runs goes on, nothing new is to be sent there. */
  | "Draining"
  /** The operator has lost its agent. */
  | "Unreachable";

/** One running copy of a service. */
export interface Instance {
  /** The pod's name, or `<service>-<n>-<4 random>`; never reused. */
  readonly id: string;
  /** `host:port` where agents reach its agent; empty until that is known, and never while it is Serving. */
  readonly address: string;
  readonly zone?: string;
  readonly state: InstanceState;
}

export interface MethodPolicy {
  /** A method, or `*` for all that have no entry of their own. */
  readonly name: string;
  /** The deadline of a call that brings none, ms. */
  readonly timeoutMs: number;
  /** A call may be repeated although it may have run. */
  readonly idempotent: boolean;
}

export interface ServiceLimits {
  readonly argsBytes: number;
  readonly resultBytes: number;
  readonly messageBytes: number;
  readonly inFlightPerInstance: number;
  readonly channelsPerInstance: number;
}

/**
 * What becomes of calls while it is not known who holds their resource: `Wait` until their deadline, `Fail` at once with
 * effect none, or `Serve` by any instance, which gives up exclusiveness.
 */
export type OnUncertain = "Wait" | "Fail" | "Serve";
/** What becomes of methods that still run when their instance has lost the resource: `Kill` ends the process. */
export type OnLapse = "Abort" | "Kill";

/** How a service holds resources. */
export interface OwnershipPolicy {
  /** 1 to 4,096; never changes. */
  readonly slots: number;
  readonly onUncertain: OnUncertain;
  readonly onLapse: OnLapse;
  /** As `leaseTimes` takes it. */
  readonly leaseMs: number;
  /** A resource that was not called for this long is closed. */
  readonly idleMs: number;
}

/** What the service's owner has declared about how it is called, and by whom. */
export interface ServicePolicy {
  readonly methods: readonly MethodPolicy[];
  readonly limits: ServiceLimits;
  /** Undefined: the service holds no resources. */
  readonly ownership?: OwnershipPolicy;
  readonly access: AccessPolicy;
}

/** Who holds a slot, as callers need it. */
export interface SlotRow {
  readonly slot: number;
  /** The instance that was granted the slot under `epoch` and has confirmed it; empty while none is known to hold it. */
  readonly holder: string;
  /** Of the holder, or of the last one; 0 before the first. */
  readonly epoch: number;
  /** The highest epoch that was given out, that of a move which was called off included. */
  readonly issued: number;
  /** A move is under way: the holder drains, or will. */
  readonly isMoving: boolean;
  /** What comes under a lower epoch is dropped. It rises when an epoch ends without a release. */
  readonly fence: number;
}

/** The policy of a service that declares nothing. */
export const defaultServicePolicy: ServicePolicy = {
  methods: [{ name: "*", timeoutMs: 30_000, idempotent: false }],
  limits: {
    argsBytes: argsBytesDefault,
    resultBytes: resultBytesDefault,
    messageBytes: messageBytesDefault,
    inFlightPerInstance: 1000,
    channelsPerInstance: 10_000,
  },
  access: defaultAccessPolicy,
};

/** All that an agent knows of a service. Never changed in place: each change makes a new one. */
export interface ServiceTable {
  readonly environment: string;
  readonly service: string;
  readonly version: number;
  /**
   * False: the environment has no such service, as far as the reader may know; then there are no instances and the
   * policy is the default.
   */
  readonly exists: boolean;
  /** In no particular order, each id once. */
  readonly instances: readonly Instance[];
  readonly policy: ServicePolicy;
  /** One for each slot, in their order; undefined for a service that holds no resources. */
  readonly slots?: readonly SlotRow[];
}

/** Who opens the channel: the only argument. */
export interface DiscoveryIdentity {
  readonly role: "agent" | "gateway";
  /** Of the instance whose agent this is: all four of these. Without `instance` the others are not looked at. */
  readonly environment?: string;
  readonly service?: string;
  readonly instance?: string;
  /** `host:port` where other agents reach this one. */
  readonly address?: string;
  readonly zone?: string;
}

/** Asks for the table; with what was last had of it, to get only what has changed. */
export interface SubscribeMessage {
  readonly type: "subscribe";
  readonly environment: string;
  readonly service: string;
  /** Both or none. */
  readonly version?: number;
  readonly origin?: string;
}

export interface UnsubscribeMessage {
  readonly type: "unsubscribe";
  readonly environment: string;
  readonly service: string;
}

/** The app has registered (again). */
export interface RegisterMessage extends Registration {
  readonly type: "register";
}

/** The app is gone, or has not registered yet. */
export interface UnregisterMessage {
  readonly type: "unregister";
}

/** The instance takes no new calls, until an app registers again. */
export interface DrainingMessage {
  readonly type: "draining";
}

export type AgentMessage =
  | SubscribeMessage
  | UnsubscribeMessage
  | RegisterMessage
  | UnregisterMessage
  | DrainingMessage;

/**
 * The full table, or a part of it: parts come in order, numbered from 0, and the last has `more: false`. Its slots are
 * spread over the parts in their order.
 */
export interface TableMessage extends ServiceTable {
  readonly type: "table";
  readonly origin: string;
  readonly part: number;
  readonly more: boolean;
}

/** What has changed since version `from`, all in one. */
export interface DeltaMessage {
  readonly type: "delta";
  readonly environment: string;
  readonly service: string;
  readonly from: number;
  readonly version: number;
  /** New instances and new states of known ones. */
  readonly changed: readonly Instance[];
  /** Ids; some may be unknown to the receiver. */
  readonly removed: readonly string[];
  readonly policy?: ServicePolicy;
  /** Rows that have changed. */
  readonly slots?: readonly SlotRow[];
}

export type OperatorMessage = TableMessage | DeltaMessage;

/** Checks the opening's argument. Throws INVALID_ARGUMENTS (`details.field`). */
export function decodeDiscoveryIdentity(args: readonly unknown[]): DiscoveryIdentity {
  const fields = new FieldReader(args[0], "args[0]", "INVALID_ARGUMENTS");
  const role = fields.text("role", 16, (text) => text === "agent" || text === "gateway", '"agent" or "gateway"');
  const zone = fields.optionalText("zone", zoneCharsMax);
  const identity = { role: role as DiscoveryIdentity["role"], ...(zone !== undefined && { zone }) };
  if (!fields.has("instance")) return identity;
  return {
    ...identity,
    ...readService(fields),
    instance: readId(fields, "instance"),
    address: fields.text("address", addressCharsMax, isAddress, addressRule),
  };
}

/** Undefined for a type that this version does not know. Throws PROTOCOL_VIOLATION (`details.field`). */
export function decodeAgentMessage(value: unknown): AgentMessage | undefined {
  const fields = new FieldReader(value, "message", "PROTOCOL_VIOLATION");
  const type = fields.text("type", typeCharsMax);
  switch (type) {
    case "subscribe": {
      const service = readService(fields);
      if (!fields.has("version") && !fields.has("origin")) return { type, ...service };
      return { type, ...service, version: readVersion(fields, "version"), origin: fields.text("origin", 64) };
    }
    case "unsubscribe":
      return { type, ...readService(fields) };
    case "register":
      return { type, ...readRegistration(fields) };
    case "unregister":
    case "draining":
      return { type };
    default:
      return undefined;
  }
}

/** Undefined for a type that this version does not know. Throws PROTOCOL_VIOLATION (`details.field`). */
export function decodeOperatorMessage(value: unknown): OperatorMessage | undefined {
  const fields = new FieldReader(value, "message", "PROTOCOL_VIOLATION");
  const type = fields.text("type", typeCharsMax);
  switch (type) {
    case "table": {
      const exists = fields.boolean("exists");
      return {
        type,
        ...readService(fields),
        origin: fields.text("origin", 64),
        version: readVersion(fields, "version"),
        part: fields.integer("part", 0, instancesPerServiceMax),
        more: fields.boolean("more"),
        exists,
        instances: readInstances(fields, "instances"),
        policy: fields.has("policy") ? readPolicy(fields.map("policy")) : defaultServicePolicy,
        ...(fields.has("slots") && { slots: readSlotRows(fields) }),
      };
    }
    case "delta":
      return {
        type,
        ...readService(fields),
        from: readVersion(fields, "from"),
        version: readVersion(fields, "version"),
        changed: readInstances(fields, "changed"),
        removed: fields.list("removed", instancesPerMessageMax).map((id, index) => {
          if (typeof id !== "string" || !isId(id)) fields.refuse("removed", `${idRule} at index ${index}`);
          return id as string;
        }),
        ...(fields.has("policy") && { policy: readPolicy(fields.map("policy")) }),
        ...(fields.has("slots") && { slots: readSlotRows(fields) }),
      };
    default:
      return undefined;
  }
}

export function readService(fields: FieldReader): { environment: string; service: string } {
  return { environment: readLabel(fields, "environment"), service: readLabel(fields, "service") };
}

function readLabel(fields: FieldReader, key: string): string {
  return fields.text(key, 63, isLabel, labelRule);
}

function readId(fields: FieldReader, key: string): string {
  return fields.text(key, idCharsMax, isId, idRule);
}

function readVersion(fields: FieldReader, key: string): number {
  return fields.integer(key, 0, Number.MAX_SAFE_INTEGER);
}

function readInstances(fields: FieldReader, key: string): Instance[] {
  return fields.maps(key, instancesPerMessageMax).map((instance) => {
    const found = instance.text("state", 32);
    // A state that a newer operator knows is none in which this agent may call the instance.
    const state = states.has(found) ? (found as InstanceState) : "Unreachable";
    const zone = instance.optionalText("zone", zoneCharsMax);
    const isValidAddress = (text: string) => isAddress(text) || (text === "" && state !== "Serving");
    return {
      id: readId(instance, "id"),
      address: instance.text("address", addressCharsMax, isValidAddress, addressRule),
      ...(zone !== undefined && { zone }),
      state,
    };
  });
}

function readSlotRows(fields: FieldReader): SlotRow[] {
  return fields.maps("slots", slotRowsPerMessageMax).map((row) => ({
    slot: row.integer("slot", 0, slotsMax - 1),
    holder: row.text("holder", idCharsMax, (text) => text === "" || isId(text), `${idRule}, or nothing`),
    epoch: row.integer("epoch", 0, epochMax),
    issued: row.integer("issued", 0, epochMax),
    isMoving: row.boolean("isMoving"),
    fence: row.integer("fence", 0, epochMax),
  }));
}

function readOwnership(fields: FieldReader): OwnershipPolicy {
  const oneOf = <Name extends string>(key: string, names: readonly Name[]) =>
    fields.text(key, 32, (text) => names.some((name) => name === text), names.join(" or ")) as Name;
  return {
    slots: fields.integer("slots", 1, slotsMax),
    onUncertain: oneOf<OnUncertain>("onUncertain", ["Wait", "Fail", "Serve"]),
    onLapse: oneOf<OnLapse>("onLapse", ["Abort", "Kill"]),
    leaseMs: fields.integer("leaseMs", leaseMsMin, leaseMsMax),
    idleMs: fields.integer("idleMs", 1000, Number.MAX_SAFE_INTEGER),
  };
}

function readPolicy(fields: FieldReader): ServicePolicy {
  const limits = fields.map("limits");
  const limit = (key: string) => limits.integer(key, 0, Number.MAX_SAFE_INTEGER);
  return {
    methods: fields.maps("methods", policyMethodsMax).map((method) => ({
      name: method.text("name", methodCharsMax, (text) => text === "*" || isCallableName(text), "a method's name or *"),
      timeoutMs: method.integer("timeoutMs", 1, 0xffffffff),
      idempotent: method.boolean("idempotent"),
    })),
    limits: {
      argsBytes: limit("argsBytes"),
      resultBytes: limit("resultBytes"),
      messageBytes: limit("messageBytes"),
      inFlightPerInstance: limit("inFlightPerInstance"),
      channelsPerInstance: limit("channelsPerInstance"),
    },
    ...(fields.has("ownership") && { ownership: readOwnership(fields.map("ownership")) }),
    access: fields.has("access") ? readAccess(fields.map("access"), readLabel, isCallableName) : defaultAccessPolicy,
  };
}

const typeCharsMax = 64;
/** Epochs travel in 48 bits: wall-clock milliseconds fit for 8,900 years. */
export const epochMax = 2 ** 48 - 1;
export const idCharsMax = 253;
export const zoneCharsMax = 63;
/** A host name of 253 characters and a port. */
export const addressCharsMax = 260;

const states: ReadonlySet<string> = new Set<InstanceState>(["Starting", "Serving", "Draining", "Unreachable"]);

const label = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;
const labelRule = "a DNS label: 1 to 63 of a-z, 0-9 and -";
const isLabel = (text: string) => label.test(text);

/** An instance's id. */
const id = /^[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?$/;
export const idRule = "an instance's id: 1 to 253 of a-z, 0-9, - and .";
export const isId = (text: string) => text.length <= idCharsMax && id.test(text);

const address = /^(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.%a-z]+\]):([1-9][0-9]{0,4})$/;
export const addressRule = "host:port, an IPv6 address in brackets";

/** Whether the text is `host:port` with a port from 1 to 65535. */
export function isAddress(text: string): boolean {
  const match = address.exec(text);
  return match !== null && Number(match[1]) <= 65535;
}
