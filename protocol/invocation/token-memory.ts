/**
 * What calls with an idempotency token came to: a repeat gets the first outcome, or waits for it, and the method runs
 * once.
 *
 * Outcomes are kept for `tokenWindowMs`, each as it was sent. Invariant: none is forgotten before; a memory that is full
 * takes no new token instead. A token that is older than the memory, or as old as what it has forgotten, is not run; nor
 * is one of which its caller says that it is still to be made, as nothing would later tell it from a new one. What a caller
 * says of its own token makes no other one too old that is newer than what has been forgotten; strangers have no more
 * than their share of the room.
 */

import { LeverError } from "../error/lever-error.ts";

export const tokenWindowMs = 600_000;
/** How far the clocks of a token's maker and of the instance may differ. */
export const tokenSkewMs = 10_000;
export const tokensMax = 10_000;
export const tokenBytesMaxOfSlot = 16 * 1024 * 1024;
export const tokensOfProcessMax = 100_000;
export const tokenBytesOfProcessMax = 64 * 1024 * 1024;
/** Of each of these limits: what strangers, callers from outside and of other environments, may use together. */
export const strangersShare = 1 / 4;
/** `TokenCall.from` of a call through a gateway: no environment has such a name. */
export const fromOutside = "@outside";

/** A call with a token. */
export interface TokenCall {
  /** Empty for a method that is of no resource. */
  readonly resource: string;
  readonly method: string;
  readonly token: string;
  /**
   * Of a stranger: its environment, if that is another one than the service's, or `fromOutside`. Its tokens are apart from
   * those of all others.
   */
  readonly from?: string | undefined;
  /**
   * When the token was made, wall-clock ms, as the caller says; undefined: it does not, and nothing is promised over a
   * crash.
   */
  readonly timeMs: number | undefined;
}

/** A reply: its flags, and its item. */
export interface Outcome {
  readonly flags: number;
  readonly bytes: Uint8Array;
}

export interface RememberedOutcome extends TokenCall, Outcome {
  /** Wall-clock ms. */
  readonly forgetAtMs: number;
}

/** What is taken up, and how much of it by strangers. */
class TokenUse {
  tokens = 0;
  bytes = 0;
  tokensOfStrangers = 0;
  bytesOfStrangers = 0;

  /** Negative numbers give back. */
  add({ from }: TokenCall, tokens: number, bytes: number): void {
    this.tokens += tokens;
    this.bytes += bytes;
    if (from === undefined) return;
    this.tokensOfStrangers += tokens;
    this.bytesOfStrangers += bytes;
  }

  subtract(use: TokenUse): void {
    this.tokens -= use.tokens;
    this.bytes -= use.bytes;
    this.tokensOfStrangers -= use.tokensOfStrangers;
    this.bytesOfStrangers -= use.bytesOfStrangers;
  }
}

/** Tokens and bytes of all memories of a process. */
export class TokenBudget extends TokenUse {
  /** Those that remember something. */
  readonly memories = new Set<TokenMemory>();
  /** Nothing of any of them is to be forgotten before; wall-clock ms. */
  forgetAtMs = Number.POSITIVE_INFINITY;
}

export interface TokenMemoryOptions {
  readonly budget: TokenBudget;
  /**
   * From when on every token is remembered, wall-clock ms; 0: always. Another process may have said so: what is later than
   * its clock can be is not believed.
   */
  readonly sinceMs: number;
  /** As `tokenSkewMs`; 0 where the clocks do not matter. */
  readonly skewMs: number;
  wallNow(): number;
}

/** What is to be done: `run` it and `finish` or `abandon` it; or wait for `onOutcome`; or answer with the outcome. */
export type TokenDecision = "run" | "wait" | Outcome;

/** Gets the outcome of the run that was waited for; undefined if it did not take place, and the call is to ask again. */
export type OutcomeListener = (outcome: Outcome | undefined) => void;

/** A remembered token, beside its outcome. */
const entryBytes = 200;

export class TokenMemory {
  readonly #options: TokenMemoryOptions;
  readonly #running = new Map<string, Set<OutcomeListener>>();
  /** In the order in which they are forgotten. */
  readonly #remembered = new Map<string, RememberedOutcome>();
  #use = new TokenUse();
  #sinceMs: number;

  constructor(options: TokenMemoryOptions) {
    this.#options = options;
    this.#sinceMs = Math.min(options.sinceMs, options.wallNow() + tokenSkewMs);
  }

