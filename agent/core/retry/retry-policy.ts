/**
 * Whether a failed attempt of a call may be followed by another, where and when. A decision only: sending, remembering
 * who was tried and telling the caller the worst effect are the router's.
 *
 * | the call so far | next attempt |
 * |---|---|
 * | kind `arguments` or `method`; cancelled; deadline | none: it would end the same way, or nobody waits |
 * | `HOOK_REENTRY`, `TOKEN_MEMORY_LOST` | none: it would end the same way |
 * | did not run (`effect: "none"`) | elsewhere |
 * | may have run, the call has a token | the same instance, which knows whether it ran |
 * | may have run, the method is declared idempotent | elsewhere |
 * | may have run | none |
 *
 * - At most 5 attempts, and never later than the deadline. A refusal by a draining instance is no attempt: it is part of
 *   a planned move, which fails no call; it costs no budget and no delay.
 * - Budget: what did not run anywhere and met no overload needs none, since it put no load on anyone. An OVERLOADED
 *   refusal and whatever may have run does.
 * - Delay: exponential back-off with full jitter: random below 10 ms × 2^(attempt − 1), at most 1 s (the "full jitter" of
 *   Brooker, Exponential Backoff and Jitter, AWS 2015; gRPC A6 has the same formula).
 *
 * A call for a resource goes to whoever holds it and nowhere else (`decideHolderRetry`), which also knows its tokens:
 *
 * | the call so far | next attempt, at the holder that the row names then |
 * |---|---|
 * | as above: it would end the same way, or nobody waits; may have run without a token, not idempotent | none |
 * | this attempt was refused as MOVED | when the row says that the move is over |
 * | this attempt did not reach the holder | when the row changes, or after a while; with `onUncertain: Fail` none |
 * | else | as above, after its delay |
 *
 * The middle two are no attempts, cost no budget and have no limit but the deadline (and 1,000 refusals). With
 * `onUncertain: Serve` others are asked instead when the holder cannot be reached.
 */

import type { Random } from "@leveros/protocol/clock/clock.ts";
import type { OnUncertain } from "@leveros/protocol/control/discovery.ts";
import type { Effect, ErrorKind, Reason } from "@leveros/protocol/error/catalogue.ts";
import type { RetryBudget } from "./retry-budget.ts";

/** Attempts of one call, the first included, without those that a draining instance refused. */
export const attemptsMax = 5;
/** Refusals by draining instances that one call bears. Each is by another instance; the bound is against an endless row. */
export const drainingRefusalsMax = 100;
/** Refusals as MOVED that one call bears: the bound is against two that never agree. */
export const movedRefusalsMax = 1000;
export const backoffBaseMs = 10;
export const backoffMsMax = 1000;

export interface FailedAttempt {
  /** Attempts made, this one included: 1 after the first. Those that were refused as DRAINING are counted apart. */
  readonly attempt: number;
  /** Attempts refused as DRAINING, this one included if it was. */
  readonly drainingRefusals: number;
  /** The worst over all attempts so far. */
  readonly effect: Effect;
  /** What this attempt failed with. */
  readonly kind: ErrorKind;
  readonly reason: Reason;
  /** The method is declared idempotent. */
  readonly isIdempotent: boolean;
  /** The call has an idempotency token: whoever ran it once answers a repeat without running it again. */
  readonly hasToken: boolean;
  readonly timeLeftMs: number;
  readonly now: number;
  /** A retry is taken out if one is needed and everything else allows it. */
  readonly budget: RetryBudget;
  readonly random: Random;
  /** Default `attemptsMax`. */
  readonly attemptsMax?: number;
}

export type RetryDecision =
  | { readonly retry: false }
  | {
      readonly retry: true;
      /** At an instance that was not tried, if there is one; else at the very one of the last attempt. */
      readonly elsewhere: boolean;
      /** Wait so long before; less than the time left. */
      readonly delayMs: number;
    };

const no: RetryDecision = { retry: false };
const elsewhereAtOnce: RetryDecision = { retry: true, elsewhere: true, delayMs: 0 };

export function decideRetry(failed: FailedAttempt): RetryDecision {
  const { effect, kind, reason, timeLeftMs } = failed;
  if (isFinal(kind, reason) || !(timeLeftMs > 0)) return no;
  // A method that is idempotent for all that is known to the service, and once only for this call.
  const mayGoElsewhere = effect === "none" || (failed.isIdempotent && !failed.hasToken);
  if (reason === "DRAINING") {
    return mayGoElsewhere && failed.drainingRefusals <= drainingRefusalsMax ? elsewhereAtOnce : no;
  }
  if (failed.attempt >= (failed.attemptsMax ?? attemptsMax)) return no;
  if (!mayGoElsewhere && !failed.hasToken) return no;
  const ceilingMs = Math.min(backoffMsMax, backoffBaseMs * 2 ** Math.max(0, failed.attempt - 1));
  const delayMs = failed.random() * ceilingMs;
  if (delayMs >= timeLeftMs) return no;
  const isFree = effect === "none" && reason !== "OVERLOADED";
  if (!isFree && !failed.budget.withdraw(failed.now)) return no;
  return { retry: true, elsewhere: mayGoElsewhere, delayMs };
}

/** It would end the same way again, or nobody waits for it. */
function isFinal(kind: ErrorKind, reason: Reason): boolean {
  if (kind === "arguments" || kind === "method") return true;
  return (
    reason === "CANCELLED" ||
    reason === "DEADLINE_EXCEEDED" ||
    reason === "HOOK_REENTRY" ||
    reason === "TOKEN_MEMORY_LOST"
  );
}

/** A failed attempt of a call for a resource. Attempts that reached nobody, or were refused as MOVED, do not count. */
export interface FailedHolderAttempt extends FailedAttempt {
  /** Of this attempt alone. */
  readonly attemptEffect: Effect;
  readonly onUncertain: OnUncertain;
  /** Attempts refused as MOVED, this one included if it was. */
  readonly movedRefusals: number;
}

export type HolderDecision =
  | RetryDecision
  /** When it is the call's turn: the row says when. `moved`: the refusal says what the row is to say. */
  | { readonly retry: "inTurn"; readonly moved: boolean };

export function decideHolderRetry(failed: FailedHolderAttempt): HolderDecision {
  const { effect, kind, reason, attemptEffect, onUncertain } = failed;
  if (isFinal(kind, reason) || !(failed.timeLeftMs > 0)) return no;
  if (effect !== "none" && !failed.isIdempotent && !failed.hasToken) return no;
  if (reason === "MOVED") return failed.movedRefusals <= movedRefusalsMax ? { retry: "inTurn", moved: true } : no;
  const wasReached =
    attemptEffect !== "none" || kind !== "network" || reason === "OVERLOADED" || reason === "HOOK_FAILED";
  if (!wasReached && onUncertain !== "Serve") return onUncertain === "Wait" ? { retry: "inTurn", moved: false } : no;
  const decision = decideRetry(failed);
  // Who holds it is known, and to hear from it that it cannot now is no reason to ask another.
  return decision.retry && wasReached ? { ...decision, elsewhere: false } : decision;
}
