/**
 * Connections that were refused: each is counted, and told once of each source in an hour. What is kept is bounded,
 * however many try.
 */

export const refusalReasons = [
  /** It does not speak TLS. */
  "plain",
  /** The handshake failed otherwise: another version or protocol, or the peer does not trust this end. */
  "handshake",
  /** Too many handshakes are under way. */
  "overloaded",
  "no-certificate",
  /** Its certificate has ended, or has not begun. */
  "expired",
  /** Its certificate is of a CA that is not trusted. */
  "untrusted",
  /** Its certificate is none of Lever's, or not of a kind that is served here, or of another than it says it is. */
  "identity",
] as const;

export type RefusalReason = (typeof refusalReasons)[number];

const toldAgainMs = 3_600_000;
const toldMax = 1000;

export interface RefusalsOptions {
  readonly onLog?: ((text: string) => void) | undefined;
  /** Monotonic, ms. */
  readonly now?: () => number;
}

export class Refusals {
  readonly counts: Readonly<Record<RefusalReason, number>>;
  readonly #counts: Record<RefusalReason, number>;
  readonly #options: RefusalsOptions;
  /** What was told, and when; the oldest first. */
  readonly #told = new Map<string, number>();

  constructor(options: RefusalsOptions = {}) {
    this.#options = options;
    this.#counts = Object.fromEntries(refusalReasons.map((reason) => [reason, 0])) as Record<RefusalReason, number>;
    this.counts = this.#counts;
  }

  /** `source` is the peer's IP address: its port differs each time. */
  refused(reason: RefusalReason, source: string, detail: string): void {
    this.#counts[reason]++;
    const { onLog, now = () => performance.now() } = this.#options;
    const key = `${reason} ${source}`;
    const nowMs = now();
    for (const [told, atMs] of this.#told) {
      if (nowMs - atMs < toldAgainMs) break;
      this.#told.delete(told);
    }
    if (this.#told.has(key) || this.#told.size >= toldMax) return;
    this.#told.set(key, nowMs);
    onLog?.(`refused a connection from ${source} (${reason}): ${detail}`);
  }
}