  /** As `TokenMemoryOptions.sinceMs`, later if tokens were forgotten. */
  get sinceMs(): number {
    return this.#sinceMs;
  }

  /** Throws OVERLOADED and INVALID_OPTION, effect none, and TOKEN_MEMORY_LOST, effect unknown. */
  begin(call: TokenCall, onOutcome: OutcomeListener): TokenDecision {
    const now = this.#options.wallNow();
    this.#forget(now);
    const key = keyOf(call);
    const outcome = this.#remembered.get(key);
    if (outcome !== undefined) return outcome;
    const waiting = this.#running.get(key);
    if (waiting !== undefined) {
      waiting.add(onOutcome);
      return "wait";
    }
    const { timeMs } = call;
    if (this.#sinceMs > 0 && timeMs !== undefined && timeMs < this.#sinceMs + this.#options.skewMs) {
      throw new LeverError(
        "TOKEN_MEMORY_LOST",
        `the token ${JSON.stringify(call.token)} may have been used before the memory of this instance began`,
        { effect: "unknown" },
      );
    }
    // Once forgotten, or after a crash, it would be newer than any memory and run again.
    if (timeMs !== undefined && timeMs > now + tokenSkewMs) throw tooNew(call.token, timeMs, now);
    this.#checkRoom(call);
    this.#running.set(key, new Set());
    this.#add(call, 1, 0);
    return "run";
  }

  stopWaiting(call: TokenCall, onOutcome: OutcomeListener): void {
    this.#running.get(keyOf(call))?.delete(onOutcome);
  }

  /** The method has run, and this is what its caller got. The bytes must not be changed any more. */
  finish(call: TokenCall, { flags, bytes }: Outcome): void {
    const key = keyOf(call);
    const waiting = this.#running.get(key);
    if (waiting === undefined) return;
    this.#running.delete(key);
    this.#add(call, -1, 0);
    this.#remember(key, { ...call, flags, bytes, forgetAtMs: this.#options.wallNow() + tokenWindowMs });
    for (const onOutcome of waiting) onOutcome({ flags, bytes });
  }

  /** The method was not entered. */
  abandon(call: TokenCall): void {
    const key = keyOf(call);
    const waiting = this.#running.get(key);
    if (waiting === undefined) return;
    this.#running.delete(key);
    this.#add(call, -1, 0);
    for (const onOutcome of waiting) onOutcome(undefined);
  }

  // ---------------------------------------------------------------- hand-over

  /** What is remembered, in the order in which it is forgotten. */
  outcomes(): Iterable<RememberedOutcome> {
    this.#forget(this.#options.wallNow());
    return this.#remembered.values();
  }

  /** Takes what another holder remembered, in its order. */
  add(outcome: RememberedOutcome): void {
    // By a clock that is ahead it would be kept for longer, and with it all that is forgotten after it.
    const forgetAtMs = Math.min(outcome.forgetAtMs, this.#options.wallNow() + tokenWindowMs);
    this.#remember(keyOf(outcome), { ...outcome, forgetAtMs });
  }

  /** Gives its share of the budget back; nothing is remembered any more. */
  clear(): void {
    const { budget } = this.#options;
    budget.subtract(this.#use);
    budget.memories.delete(this);
    this.#use = new TokenUse();
    this.#remembered.clear();
    this.#running.clear();
  }

  // ----------------------------------------------------------------

  #add(call: TokenCall, tokens: number, bytes: number): void {
    this.#use.add(call, tokens, bytes);
    this.#options.budget.add(call, tokens, bytes);
  }

  #remember(key: string, outcome: RememberedOutcome): void {
    if (this.#remembered.has(key)) return;
    const { budget } = this.#options;
    this.#remembered.set(key, outcome);
    this.#add(outcome, 1, bytesOf(outcome));
    budget.memories.add(this);
    budget.forgetAtMs = Math.min(budget.forgetAtMs, outcome.forgetAtMs);
  }

  #forget(now: number): void {
    const { budget, skewMs } = this.#options;
    for (const [key, outcome] of this.#remembered) {
      if (outcome.forgetAtMs > now) return;
      this.#remembered.delete(key);
      this.#add(outcome, -1, -bytesOf(outcome));
      const { timeMs, forgetAtMs } = outcome;
      if (timeMs === undefined) continue;
      // A token that was made no later may be the forgotten one; that was made before it was finished, by any right clock.
      const madeMsMax = forgetAtMs - tokenWindowMs + tokenSkewMs;
      this.#sinceMs = Math.max(this.#sinceMs, Math.min(timeMs, madeMsMax) - skewMs + 1);
    }
    budget.memories.delete(this);
  }

