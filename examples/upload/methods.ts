/**
 * Data of any size over channels. A call's arguments and result end at 1 MiB; a channel has no such limit, and a reader
 * that is slower than its writer stops it.
 *
 *     lever chan lever://dev/upload/putChan --bytes < FILE
 *     lever chan lever://dev/upload/getChan 100000000 > FILE
 */

import { createHash } from "node:crypto";
import type { Channel } from "leveros";

/** The last message in both directions of travel: what was received, or sent. */
export interface Receipt {
  readonly bytes: number;
  readonly sha256: string;
}

const partBytes = 64 * 1024;

export const upload = {
  /** Takes messages of bytes until the sender's half-close, then gives one receipt. */
  async putChan(channel: Channel<Uint8Array, Receipt>) {
    const hash = createHash("sha256");
    let bytes = 0;
    // The sender is stopped while this loop works: all the back-pressure there is to write.
    for await (const part of channel) {
      hash.update(part);
      bytes += part.length;
    }
    await channel.send({ bytes, sha256: hash.digest("hex") });
  },

  /** Sends `bytes` bytes that grow from `seed`, so that no file is needed, then one receipt. */
  async getChan(channel: Channel<never, Uint8Array | Receipt>, bytes: number, seed = 1) {
    const hash = createHash("sha256");
    for (const part of pseudoRandom(bytes, seed)) {
      hash.update(part);
      // Resolves when the reader has room for the next: without the `await` this would fill the memory.
      await channel.send(part);
    }
    await channel.send({ bytes, sha256: hash.digest("hex") });
  },
};

export type Upload = typeof upload;

/** `bytes` bytes from xorshift32, in parts. */
export function* pseudoRandom(bytes: number, seed: number): Generator<Uint8Array> {
  let state = seed | 0 || 1;
  for (let left = bytes; left > 0; left -= partBytes) {
    const words = new Int32Array(partBytes / 4);
    for (let i = 0; i < words.length; i++) {
      state ^= state << 13;
      state ^= state >>> 17;
      state ^= state << 5;
      words[i] = state;
    }
    yield new Uint8Array(words.buffer, 0, Math.min(partBytes, left));
  }
}
