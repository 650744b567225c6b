/**
 * A copy in memory of its own, as a plain `Uint8Array`. Not `bytes.slice()`: of Node's Buffers, which sockets deliver,
 * that is a view of the same memory.
 */
export function copyBytes(bytes: Uint8Array): Uint8Array {
  return new Uint8Array(bytes);
}
