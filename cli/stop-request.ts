/**
 * When `lever dev` is to end: at Ctrl-C, SIGTERM, SIGHUP, when nobody reads its output any more, or when the npm that
 * runs it is gone. A second signal is for the impatient.
 *
 * npm passes signals on that a terminal has already sent to the whole group, and `timeout` sends its own twice: what
 * follows on the first within half a second is the same wish.
 */

import { outputBroken } from "./standard-output.ts";

const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
const sameWishMs = 500;
const parentCheckMs = 500;

export class StopRequest implements Disposable {
  /** Resolves at the first request. */
  readonly asked: Promise<void>;
  /** Resolves at the second. */
  readonly askedAgain: Promise<void>;
  #resolveAsked!: () => void;
  #resolveAskedAgain!: () => void;
  #askedAt: number | undefined;
  readonly #parentPid = process.ppid;
  readonly #parentCheck: NodeJS.Timeout | undefined;

  readonly #onSignal = () => {
    const now = performance.now();
    if (this.#askedAt === undefined) this.#ask();
    else if (now - this.#askedAt >= sameWishMs) this.#resolveAskedAgain();
  };

  readonly #ask = () => {
    this.#askedAt ??= performance.now();
    this.#resolveAsked();
  };

  constructor(env: Readonly<Record<string, string | undefined>> = process.env) {
    this.asked = new Promise((resolve) => {
      this.#resolveAsked = resolve;
    });
    this.askedAgain = new Promise((resolve) => {
      this.#resolveAskedAgain = resolve;
    });
    for (const signal of signals) process.on(signal, this.#onSignal);
    outputBroken.addEventListener("abort", this.#ask);
    if (outputBroken.aborted) this.#ask();
    // A parent that is a shell may end before what it has started (nohup); npm waits for it, unless it is killed.
    if (env["npm_command"] !== undefined) {
      this.#parentCheck = setInterval(() => {
        if (process.ppid !== this.#parentPid) this.#ask();
      }, parentCheckMs).unref();
    }
  }

  get isAsked(): boolean {
    return this.#askedAt !== undefined;
  }

  [Symbol.dispose](): void {
    for (const signal of signals) process.off(signal, this.#onSignal);
    outputBroken.removeEventListener("abort", this.#ask);
    clearInterval(this.#parentCheck);
  }
}
