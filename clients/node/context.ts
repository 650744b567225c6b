/** The call that the running method answers, inherited by everything that it awaits, nested calls included. */

import { AsyncLocalStorage } from "node:async_hooks";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import type { Invocation } from "@leveros/protocol/invocation/invocation-server.ts";
import type { Caller } from "@leveros/protocol/session/routing-header.ts";
import type { Connection } from "./connection.ts";

/** What a method can know of its call. */
export interface CallContext {
  /** The service's environment and name, the instance that runs the method, and the method. */
  readonly environment: string;
  readonly service: string;
  readonly instance: string;
  readonly method: string;
  /** Who calls, as the agents know it; `outside` for a call through a gateway. */
  readonly caller: Caller;
  /**
   * Aborted when the caller cancels, its deadline passes or the way to it is lost, while the method runs. Calls that
   * the method makes meanwhile are cancelled with it.
   */
  readonly signal: AbortSignal;
  /** Milliseconds until the caller stops waiting; undefined for a channel. Nested calls get no more than this. */
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
  /** The connection of clients that name none, where that is not LEVER_AGENT's: several instances share a process. */
  readonly home: Connection | undefined;
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

  /**
   * The method runs. What it has started and not awaited is on its own afterwards: a timer that was set in a method must
   * not have its calls refused for ever because that method's caller waits no longer.
   */
  static isRunning(context: InvocationContext): boolean {
    return !context.#invocation.isDone;
  }

  static homeOf(context: InvocationContext): Connection | undefined {
    return context.#server.home;
  }
}

/** Code of an instance that answers no call: `leveros/testing` makes the methods of an instance in it. */
class InstanceScope {
  readonly home: Connection;

  constructor(home: Connection) {
    this.home = home;
  }
}

const storage = new AsyncLocalStorage<InvocationContext | InstanceScope>();

/** The context of the call that is being answered. Throws INVALID_OPTION outside of a method. */
export function context(): CallContext {
  const current = currentContext();
  if (current === undefined) {
    throw new LeverError("INVALID_OPTION", "context() was called outside of a method that Lever runs");
  }
  return current;
}

/** As `context`, undefined outside of a method. */
export function currentContext(): InvocationContext | undefined {
  const scope = storage.getStore();
  return scope instanceof InvocationContext ? scope : undefined;
}

/** The connection of clients that name none, if the code that asks runs in an instance that has one of its own. */
export function homeConnection(): Connection | undefined {
  const scope = storage.getStore();
  if (scope === undefined) return undefined;
  return scope instanceof InvocationContext ? InvocationContext.homeOf(scope) : scope.home;
}

export function runInContext<Result>(callContext: InvocationContext, run: () => Result): Result {
  return storage.run(callContext, run);
}

export function runAsInstance<Result>(home: Connection, run: () => Result): Result {
  return storage.run(new InstanceScope(home), run);
}
