/** The call that the running method answers, inherited by everything that it awaits, nested calls included. */

import { AsyncLocalStorage } from "node:async_hooks";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import type { Invocation } from "@leveros/protocol/invocation/invocation-server.ts";
import type { Caller } from "@leveros/protocol/session/routing-header.ts";

/** What a method can know of its call. */
export interface CallContext {
  /** The service's environment and name, the instance that runs the method, and the method. */
  readonly environment: string;
  readonly service: string;
  readonly instance: string;
  readonly method: string;
  /** Who calls, as the agents know it; `outside` for a call through a gateway. */
  readonly caller: Caller;
  /** Aborted when the caller cancels, its deadline passes or the way to it is lost. Nested calls are cancelled with it. */
  readonly signal: AbortSignal;
  /** Milliseconds until the caller stops waiting; undefined for an open channel. Nested calls get no more than this. */
  readonly timeLeftMs: number | undefined;
  /** The caller's idempotency token, if it gave one. */
  readonly token: string | undefined;
  /** What the caller attached with `.with({ metadata })`. */
  readonly metadata: Readonly<Record<string, string>>;
  /** W3C trace context, passed on to nested calls. */
  readonly traceparent: string | undefined;
  readonly tracestate: string | undefined;
  /** Aborted when the instance is to stop: long-running channels should come to an end. */
  readonly draining: AbortSignal;
}

/** What the contexts of a server share. */
export interface ServerFacts {
  readonly instance: string;
  readonly draining: AbortSignal;
  now(): number;
}

const noMetadata: Readonly<Record<string, string>> = Object.freeze({});
const unknownCaller: Caller = Object.freeze({});

export class InvocationContext implements CallContext {
  readonly #invocation: Invocation;
  readonly #server: ServerFacts;

  constructor(invocation: Invocation, server: ServerFacts) {
    this.#invocation = invocation;
    this.#server = server;
  }

  get environment(): string {
    return this.#invocation.target.environment;
  }
  get service(): string {
    return this.#invocation.target.service;
  }
  get instance(): string {
    return this.#server.instance;
  }
  get method(): string {
    return this.#invocation.target.method;
  }
  get caller(): Caller {
    return this.#invocation.fields.caller ?? unknownCaller;
  }
  get signal(): AbortSignal {
    return this.#invocation.signal;
  }
  get timeLeftMs(): number | undefined {
    const { deadlineAt } = this.#invocation;
    return deadlineAt === undefined ? undefined : Math.max(deadlineAt - this.#server.now(), 0);
  }
  get token(): string | undefined {
    return this.#invocation.fields.token;
  }
  get metadata(): Readonly<Record<string, string>> {
    return this.#invocation.fields.metadata ?? noMetadata;
  }
  get traceparent(): string | undefined {
    return this.#invocation.fields.traceparent;
  }
  get tracestate(): string | undefined {
    return this.#invocation.fields.tracestate;
  }
  get draining(): AbortSignal {
    return this.#server.draining;
  }
}

const storage = new AsyncLocalStorage<CallContext>();

/** The context of the call that is being answered. Throws INVALID_OPTION outside of a method. */
export function context(): CallContext {
  const current = storage.getStore();
  if (current === undefined) {
    throw new LeverError("INVALID_OPTION", "context() was called outside of a method that Lever runs");
  }
  return current;
}

/** As `context`, undefined outside of a method. */
export function currentContext(): CallContext | undefined {
  return storage.getStore();
}

export function runInContext<Result>(callContext: CallContext, run: () => Result): Result {
  return storage.run(callContext, run);
}
