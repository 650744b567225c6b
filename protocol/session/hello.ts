/** HELLO: the first frame in each direction. A MessagePack map of at most 4 KiB; unknown keys are skipped. */

import { LeverError } from "../error/lever-error.ts";
import type { ProvenPeer } from "../transport/transport.ts";
import { decodeValue } from "../value/decode.ts";
import { encodeValue } from "../value/encode.ts";
import {
  helloBytesMax,
  type SessionLimits,
  sessionWindowBytesMin,
  streamsMaxMin,
  streamWindowBytesMin,
  windowBytesMax,
} from "./limits.ts";

/** Versions of the protocol that this implementation speaks, oldest and newest. */
export const protocolVersionMin = 1;
export const protocolVersionMax = 1;

export type PeerRole = "app" | "agent" | "client" | "gateway" | "operator";

/** Who this end is: told to the peer, which compares it with what the transport has proven, if it has. */
export interface Identity {
  readonly role: PeerRole;
  readonly environment?: string;
  readonly service?: string;
  readonly instance?: string;
  /** Library and its version: `leveros/0.1.0`. */
  readonly library?: string;
}

export interface Hello extends Identity {
  /** The version that both ends speak. */
  readonly version: number;
  readonly streamWindowBytes: number;
  readonly sessionWindowBytes: number;
  readonly streamsMax: number;
  readonly targetsMax: number;
}

const roles: readonly string[] = ["app", "agent", "client", "gateway", "operator"];

export function encodeHello(identity: Identity, limits: SessionLimits): Uint8Array {
  return encodeValue(
    {
      versionMin: protocolVersionMin,
      versionMax: protocolVersionMax,
      streamWindowBytes: limits.streamWindowBytes,
      sessionWindowBytes: limits.sessionWindowBytes,
      streamsMax: limits.streamsMax,
      targetsMax: limits.targetsMax,
      role: identity.role,
      environment: identity.environment,
      service: identity.service,
      instance: identity.instance,
      library: identity.library,
    },
    "hello",
  );
}

/** Throws PROTOCOL_VIOLATION or VERSION_UNSUPPORTED. */
export function decodeHello(bytes: Uint8Array): Hello {
  if (bytes.length > helloBytesMax)
    throw violation(`it has ${bytes.length} bytes, at most ${helloBytesMax} are allowed`);
  let value: unknown;
  try {
    value = decodeValue(bytes);
  } catch (error) {
    throw violation(LeverError.from(error).rawMessage);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw violation("it is no map");
  const map = value as Record<string, unknown>;
  const versionMin = integer(map, "versionMin", 1, 0xffff);
  const versionMax = integer(map, "versionMax", versionMin, 0xffff);
  const version = Math.min(versionMax, protocolVersionMax);
  if (version < versionMin || version < protocolVersionMin) {
    throw new LeverError(
      "VERSION_UNSUPPORTED",
      `the peer speaks versions ${versionMin} to ${versionMax} of the protocol, this end ` +
        `${protocolVersionMin} to ${protocolVersionMax}; upgrade the older one`,
      { effect: "none" },
    );
  }
  const role = map.role;
  if (typeof role !== "string" || !roles.includes(role)) {
    throw violation(`role is ${JSON.stringify(role)}, expected one of ${roles.join(", ")}`);
  }
  return {
    version,
    role: role as PeerRole,
    streamWindowBytes: integer(map, "streamWindowBytes", streamWindowBytesMin, windowBytesMax),
    sessionWindowBytes: integer(map, "sessionWindowBytes", sessionWindowBytesMin, windowBytesMax),
    streamsMax: integer(map, "streamsMax", streamsMaxMin, windowBytesMax),
    targetsMax: integer(map, "targetsMax", 0, 0xffff),
    ...optionalText(map, "environment"),
    ...optionalText(map, "service"),
    ...optionalText(map, "instance"),
    ...optionalText(map, "library"),
  };
}

/** `role environment/service/instance`, for messages. */
export function describeIdentity({ role, environment, service, instance }: Identity): string {
  const name = [environment, service, instance].filter((part) => part !== undefined).join("/");
  return name === "" ? role : `${role} ${name}`;
}

/** Throws IDENTITY_DENIED if HELLO says something else than what is proven of the peer. */
export function checkProven({ identity, onMismatch }: ProvenPeer, hello: Hello, peerName: string): void {
  const isSame =
    hello.role === identity.role &&
    hello.environment === identity.environment &&
    hello.service === identity.service &&
    (identity.instance === undefined || hello.instance === identity.instance);
  if (isSame) return;
  const message = `${peerName} says that it is ${describeIdentity(hello)}, and has proven that it is ${describeIdentity(identity)}`;
  onMismatch?.(message);
  throw new LeverError("IDENTITY_DENIED", message, { effect: "none" });
}

function integer(map: Record<string, unknown>, key: string, min: number, max: number): number {
  const value = map[key];
  if (typeof value !== "number" || !Number.isInteger(value) || value < min || value > max) {
    throw violation(`${key} is ${JSON.stringify(value)}, expected an integer from ${min} to ${max}`);
  }
  return value;
}

function optionalText(map: Record<string, unknown>, key: string): Record<string, string> {
  const value = map[key];
  if (value === undefined || value === null) return {};
  if (typeof value !== "string" || value.length > 256) throw violation(`${key} is no string of at most 256 characters`);
  return { [key]: value };
}

function violation(what: string): LeverError {
  return new LeverError("PROTOCOL_VIOLATION", `the peer's HELLO is invalid: ${what}`, { effect: "none" });
}
