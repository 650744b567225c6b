/**
 * When `lever dev` is to end: at Ctrl-C, SIGTERM, SIGHUP, when nobody reads its output any more, or when the npm that
 * runs it is gone. A second signal is for the impatient.
 *
 * npm passes signals on that a terminal has already sent to the whole group, and `timeout` sends its own twice: what
 * follows on the first within half a second is the same wish.
 */

import { readFileSync } from "node:fs";
import { outputBroken } from "./standard-output.ts";

const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
const sameWishMs = 500;
const npmCheckMs = 500;

export class StopRequest implements Disposable {
  /** Resolves at the first request. */
  readonly asked: Promise<void>;
  /** Resolves at the second. */
  readonly askedAgain: Promise<void>;
  #resolveAsked!: () => void;
  #resolveAskedAgain!: () => void;
  #askedAt: number | undefined;
  readonly #npmCheck: NodeJS.Timeout | undefined;

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
    if (env["npm_command"] !== undefined) {
      const parents = npmParents();
      this.#npmCheck = setInterval(() => {
        if (parents.join() !== npmParents().join()) this.#ask();
      }, npmCheckMs).unref();
    }
  }

  get isAsked(): boolean {
    return this.#askedAt !== undefined;
  }

  [Symbol.dispose](): void {
    for (const signal of signals) process.off(signal, this.#onSignal);
    outputBroken.removeEventListener("abort", this.#ask);
    clearInterval(this.#npmCheck);
  }
}

/**
 * The processes between this one and npm, npm included: it runs commands by a shell, which passes no signal on, and is
 * itself not told when npm is killed. Others that start this process, a user's shell say, may end before it.
 */
function npmParents(): number[] {
  const parent = process.ppid;
  try {
    const [shell, option] = readFileSync(`/proc/${parent}/cmdline`, "utf8").split("\0");
    if (!shell?.endsWith("sh") || option !== "-c") return [parent];
    // "pid (name) state parent …"; the name may hold spaces and brackets.
    const stat = readFileSync(`/proc/${parent}/stat`, "latin1");
    return [parent, Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1])];
  } catch {
    // It has ended, or the system has no /proc.
    return [parent];
  }
}
