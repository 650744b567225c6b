/**
 * What has happened, in order, as one number: two runs of a seed are the same if and only if their hashes are. Lines are
 * kept only for who wants to read them.
 */

export class Trace {
  /** Called with each line, if anybody reads them. */
  readonly onLine: ((line: string) => void) | undefined;
  #low = 0x811c9dc5;
  #high = 0x9747b28c;
  #count = 0;

  constructor(onLine?: (line: string) => void) {
    this.onLine = onLine;
  }

  get count(): number {
    return this.#count;
  }

  /** 16 hexadecimal digits. */
  get hash(): string {
    return [this.#high, this.#low].map((half) => (half >>> 0).toString(16).padStart(8, "0")).join("");
  }

  /** A number that is part of what happened. */
  mix(value: number): void {
    this.#low = Math.imul(this.#low ^ (value | 0), 0x01000193);
    this.#high = Math.imul(this.#high ^ this.#low ^ (this.#low >>> 15), 0x85ebca6b);
  }

  /** Something that happened at `atMs`. `text` is hashed; it holds nothing that differs from run to run. */
  note(atMs: number, text: string): void {
    this.#count++;
    this.mix(Math.round(atMs * 1000));
    for (let i = 0; i < text.length; i++) this.mix(text.charCodeAt(i));
    this.onLine?.(`${(atMs / 1000).toFixed(4).padStart(10)} ${text}`);
  }
}
