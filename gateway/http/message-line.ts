/**
 * A channel's item as a line of NDJSON.
 *
 * A JSON value is its own line, bytes are `{"bytes":"<base64>"}`, and the end with an error is `{"error":{…}}`. A value
 * that would look like one of these (an object with that key alone) is put into `{"value":…}`, and so is one that looks
 * like that in turn. So every line means one thing, and nearly every value is written as it is.
 */

import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { isBytes } from "@leveros/protocol/value/form.ts";

/** What `JSON.stringify` makes the item's line of. */
export function lineOf(item: unknown): unknown {
  if (isBytes(item)) return { bytes: Buffer.from(item.buffer, item.byteOffset, item.byteLength).toString("base64") };
  return looksSpecial(item) ? { value: item } : item;
}

/** The item of a line that a client sent. Throws BODY_INVALID for bytes that are not base64. */
export function itemOf(line: unknown, where: string): unknown {
  const key = onlyKey(line);
  if (key === "value") {
    const { value } = line as { value: unknown };
    return looksSpecial(value) ? value : line;
  }
  if (key !== "bytes") return line;
  const { bytes: text } = line as { bytes: unknown };
  if (typeof text === "string") {
    const bytes = Buffer.from(text, "base64");
    if (bytes.toString("base64") === text) return new Uint8Array(bytes);
  }
  throw new LeverError(
    "BODY_INVALID",
    `${where}: bytes is not base64 (RFC 4648, section 4); write {"value":{"bytes":…}} for an object with that key`,
  );
}

/** Not recursive: a line may nest as deep as it is long. */
function looksSpecial(item: unknown): boolean {
  let inner = item;
  for (;;) {
    const key = onlyKey(inner);
    if (key === "bytes" || key === "error") return true;
    if (key !== "value") return false;
    inner = (inner as { value: unknown }).value;
  }
}

function onlyKey(item: unknown): string | undefined {
  if (typeof item !== "object" || item === null || Array.isArray(item)) return undefined;
  const keys = Object.keys(item);
  return keys.length === 1 ? keys[0] : undefined;
}
