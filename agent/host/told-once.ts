/** What is to be told once in an hour, however often it happens. What is kept is bounded, however many keys there are. */

const toldAgainMs = 3_600_000;
const toldMax = 1000;

export class ToldOnce {
  /** What was told, and when; the oldest first. */
  readonly #told = new Map<string, number>();

  /** Whether it is to be told now; then it counts as told. `nowMs` is monotonic. */
  isNew(key: string, nowMs: number): boolean {
    for (const [told, atMs] of this.#told) {
      if (nowMs - atMs < toldAgainMs) break;
      this.#told.delete(told);
    }
    if (this.#told.has(key) || this.#told.size >= toldMax) return false;
    this.#told.set(key, nowMs);
    return true;
  }
}