  /** Of all memories of the process: those that nobody calls keep what they have until they are asked. */
  #forgetAll(): void {
    const { budget, wallNow } = this.#options;
    const now = wallNow();
    if (now < budget.forgetAtMs) return;
    budget.forgetAtMs = Number.POSITIVE_INFINITY;
    for (const memory of budget.memories) {
      memory.#forget(now);
      for (const { forgetAtMs } of memory.#remembered.values()) {
        budget.forgetAtMs = Math.min(budget.forgetAtMs, forgetAtMs);
        break;
      }
    }
  }

  #checkRoom(call: TokenCall): void {
    const { budget } = this.#options;
    const isStranger = call.from !== undefined;
    const full = fullOf(this.#use, ofSlot, isStranger);
    if (full !== undefined) throw full;
    if (fullOf(budget, ofProcess, isStranger) === undefined) return;
    this.#forgetAll();
    const stillFull = fullOf(budget, ofProcess, isStranger);
    if (stillFull !== undefined) throw stillFull;
  }
}

interface Bound {
  readonly what: string;
  readonly limit: string;
  readonly max: number;
}

const ofSlot = {
  tokens: { what: "tokens of one slot", limit: "tokensMax", max: tokensMax },
  bytes: { what: "bytes of outcomes of one slot", limit: "tokenBytesMax", max: tokenBytesMaxOfSlot },
};
const ofProcess = {
  tokens: { what: "tokens of the process", limit: "tokensOfProcessMax", max: tokensOfProcessMax },
  bytes: {
    what: "bytes of outcomes of the process",
    limit: "tokenBytesOfProcessMax",
    max: tokenBytesOfProcessMax,
  },
};

function fullOf(use: TokenUse, { tokens, bytes }: typeof ofSlot, isStranger: boolean): LeverError | undefined {
  return (
    full(use.tokens, use.tokensOfStrangers, tokens, isStranger) ??
    full(use.bytes, use.bytesOfStrangers, bytes, isStranger)
  );
}

function full(count: number, ofStrangers: number, bound: Bound, isStranger: boolean): LeverError | undefined {
  const { what, limit, max } = bound;
  const share = max * strangersShare;
  if (isStranger && ofStrangers >= share) {
    const whose = `${what} by callers from outside and of other environments`;
    return overloaded(ofStrangers, whose, limit.replace(/Max$/, "OfStrangersMax"), share);
  }
  // Outcomes that were still to come may take strangers beyond their share, and that is not at the expense of others.
  const charged = count - Math.max(ofStrangers - share, 0);
  return charged >= max ? overloaded(charged, what, limit, max) : undefined;
}

function overloaded(count: number, what: string, limit: string, max: number): LeverError {
  return new LeverError(
    "OVERLOADED",
    `${count} ${what} are remembered, new ones are taken below ${max} (${limit}); each is kept for ` +
      `${tokenWindowMs / 60_000} minutes`,
    { effect: "none", details: { limit, [limit]: max } },
  );
}

function tooNew(token: string, timeMs: number, nowMs: number): LeverError {
  return new LeverError(
    "INVALID_OPTION",
    `tokenTime of the token ${JSON.stringify(token)} is ${dateOf(timeMs)}, and it is ${dateOf(nowMs)} by the clock of the ` +
      `instance, expected at most ${tokenSkewMs / 1000} s later: set the clock of whoever made the token, or of the ` +
      "instance, and repeat with a new token",
    { effect: "none", details: { field: "tokenTime", tokenTime: timeMs, nowMs, tokenSkewMs } },
  );
}

/** Every time that a call can say (48 bits) has one. */
function dateOf(timeMs: number): string {
  return new Date(timeMs).toISOString();
}

function bytesOf({ bytes, resource, method, token, from = "" }: RememberedOutcome): number {
  return entryBytes + bytes.length + 2 * (resource.length + method.length + token.length + from.length);
}

function keyOf({ resource, method, token, from = "" }: TokenCall): string {
  return `${from} ${method} ${token.length} ${token} ${resource}`;
}
