/**
 * The call that the running method answers, or the hook of a resource that runs; inherited by everything that it awaits,
 * nested calls included.
 */

import { AsyncLocalStorage } from "node:async_hooks";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import type { Invocation } from "@leveros/protocol/invocation/invocation-server.ts";
import type { Gate } from "@leveros/protocol/session/gate.ts";
import type { Caller, RoutingFields } from "@leveros/protocol/session/routing-header.ts";
import type { Session } from "@leveros/protocol/session/session.ts";
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
  /** The resource that the call names; undefined for a plain method. */
  readonly resource: string | undefined;
  /**
   * A fencing token for stores: of two holders of the resource the later one has the larger epoch. 0 for a plain method,
   * and while a service with `onUncertain: Serve` does not know who holds the resource.
   */
  readonly epoch: number;
  /**
   * Of a channel that its caller has opened again: the cursor of the last message that it received. Whoever reads it is
   * taken to go on behind that message; a method that does not leaves its caller with a `discontinuity`.
   */
  readonly cursor: string | undefined;
  /** Aborted when the instance is to stop or the resource is to move: long-running channels should come to an end. */
  readonly draining: AbortSignal;
}

/** What the contexts of a server share. */
export interface ServerFacts {
  readonly instance: string;
  readonly draining: AbortSignal;
  /** Over which the calls come. */
  readonly connection: Connection;
  /** The connection of clients that name none, where that is not LEVER_AGENT's: several instances share a process. */
  readonly home: Connection | undefined;
  now(): number;
}

/** The slot of a call to a resource. */
export interface SlotFacts {
  readonly epoch: number;
  /** Asked before anything that the slot's methods and hooks say leaves; undefined where there is no lease. */
  readonly gate: Gate | undefined;
  readonly draining: AbortSignal;
}

/** What a call inherits from the method or hook within which it is made. */
export interface CallOrigin {
  readonly connection: Connection;
  /** As they go to the agent. */
  readonly fields: Pick<RoutingFields, "parent" | "hook">;
  /** The session on which they count; undefined if any does. */
  readonly session: Session | undefined;
  /** A call on another session is not to be made at all. */
  readonly isBound: boolean;
  readonly gate: Gate | undefined;
}

const noMetadata: Readonly<Record<string, string>> = Object.freeze({});
const unknownCaller: Caller = Object.freeze({});

export class InvocationContext implements CallContext {
  readonly #invocation: Invocation;
  readonly #server: ServerFacts;
  readonly #slot: SlotFacts | undefined;

