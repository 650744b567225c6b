import { createHash } from "node:crypto";
import type { Channel } from "leveros";

export interface Receipt {
  readonly bytes: number;
  readonly sha256: string;
}

const partBytes = 64 * 1024;

export const upload = {
  /**
   * Takes a file of any size: messages of bytes until the sender's half-close, then one receipt. Awaiting each message
   * is all the back-pressure there is to write.
   */
  async putChan(channel: Channel<Uint8Array, Receipt>) {
    const hash = createHash("sha256");
    let bytes = 0;
    for await (const part of channel) {
      hash.update(part);
      bytes += part.length;
    }
    await channel.send({ bytes, sha256: hash.digest("hex") });
  },

  /**
   * Sends a file of any size: here pseudo-random bytes that grow from `seed`, so that no file is needed, and then one
   * receipt. A reader that stalls stops this loop at `send`.
   */
  async getChan(channel: Channel<never, Uint8Array | Receipt>, bytes: number, seed = 1) {
    const hash = createHash("sha256");
    for await (const part of pseudoRandom(bytes, seed)) {
      hash.update(part);
      await channel.send(part);
    }
    await channel.send({ bytes, sha256: hash.digest("hex") });
  },
};

export type Upload = typeof upload;

/** `bytes` bytes from xorshift32, in parts. */
export async function* pseudoRandom(bytes: number, seed: number): AsyncGenerator<Uint8Array> {
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
