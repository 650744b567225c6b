/**
 * A copy in memory of its own, as a plain `Uint8Array`. Not `bytes.slice()`: of Node's Buffers, which sockets deliver,
 * that is a view of the same memory.
 */
export function copyBytes(bytes: Uint8Array): Uint8Array {
  return new Uint8Array(bytes);
}

/** The bytes as they are if they have memory of their own, else a copy: for what came in, which is often a view. */
export function ownBytes(bytes: Uint8Array): Uint8Array {
  const isOwn = bytes.length === bytes.buffer.byteLength && bytes.constructor === Uint8Array;
  return isOwn ? bytes : copyBytes(bytes);
}
