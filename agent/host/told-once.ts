/**
 * What is to be told once in an hour, however often it happens. What is kept is bounded, however many keys there are, of
 * each kind by itself: what is told of one kind leaves room for the others. Where there are more, that is told too.
 */

const toldAgainMs = 3_600_000;
/** Of each kind. */
export const toldMax = 1000;

interface Told {
  /** What was told, and when; the oldest first. */
  readonly atMs: Map<string, number>;
  /** When it was told that there are more. */
  moreAtMs: number;
}

export class ToldOnce {
  readonly #told = new Map<string, Told>();

  /** What is to be told now; then it counts as told. Undefined: nothing. Kinds are few; `nowMs` is monotonic. */
  textFor(kind: string, key: string, text: string, nowMs: number): string | undefined {
    let told = this.#told.get(kind);
    if (told === undefined) {
      told = { atMs: new Map(), moreAtMs: Number.NEGATIVE_INFINITY };
      this.#told.set(kind, told);
    }
    for (const [old, atMs] of told.atMs) {
      if (nowMs - atMs < toldAgainMs) break;
      told.atMs.delete(old);
    }
    if (told.atMs.has(key)) return undefined;
    if (told.atMs.size < toldMax) {
      told.atMs.set(key, nowMs);
      return text;
    }
    if (nowMs - told.moreAtMs < toldAgainMs) return undefined;
    told.moreAtMs = nowMs;
    return `${text}; there are more of this kind than the ${toldMax} that are told in an hour: metrics count them all`;
  }
}
