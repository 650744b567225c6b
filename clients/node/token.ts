/** Idempotency tokens that say when they were made: `l1.<wall-clock ms, base 36>.<random>`. */

import { randomBytes } from "node:crypto";

const minted = /^l1\.([0-9a-z]{1,9})\.[A-Za-z0-9_-]{22}$/;

/**
 * A new token for `with({ token })`. It carries the time at which it was made: an instance whose memory of tokens began
 * later says so (TOKEN_MEMORY_LOST), instead of running a method that may have run before a crash. Make it before the
 * first try, and keep it for as long as the call may be repeated.
 */
export function mintToken(): string {
  return `l1.${Date.now().toString(36)}.${randomBytes(16).toString("base64url")}`;
}

/** When `mintToken` made it, wall-clock ms; undefined for other tokens. */
export function mintedAtMs(token: string): number | undefined {
  const digits = minted.exec(token)?.[1];
  return digits === undefined ? undefined : Number.parseInt(digits, 36);
}
