/**
 * Runs a check against many inputs, each made from a seed of its own, so that a failure is replayed alone:
 * `LEVER_FUZZ_SEED=<the printed seed> LEVER_FUZZ_INPUTS=1`. `LEVER_FUZZ_INPUTS` is 5,000 unless set.
 */

export class FuzzRandom {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** An integer in [0, below): mulberry32. */
  below(below: number): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) % below;
  }

  oneIn(count: number): boolean {
    return this.below(count) === 0;
  }

  pick<Item>(items: readonly Item[]): Item {
    return items[this.below(items.length)] as Item;
  }

  bytes(length: number): Uint8Array {
    return Uint8Array.from({ length }, () => this.below(256));
  }
}

/** The inputs in the order of their seeds; `check` makes one and throws if something is wrong with it. */
export function fuzz(check: (random: FuzzRandom) => void): void {
  const inputs = Number(process.env["LEVER_FUZZ_INPUTS"] ?? 5000);
  const firstSeed = Number(process.env["LEVER_FUZZ_SEED"] ?? Math.floor(Math.random() * 2 ** 31));
  for (let input = 0; input < inputs; input++) {
    const seed = firstSeed + input;
    try {
      check(new FuzzRandom(seed));
    } catch (cause) {
      throw new Error(`with LEVER_FUZZ_SEED=${seed} LEVER_FUZZ_INPUTS=1: ${String(cause)}`, { cause });
    }
  }
}
