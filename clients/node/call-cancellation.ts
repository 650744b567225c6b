/**
 * What cancels one call: its own signal, that of the method that makes it, or the end of its client.
 *
 * Each AbortSignal has one listener here, however many calls wait for it: the platform's lists are searched from end to
 * end at each change, and `AbortSignal.any` keeps something of each call until a collection. Invariant: nothing of a
 * call is left at a signal once the call has ended.
 */

import type { CancelSignal } from "@leveros/protocol/invocation/outgoing-stream.ts";

/** The calls of a client that are not over. */
export class OpenCalls {
  readonly #calls = new Set<CallCancellation>();

  get size(): number {
    return this.#calls.size;
  }

  add(call: CallCancellation): void {
    this.#calls.add(call);
  }

  delete(call: CallCancellation): void {
    this.#calls.delete(call);
  }

  cancelAll(reason: unknown): void {
    for (const call of [...this.#calls]) call.cancel(reason);
  }
}

export class CallCancellation implements CancelSignal {
  readonly #openCalls: OpenCalls;
  readonly #own: AbortSignal | undefined;
  readonly #inherited: AbortSignal | undefined;
  #listener: (() => void) | undefined;
  #cancelledWith: { readonly reason: unknown } | undefined;

  constructor(openCalls: OpenCalls, own: AbortSignal | undefined, inherited: AbortSignal | undefined) {
    this.#openCalls = openCalls;
    this.#own = own;
    this.#inherited = inherited === own ? undefined : inherited;
  }

  get aborted(): boolean {
    return this.#cancelledWith !== undefined || this.#own?.aborted === true || this.#inherited?.aborted === true;
  }

  get reason(): unknown {
    if (this.#cancelledWith !== undefined) return this.#cancelledWith.reason;
    return this.#own?.aborted === true ? this.#own.reason : this.#inherited?.reason;
  }

  /** One listener at a time: a call waits for one thing. */
  addEventListener(_type: "abort", listener: () => void): void {
    this.#listener = listener;
    this.#openCalls.add(this);
    if (this.#own !== undefined) listen(this.#own, this);
    if (this.#inherited !== undefined) listen(this.#inherited, this);
  }

  removeEventListener(_type: "abort", listener: () => void): void {
    if (this.#listener === listener) this.#stopListening();
  }

  /** For the signals, and for the client's end. */
  cancel(reason: unknown): void {
    this.#cancelledWith ??= { reason };
    const listener = this.#listener;
    this.#stopListening();
    listener?.();
  }

  #stopListening(): void {
    this.#listener = undefined;
    this.#openCalls.delete(this);
    if (this.#own !== undefined) unlisten(this.#own, this);
    if (this.#inherited !== undefined) unlisten(this.#inherited, this);
  }
}

interface Listening {
  readonly calls: Set<CallCancellation>;
  readonly onAbort: () => void;
}

const listenings = new WeakMap<AbortSignal, Listening>();

function listen(signal: AbortSignal, call: CallCancellation): void {
  let listening = listenings.get(signal);
  if (listening === undefined) {
    const calls = new Set<CallCancellation>();
    listening = {
      calls,
      onAbort: () => {
        for (const each of [...calls]) each.cancel(signal.reason);
      },
    };
    listenings.set(signal, listening);
  }
  if (listening.calls.size === 0) signal.addEventListener("abort", listening.onAbort);
  listening.calls.add(call);
}

function unlisten(signal: AbortSignal, call: CallCancellation): void {
  const listening = listenings.get(signal);
  // The platform keeps signals alive that somebody listens to.
  if (listening?.calls.delete(call) === true && listening.calls.size === 0) {
    signal.removeEventListener("abort", listening.onAbort);
  }
}
