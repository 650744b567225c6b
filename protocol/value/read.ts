/**
 * The reader of what msgpackr would change (a key `__proto__`, a byte order mark) or cannot refuse (the same key twice).
 * Rare, and so the plainest that is right; it takes only bytes that scan.ts has passed.
 */

import { setOwn } from "./check.ts";
import { refuse } from "./scan.ts";

/** `ignoreBOM` keeps a leading U+FEFF, which is a character of the string here. */
const textDecoder = new TextDecoder("utf-8", { ignoreBOM: true });

/** Raises INVALID_VALUE_ENCODING with the offset of the first map that has the same key twice, and nothing else. */
export function readScanned(bytes: Uint8Array): unknown {
  return new Reader(bytes).read();
}

class Reader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  read(): unknown {
    const offset = this.#at;
    const byte = this.#view.getUint8(this.#take(1));
    if (byte < 0x80) return byte;
    if (byte < 0x90) return this.#readMap(byte & 0x0f, offset);
    if (byte < 0xa0) return this.#readArray(byte & 0x0f);
    if (byte < 0xc0) return this.#readString(byte & 0x1f);
    if (byte >= 0xe0) return byte - 0x100;
    switch (byte) {
      case 0xc0:
        return null;
      case 0xc2:
      case 0xc3:
        return byte === 0xc3;
      case 0xca:
        return this.#view.getFloat32(this.#take(4));
      case 0xcb:
        return this.#view.getFloat64(this.#take(8));
      case 0xcf:
        return Number(this.#view.getBigUint64(this.#take(8)));
      case 0xd0:
        return this.#view.getInt8(this.#take(1));
      case 0xd1:
        return this.#view.getInt16(this.#take(2));
      case 0xd2:
        return this.#view.getInt32(this.#take(4));
      case 0xd3:
        return Number(this.#view.getBigInt64(this.#take(8)));
      case 0xcc:
        return this.#uint(1);
      case 0xcd:
        return this.#uint(2);
      case 0xce:
        return this.#uint(4);
      case 0xd9:
        return this.#readString(this.#uint(1));
      case 0xda:
        return this.#readString(this.#uint(2));
      case 0xdb:
        return this.#readString(this.#uint(4));
      case 0xdc:
        return this.#readArray(this.#uint(2));
      case 0xdd:
        return this.#readArray(this.#uint(4));
      case 0xde:
        return this.#readMap(this.#uint(2), offset);
      default:
        return this.#readMap(this.#uint(4), offset);
    }
  }

  #readArray(count: number): unknown[] {
    return Array.from({ length: count }, () => this.read());
  }

  #readMap(count: number, offset: number): Record<string, unknown> {
    const object: Record<string, unknown> = {};
    for (let index = 0; index < count; index++) setOwn(object, this.read() as string, this.read());
    if (Object.keys(object).length !== count) refuse(offset, "a map has the same key twice", "distinct keys");
    return object;
  }

  #readString(length: number): string {
    const at = this.#take(length);
    return textDecoder.decode(this.#bytes.subarray(at, at + length));
  }

  #uint(bytes: 1 | 2 | 4): number {
    const at = this.#take(bytes);
    if (bytes === 1) return this.#view.getUint8(at);
    return bytes === 2 ? this.#view.getUint16(at) : this.#view.getUint32(at);
  }

  #take(bytes: number): number {
    const at = this.#at;
    this.#at += bytes;
    return at;
  }
}
