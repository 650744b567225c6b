/**
 * What calls with an idempotency token came to: a repeat gets the first outcome, or waits for it, and the method runs
 * once.
 *
 * Outcomes are kept for `tokenWindowMs`, each as it was sent. Invariant: none is forgotten before; a memory that is full
 * takes no new token instead. A token that is older than the memory, or as old as what it has forgotten, is not run.
 */

import { LeverError } from "../error/lever-error.ts";

export const tokenWindowMs = 600_000;
/** How far the clocks of a token's maker and of the instance may differ. */
export const tokenSkewMs = 10_000;
export const tokensMax = 10_000;
export const tokenBytesMaxOfSlot = 16 * 1024 * 1024;
export const tokensOfProcessMax = 100_000;
export const tokenBytesOfProcessMax = 64 * 1024 * 1024;

/** A call with a token. */
export interface TokenCall {
  /** Empty for a method that is of no resource. */
  readonly resource: string;
  readonly method: string;
  readonly token: string;
  /** The caller's environment, if it is another one than the service's: its tokens are its own. */
  readonly from?: string | undefined;
  /** When the token was made, wall-clock ms; undefined: the caller does not say, and nothing is promised over a crash. */
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

/** Tokens and bytes of all memories of a process. */
export class TokenBudget {
  tokens = 0;
  bytes = 0;
  /** Those that remember something. */
  readonly memories = new Set<TokenMemory>();
  /** Nothing of any of them is to be forgotten before; wall-clock ms. */
  forgetAtMs = Number.POSITIVE_INFINITY;
}

export interface TokenMemoryOptions {
  readonly budget: TokenBudget;
  /** From when on every token is remembered, wall-clock ms; 0: always. */
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
  #bytes = 0;
  #sinceMs: number;

  constructor(options: TokenMemoryOptions) {
    this.#options = options;
    this.#sinceMs = options.sinceMs;
  }

  /** As `TokenMemoryOptions.sinceMs`, later if tokens were forgotten. */
  get sinceMs(): number {
    return this.#sinceMs;
  }

  get size(): number {
    return this.#running.size + this.#remembered.size;
  }

  /** Throws OVERLOADED, effect none, and TOKEN_MEMORY_LOST, effect unknown. */
  begin(call: TokenCall, onOutcome: OutcomeListener): TokenDecision {
    this.#forget();
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
    this.#checkRoom();
    this.#running.set(key, new Set());
    this.#options.budget.tokens++;
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
    this.#options.budget.tokens--;
    this.#remember(key, { ...call, flags, bytes, forgetAtMs: this.#options.wallNow() + tokenWindowMs });
    for (const onOutcome of waiting) onOutcome({ flags, bytes });
  }

  /** The method was not entered. */
  abandon(call: TokenCall): void {
    const key = keyOf(call);
    const waiting = this.#running.get(key);
    if (waiting === undefined) return;
    this.#running.delete(key);
    this.#options.budget.tokens--;
    for (const onOutcome of waiting) onOutcome(undefined);
  }

  // ---------------------------------------------------------------- hand-over

  /** What is remembered, in the order in which it is forgotten. */
  outcomes(): Iterable<RememberedOutcome> {
    this.#forget();
    return this.#remembered.values();
  }

  /** Takes what another holder remembered, in its order. */
  add(outcome: RememberedOutcome): void {
    this.#remember(keyOf(outcome), outcome);
  }

  /** Gives its share of the budget back; nothing is remembered any more. */
  clear(): void {
    const { budget } = this.#options;
    budget.tokens -= this.size;
    budget.bytes -= this.#bytes;
    budget.memories.delete(this);
    this.#bytes = 0;
    this.#remembered.clear();
    this.#running.clear();
  }

  // ----------------------------------------------------------------

  #remember(key: string, outcome: RememberedOutcome): void {
    if (this.#remembered.has(key)) return;
    const { budget } = this.#options;
    const bytes = bytesOf(outcome);
    this.#remembered.set(key, outcome);
    this.#bytes += bytes;
    budget.tokens++;
    budget.bytes += bytes;
    budget.memories.add(this);
    budget.forgetAtMs = Math.min(budget.forgetAtMs, outcome.forgetAtMs);
  }

  #forget(now = this.#options.wallNow()): void {
    const { budget } = this.#options;
    for (const [key, outcome] of this.#remembered) {
      if (outcome.forgetAtMs > now) return;
      this.#remembered.delete(key);
      const bytes = bytesOf(outcome);
      this.#bytes -= bytes;
      budget.tokens--;
      budget.bytes -= bytes;
      // A token that was made no later may be the forgotten one.
      if (outcome.timeMs !== undefined) {
        this.#sinceMs = Math.max(this.#sinceMs, outcome.timeMs - this.#options.skewMs + 1);
      }
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

  #checkRoom(): void {
    const { budget } = this.#options;
    if (this.size >= tokensMax) throw full("tokens of one slot", this.size, "tokensMax", tokensMax);
    if (this.#bytes >= tokenBytesMaxOfSlot) {
      throw full("bytes of outcomes of one slot", this.#bytes, "tokenBytesMax", tokenBytesMaxOfSlot);
    }
    if (budget.tokens >= tokensOfProcessMax || budget.bytes >= tokenBytesOfProcessMax) this.#forgetAll();
    if (budget.tokens >= tokensOfProcessMax) {
      throw full("tokens of the process", budget.tokens, "tokensOfProcessMax", tokensOfProcessMax);
    }
    if (budget.bytes >= tokenBytesOfProcessMax) {
      throw full("bytes of outcomes of the process", budget.bytes, "tokenBytesOfProcessMax", tokenBytesOfProcessMax);
    }
  }
}

function full(what: string, count: number, limit: string, max: number): LeverError {
  return new LeverError(
    "OVERLOADED",
    `${count} ${what} are remembered, new ones are taken below ${max}; each is kept for ${tokenWindowMs / 60_000} minutes`,
    { effect: "none", details: { limit, [limit]: max } },
  );
}

function bytesOf({ bytes, resource, method, token, from = "" }: RememberedOutcome): number {
  return entryBytes + bytes.length + 2 * (resource.length + method.length + token.length + from.length);
}

function keyOf({ resource, method, token, from = "" }: TokenCall): string {
  return `${from} ${method} ${token.length} ${token} ${resource}`;
}