  constructor(invocation: Invocation, server: ServerFacts, slot?: SlotFacts) {
    this.#invocation = invocation;
    this.#server = server;
    this.#slot = slot;
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
  get resource(): string | undefined {
    return this.#invocation.fields.resource;
  }
  get epoch(): number {
    return this.#slot?.epoch ?? 0;
  }
  get cursor(): string | undefined {
    return this.#invocation.takeCursor();
  }
  get draining(): AbortSignal {
    return this.#slot?.draining ?? this.#server.draining;
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

  /**
   * For calls that the method makes. Undefined once it has returned, and for a plain method that has ended its channel:
   * the agent may know nothing of it any more.
   */
  static originOf(context: InvocationContext): CallOrigin | undefined {
    const invocation = context.#invocation;
    const slot = context.#slot;
    if (invocation.isDone || (slot === undefined && invocation.isOutputEnded)) return undefined;
    return {
      connection: context.#server.connection,
      fields: { parent: invocation.streamId },
      session: invocation.session,
      isBound: slot !== undefined,
      gate: slot?.gate,
    };
  }
}

/** Which hook runs; `constructor` with what `[open]` does. */
export type Hook = "constructor" | "handOver" | "dispose";

/** The context of a hook of a resource: nobody has called it. */
export class HookContext implements CallContext {
  readonly environment: string;
  readonly service: string;
  readonly method: Hook;
  readonly resource: string;
  readonly caller: Caller = unknownCaller;
  readonly timeLeftMs: number | undefined = undefined;
  readonly token: string | undefined = undefined;
  readonly metadata: Readonly<Record<string, string>> = noMetadata;
  readonly traceparent: string | undefined = undefined;
  readonly tracestate: string | undefined = undefined;
  readonly cursor: string | undefined = undefined;
  readonly #server: ServerFacts;
  readonly #slot: SlotFacts;
  #controller: AbortController | undefined;
  #isOver = false;

  constructor(
    hook: Hook,
    resource: string,
    { environment, service }: { readonly environment: string; readonly service: string },
    server: ServerFacts,
    slot: SlotFacts,
  ) {
    this.method = hook;
    this.resource = resource;
    this.environment = environment;
    this.service = service;
    this.#server = server;
    this.#slot = slot;
  }

  get instance(): string {
    return this.#server.instance;
  }
  get epoch(): number {
    return this.#slot.epoch;
  }
  get draining(): AbortSignal {
    return this.#slot.draining;
  }

  /** Aborted when the hook has taken too long. */
  get signal(): AbortSignal {
    this.#controller ??= new AbortController();
    return this.#controller.signal;
  }

  /** The hook has returned: what it left behind (a timer) is on its own. Or it is late, and `error` says so. */
  static end(context: HookContext, error?: LeverError): void {
    context.#isOver = true;
    if (error !== undefined) context.#controller?.abort(error);
  }

  static isRunning(context: HookContext): boolean {
    return !context.#isOver;
  }

  static homeOf(context: HookContext): Connection | undefined {
    return context.#server.home;
  }

  static originOf(context: HookContext): CallOrigin | undefined {
    if (context.#isOver) return undefined;
    const { connection } = context.#server;
    return {
      connection,
      fields: { hook: context.resource },
      session: undefined,
      isBound: false,
      gate: context.#slot.gate,
    };
  }
}

/** Code of an instance that answers no call: `leveros/testing` makes the methods of an instance in it. */
class InstanceScope {
  readonly home: Connection;

  constructor(home: Connection) {
    this.home = home;
  }
}

const storage = new AsyncLocalStorage<InvocationContext | HookContext | InstanceScope>();

/** The context of the call that is being answered, or of the hook. Throws INVALID_OPTION outside of both. */
export function context(): CallContext {
  const current = currentContext();
  if (current === undefined) {
    throw new LeverError("INVALID_OPTION", "context() was called outside of a method that Lever runs");
  }
  return current;
}

/** As `context`, undefined outside of a method. */
export function currentContext(): InvocationContext | HookContext | undefined {
  const scope = storage.getStore();
  return scope instanceof InstanceScope ? undefined : scope;
}

/** What a call that is made within this context inherits beside its time; undefined once the method or hook is over. */
export function originOf(callContext: InvocationContext | HookContext | undefined): CallOrigin | undefined {
  if (callContext === undefined) return undefined;
  return callContext instanceof HookContext
    ? HookContext.originOf(callContext)
    : InvocationContext.originOf(callContext);
}

export function isRunning(callContext: InvocationContext | HookContext): boolean {
  return callContext instanceof HookContext
    ? HookContext.isRunning(callContext)
    : InvocationContext.isRunning(callContext);
}

/** The connection of clients that name none, if the code that asks runs in an instance that has one of its own. */
export function homeConnection(): Connection | undefined {
  const scope = storage.getStore();
  if (scope === undefined) return undefined;
  if (scope instanceof InvocationContext) return InvocationContext.homeOf(scope);
  return scope instanceof HookContext ? HookContext.homeOf(scope) : scope.home;
}

export function runInContext<Result>(callContext: InvocationContext | HookContext, run: () => Result): Result {
  return storage.run(callContext, run);
}

export function runAsInstance<Result>(home: Connection, run: () => Result): Result {
  return storage.run(new InstanceScope(home), run);
}
