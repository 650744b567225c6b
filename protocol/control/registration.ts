/**
 * REGISTER: what an app serves, said to its agent as the first frame after HELLO, and by the agent to the operator.
 *
 * A MessagePack map; unknown keys are skipped. Invariant: a registration that passed here names each method once, each
 * may be called from outside, and its kind is the one that its name says.
 */

import { LeverError } from "../error/lever-error.ts";
import { isCallableName, isStreamingName, methodCharsMax } from "../target/lever-url.ts";
import { decodeValue } from "../value/decode.ts";
import { encodeValue } from "../value/encode.ts";
import { FieldReader } from "./field-reader.ts";

export const registeredMethodsMax = 1024;
export const libraryCharsMax = 64;

export type MethodKind = "call" | "channel";

export interface RegisteredMethod {
  /** As `isCallableName` allows. */
  readonly name: string;
  /** As the name says: `channel` if `isStreamingName`. */
  readonly kind: MethodKind;
}

export interface Registration {
  /** At most 1,024, each name once. */
  readonly methods: readonly RegisteredMethod[];
  /** Whether the app serves resources. */
  readonly resources: boolean;
  /** The client library, as `leveros`; at most 64 characters. */
  readonly library: string;
  /** The library's version, as `0.1.0`; at most 64 characters. */
  readonly version: string;
}

/** Throws INVALID_OPTION (`details.field`) for what `decodeRegistration` would refuse. */
export function encodeRegistration(registration: Registration): Uint8Array {
  return encodeValue(readRegistration(new FieldReader(registration, "registration", "INVALID_OPTION")), "registration");
}

/** Throws PROTOCOL_VIOLATION (`details.field`). */
export function decodeRegistration(bytes: Uint8Array): Registration {
  let value: unknown;
  try {
    value = decodeValue(bytes);
  } catch (error) {
    throw new LeverError("PROTOCOL_VIOLATION", `registration is no value: ${LeverError.from(error).rawMessage}`, {
      effect: "none",
      cause: error,
      details: { field: "registration" },
    });
  }
  return readRegistration(new FieldReader(value, "registration", "PROTOCOL_VIOLATION"));
}

/** The registration that the map holds; throws what `fields` throws. */
export function readRegistration(fields: FieldReader): Registration {
  const seen = new Set<string>();
  const methods = fields.maps("methods", registeredMethodsMax).map((method): RegisteredMethod => {
    const name = method.text("name", methodCharsMax, isCallableName, callableRule);
    if (seen.has(name)) method.refuse("name", "each method once");
    seen.add(name);
    const kind: MethodKind = isStreamingName(name) ? "channel" : "call";
    method.text("kind", 16, (text) => text === kind, `"${kind}", as the name ${name} says`);
    return { name, kind };
  });
  return {
    methods,
    resources: fields.boolean("resources"),
    library: fields.text("library", libraryCharsMax),
    version: fields.text("version", libraryCharsMax),
  };
}

const callableRule =
  "the name of a method that may be called: a letter or $, then letters, digits, _ or $, at most 128 characters, " +
  "and not constructor, then, toJSON or with";
