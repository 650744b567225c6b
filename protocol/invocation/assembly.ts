/**
 * Puts the fragments of one item (arguments, a result, a message, an error) together again.
 *
 * What is gathered is bounded twice: by the item's own limit, and over all unfinished items of a process by an
 * `AssemblyBudget`, so that many half-sent items cannot fill the memory.
 */

import { keptPayload } from "../frame/kept-payload.ts";

/** Bytes of unfinished items, together. One for each process (or each client or server in it). */
export class AssemblyBudget {
  readonly bytesMax: number;
  bytes = 0;

  constructor(bytesMax: number) {
    this.bytesMax = bytesMax;
  }
}

/** The default of an `AssemblyBudget`, bytes. */
export const assemblyBytesMax = 64 * 1024 * 1024;

const empty = new Uint8Array(0);

/** Smaller fragments are copied together: a view of one byte takes a hundred. */
const smallFragmentBytes = 4096;
const tailBytesMin = 512;
const tailBytesMax = 16 * 1024;

export class Assembly {
  readonly #budget: AssemblyBudget;
  #fragments: Uint8Array[] = [];
  #bytes = 0;
  /** Where small fragments are gathered; from `#tailFrom` to `#tailTo` they are not in `#fragments` yet. */
  #tail: Uint8Array = empty;
  #tailFrom = 0;
  #tailTo = 0;

  constructor(budget: AssemblyBudget) {
    this.#budget = budget;
  }

  get bytes(): number {
    return this.#bytes;
  }

  /** Keeps a fragment that is not the last. False if the budget is used up. */
  add(fragment: Uint8Array): boolean {
    if (fragment.length === 0) return true;
    if (this.#budget.bytes + fragment.length > this.#budget.bytesMax) return false;
    this.#budget.bytes += fragment.length;
    this.#bytes += fragment.length;
    if (fragment.length < smallFragmentBytes) this.#addSmall(fragment);
    else {
      this.#closeTail();
      this.#fragments.push(keptPayload(fragment));
    }
    return true;
  }

  #addSmall(fragment: Uint8Array): void {
    if (this.#tail.length - this.#tailTo < fragment.length) {
      this.#closeTail();
      const length = Math.min(Math.max(this.#bytes, tailBytesMin), tailBytesMax);
      this.#tail = new Uint8Array(Math.max(length, fragment.length));
      this.#tailFrom = 0;
      this.#tailTo = 0;
    }
    this.#tail.set(fragment, this.#tailTo);
    this.#tailTo += fragment.length;
  }

  #closeTail(): void {
    if (this.#tailTo > this.#tailFrom) this.#fragments.push(this.#tail.subarray(this.#tailFrom, this.#tailTo));
    this.#tailFrom = this.#tailTo;
  }

  /** The whole item, with its last fragment; the assembly is empty again. A single fragment is not copied. */
  finish(last: Uint8Array): Uint8Array {
    if (this.#bytes === 0) return last;
    this.#closeTail();
    const item = new Uint8Array(this.#bytes + last.length);
    let at = 0;
    for (const fragment of this.#fragments) {
      item.set(fragment, at);
      at += fragment.length;
    }
    item.set(last, at);
    this.drop();
    return item;
  }

  drop(): void {
    this.#budget.bytes -= this.#bytes;
    this.#bytes = 0;
    this.#fragments = [];
    this.#tail = empty;
    this.#tailFrom = 0;
    this.#tailTo = 0;
  }
}

export { empty as emptyItem };
