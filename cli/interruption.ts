/**
 * Ctrl-C and SIGTERM while a call runs: the first cancels the call, so that its method learns of it and an error says
 * whether it had run; the second ends the process as if nobody had listened.
 */

import { LeverError } from "leveros";

const signals = ["SIGINT", "SIGTERM"] as const;

export class Interruption implements Disposable {
  readonly #controller = new AbortController();

  readonly #onSignal = () => {
    this[Symbol.dispose]();
    this.abort();
  };

  constructor() {
    for (const signal of signals) process.on(signal, this.#onSignal);
  }

  /** Aborted at the first of them. */
  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** As the user's wish. */
  abort(): void {
    this.#controller.abort(new LeverError("CANCELLED", "interrupted", { effect: "unknown" }));
  }

  [Symbol.dispose](): void {
    for (const signal of signals) process.off(signal, this.#onSignal);
  }
}
