/**
 * Connections that were refused: each is counted, and told once of each source in an hour, or of each identity behind it
 * that is proven. What is kept is bounded, however many try.
 */

import { ToldOnce } from "./told-once.ts";

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

export interface RefusalsOptions {
  readonly onLog?: ((text: string) => void) | undefined;
  /** Monotonic, ms. */
  readonly now?: () => number;
}

export class Refusals {
  readonly counts: Readonly<Record<RefusalReason, number>>;
  readonly #counts: Record<RefusalReason, number>;
  readonly #options: RefusalsOptions;
  readonly #told = new ToldOnce();

  constructor(options: RefusalsOptions = {}) {
    this.#options = options;
    this.#counts = Object.fromEntries(refusalReasons.map((reason) => [reason, 0])) as Record<RefusalReason, number>;
    this.counts = this.#counts;
  }

  /** `source` is the peer's IP address: its port differs each time. `id`: what its certificate proves it to be. */
  refused(reason: RefusalReason, source: string, detail: string, id = ""): void {
    this.#counts[reason]++;
    const { onLog, now = () => performance.now() } = this.#options;
    const text = `refused a connection from ${source} (${reason}): ${detail}`;
    const told = this.#told.textFor(reason, `${source} ${id}`, text, now());
    if (told !== undefined) onLog?.(told);
  }
}
