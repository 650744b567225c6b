/** The slot of a resource: a hash of its name, the same in every language and for ever. */

/**
 * xxHash32 with seed 0 of the resource's UTF-8, modulo `slots` (a positive integer that never changes for a service).
 * The result is in [0, slots).
 */
export function slotOf(resource: string, slots: number): number {
  return xxHash32(textEncoder.encode(resource)) % slots;
}

const textEncoder = new TextEncoder();

const prime1 = 0x9e3779b1;
const prime2 = 0x85ebca77;
const prime3 = 0xc2b2ae3d;
const prime4 = 0x27d4eb2f;
const prime5 = 0x165667b1;

/**
 * xxHash32 of all `bytes` as an unsigned integer of 32 bits; `seed` is one too. After doc/xxhash_spec.md of the xxHash
 * project.
 */
export function xxHash32(bytes: Uint8Array, seed = 0): number {
  const { length } = bytes;
  let at = 0;
  let hash: number;
  if (length >= 16) {
    let lane1 = (seed + prime1 + prime2) | 0;
    let lane2 = (seed + prime2) | 0;
    let lane3 = seed | 0;
    let lane4 = (seed - prime1) | 0;
    for (; at <= length - 16; at += 16) {
      lane1 = round(lane1, word(bytes, at));
      lane2 = round(lane2, word(bytes, at + 4));
      lane3 = round(lane3, word(bytes, at + 8));
      lane4 = round(lane4, word(bytes, at + 12));
    }
    hash = (rotate(lane1, 1) + rotate(lane2, 7) + rotate(lane3, 12) + rotate(lane4, 18)) | 0;
  } else {
    hash = seed + prime5;
  }
  hash = (hash + length) | 0;
  for (; at <= length - 4; at += 4) {
    hash = Math.imul(rotate((hash + Math.imul(word(bytes, at), prime3)) | 0, 17), prime4);
  }
  for (; at < length; at++) {
    hash = Math.imul(rotate((hash + Math.imul(bytes[at] as number, prime5)) | 0, 11), prime1);
  }
  hash = Math.imul(hash ^ (hash >>> 15), prime2);
  hash = Math.imul(hash ^ (hash >>> 13), prime3);
  return (hash ^ (hash >>> 16)) >>> 0;
}

function round(lane: number, input: number): number {
  return Math.imul(rotate((lane + Math.imul(input, prime2)) | 0, 13), prime1);
}

function rotate(value: number, bits: number): number {
  return (value << bits) | (value >>> (32 - bits));
}

function word(bytes: Uint8Array, at: number): number {
  return (
    (bytes[at] as number) |
    ((bytes[at + 1] as number) << 8) |
    ((bytes[at + 2] as number) << 16) |
    ((bytes[at + 3] as number) << 24)
  );
}
