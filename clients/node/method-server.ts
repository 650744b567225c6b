/**
 * The methods of an object, and those of the objects of a class, over one connection: registers them on each session,
 * checks the arguments of calls, runs methods in their contexts, reports what they throw, and comes to an end without
 * breaking off what runs. Which resources there are is for `resources/resource-host.ts`.
 */

import { randomBytes, randomUUID } from "node:crypto";
import { encodeRegistration } from "@leveros/protocol/control/registration.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { framePayloadBytesMax } from "@leveros/protocol/frame/frame.ts";
import { type Invocation, InvocationServer, type MethodHost } from "@leveros/protocol/invocation/invocation-server.ts";
import { TokenBudget, TokenMemory } from "@leveros/protocol/invocation/token-memory.ts";
import type { Session } from "@leveros/protocol/session/session.ts";
import { copyBytes } from "@leveros/protocol/value/copy-bytes.ts";
import { decodeArgs } from "@leveros/protocol/value/decode.ts";
import type { Encoded } from "@leveros/protocol/value/form.ts";
import type { Connection, ServingHandler } from "./connection.ts";
import { InvocationContext, runInContext, type ServerFacts } from "./context.ts";
import { type Method, methodTable, registeredMethods } from "./method-table.ts";
import { ResourceHost } from "./resources/resource-host.ts";
import { type ResourceClass, ResourceMethods } from "./resources/resource-methods.ts";
import type { ResourceObject } from "./resources/slot.ts";
import { checkArguments } from "./validated.ts";
import { library, version } from "./version.ts";

/** Gets what a method threw that is no MethodError. */
export type ErrorReporter = (error: unknown, facts: ErrorFacts) => void;

export interface ErrorFacts {
  /** Or a hook of a resource: `constructor` (with `[open]`), `handOver`, `dispose`. */
  readonly method: string;
  /** Of a hook. */
  readonly resource?: string;
  /** The caller's trace, or one made for this error; the message that the caller gets names it too. */
  readonly traceId: string;
}

export interface MethodServerOptions {
  readonly drainTimeoutMs: number;
  /** `console.error` unless given. */
  readonly onError: ErrorReporter | undefined;
  readonly instance: string;
  /** Callers get the text of what a method threw. */
  readonly showsErrors: boolean;
  /** Clients that name no connection use the server's own while its methods run, and not LEVER_AGENT's. */
  readonly isHome?: boolean;
  /** The class of the service's resources, if it has any. */
  readonly resource?: ResourceClass | undefined;
  /** `resourcesMaxDefault` unless given. */
  readonly resourcesMax?: number | undefined;
  /** Names the process: at most 64 characters; two that live at the same time in one environment have different ones. */
  readonly process?: string;
}

/** Objects of resources at a time. */
export const resourcesMaxDefault = 100_000;
export const resourcesMaxMax = 1_000_000;

/** How a server ended. */
export interface ServerEnd {
  /** Calls and channels that still ran when the time to drain was over. */
  readonly cutOff: number;
}

const flushTimeoutMs = 1000;
const processName = randomUUID();

/** Whoever makes one has retained the connection for it; `end` releases it. */
export class MethodServer implements MethodHost, ServingHandler {
  readonly #connection: Connection;
  readonly #options: MethodServerOptions;
  readonly #methods: Map<string, Method>;
  readonly #registration: Uint8Array;
  readonly #invocations: InvocationServer;
  readonly #draining = new AbortController();
  readonly #facts: ServerFacts;
  readonly #resources: ResourceHost | undefined;
  readonly #resourceMethods: ResourceMethods | undefined;
  /** Of methods that are of no resource. */
  readonly #tokens: TokenMemory;
  /** `start` waits for the first registration. */
  #starting: { readonly resolve: () => void; readonly reject: (error: LeverError) => void } | undefined;
  #reportedRefusal = "";
  #ended: Promise<ServerEnd> | undefined;
  #onEnded: () => void = () => {};

  /** Throws INVALID_OPTION. */
  constructor(connection: Connection, methods: object, options: MethodServerOptions) {
    this.#connection = connection;
    this.#options = options;
    const { resource, resourcesMax = resourcesMaxDefault } = options;
    this.#methods = methodTable(methods, resource !== undefined);
    this.#resourceMethods = resource === undefined ? undefined : new ResourceMethods(resource);
    const ofResources = (this.#resourceMethods?.registered() ?? []).filter(({ name }) => !this.#methods.has(name));
    this.#registration = encodeRegistration({
      methods: [...registeredMethods(this.#methods), ...ofResources],
      resources: resource !== undefined,
      library,
      version,
    });
    if (this.#registration.length > framePayloadBytesMax) {
      throw new LeverError(
        "INVALID_OPTION",
        `the names of ${this.#methods.size + ofResources.length} methods take ${this.#registration.length} bytes, at most ` +
          `${framePayloadBytesMax} can be registered; serve fewer methods, or shorter names`,
      );
    }
    const { runtime } = connection;
    this.#facts = {
      instance: options.instance,
      draining: this.#draining.signal,
      connection,
      home: options.isHome === true ? connection : undefined,
      now: runtime.now,
    };
    const budget = new TokenBudget();
    const wallNow = () => Math.max(Math.floor(connection.leaseClock.read().wallMs), 0);
    // Calls come again to the very same instance only, by its agents' doing, which make the token older then: a process
    // that has just started must not refuse new ones.
    this.#tokens = new TokenMemory({ budget, sinceMs: wallNow(), skewMs: 0, wallNow });
    if (resource !== undefined) {
      this.#resources = new ResourceHost(
        {
          connection,
          resource,
          resourcesMax,
          process: options.process ?? processName,
          server: this.#facts,
          report: (error, hook, name) => {
            this.#report(error, { method: hook, resource: name, traceId: randomBytes(16).toString("hex") });
          },
        },
        budget,
      );
    }
    this.#invocations = new InvocationServer({
      host: this,
      wheel: runtime.wheel,
      budget: runtime.budget,
      now: runtime.now,
    });
  }

  // ---------------------------------------------------------------- the connection

  /** Resolves when the agent has taken the registration. Rejects with INVALID_OPTION, AGENT_UNREACHABLE. */
  async start(timeoutMs: number): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const connection = this.#connection;
    const timer = connection.clock.setTimer(() => {
      reject(
        connection.lastError ??
          new LeverError("AGENT_UNREACHABLE", `${connection.name} took no registration within ${timeoutMs} ms`),
      );
    }, timeoutMs);
    this.#starting = { resolve, reject };
    try {
      connection.serve(this);
      await promise;
    } catch (error) {
      connection.stopServing(this, true);
      throw error;
    } finally {
      this.#starting = undefined;
      connection.clock.clearTimer(timer);
    }
  }

  onOpen: InvocationServer["onOpen"] = (stream, open) => this.#invocations.onOpen(stream, open);

  onSession(session: Session): void {
    if (this.#draining.signal.aborted) return;
    session.register(this.#registration);
    this.#resources?.onSession(session);
    // An agent that does not want it closes the session; any other answers the PING behind it.
    session.roundTrip().then(
      () => {
        this.#reportedRefusal = "";
        this.#starting?.resolve();
      },
      (error: unknown) => this.#onSessionLost(LeverError.from(error)),
    );
  }

  #onSessionLost(error: LeverError): void {
    const refusal = [error, error.cause].find((each): each is LeverError => {
      return LeverError.is(each) && (each.kind === "arguments" || each.kind === "internal");
    });
    // A lost connection is made again, and then this is called again.
    if (refusal === undefined || this.#draining.signal.aborted) return;
    if (this.#starting !== undefined) return this.#starting.reject(refusal);
    if (refusal.message === this.#reportedRefusal) return;
    this.#reportedRefusal = refusal.message;
    // biome-ignore lint/suspicious/noConsole: nobody else would learn why this instance gets no calls any more.
    console.error(`lever: ${this.#connection.name} does not register this process again: ${refusal.message}`);
  }

  // ---------------------------------------------------------------- methods

  admit(invocation: Invocation): TokenMemory | Promise<TokenMemory> {
    if (invocation.fields.resource === undefined) return this.#tokens;
    if (this.#resources !== undefined) return this.#resources.admit(invocation);
    throw new LeverError(
      "NO_RESOURCES",
      `the call names a resource, and ${invocation.target.service} was served without a class for resources: ` +
        "serve(methods, { resource: Room })",
      { effect: "none" },
    );
  }

  enters(invocation: Invocation): void {
    if (invocation.attachment !== undefined) this.#resources?.enters(invocation);
  }

  prepare(invocation: Invocation, args: Encoded): (() => unknown) | Promise<() => unknown> {
    if (invocation.attachment !== undefined) return this.#prepareFor(invocation, args, []) as () => unknown;
    const method = this.#method(invocation);
    const values = this.#arguments(invocation, method, args);
    return values instanceof Promise
      ? values.then((checked) => () => this.#run(invocation, method, checked))
      : () => this.#run(invocation, method, values);
  }

  prepareChannel(
    invocation: Invocation,
    args: Encoded,
  ): ((channel: unknown) => unknown) | Promise<(channel: unknown) => unknown> {
    if (invocation.attachment !== undefined) {
      return this.#prepareFor(invocation, args, [undefined]) as (channel: unknown) => unknown;
    }
    const method = this.#method(invocation);
    const enter = (values: unknown[]) => (channel: unknown) => this.#run(invocation, method, [channel, ...values]);
    const values = this.#arguments(invocation, method, args);
    return values instanceof Promise ? values.then(enter) : enter(values);
  }

  #method(invocation: Invocation): Method {
    const { method, service } = invocation.target;
    const found = this.#methods.get(method);
    if (found !== undefined) return found;
    throw this.#notFound(service, method, [...this.#methods.keys()]);
  }

  #notFound(owner: string, method: string, names: readonly string[]): LeverError {
    const has = names.length === 0 ? "none at all; name a resource" : names.slice(0, 20).join(", ");
    return new LeverError("METHOD_NOT_FOUND", `${owner} has no method ${method}; it has ${has}`, { effect: "none" });
  }

  /** As `prepare` and `prepareChannel`, for a method of a resource; `before` stands for what it gets first. */
  #prepareFor(
    invocation: Invocation,
    args: Encoded,
    before: readonly undefined[],
  ): ((...first: unknown[]) => unknown) | Promise<(...first: unknown[]) => unknown> {
    const resources = this.#resources as ResourceHost;
    // Before the object may have to be waited for: what comes in lies there until the end of this turn only.
    const decoded = decodedArgs(args);
    const enter = (object: ResourceObject) => {
      const instance = object.instance as object;
      const { method: name } = invocation.target;
      const method = this.#resourceMethods?.find(instance, name);
      if (method === undefined) {
        const names = this.#resourceMethods?.registered().map((known) => known.name) ?? [];
        throw this.#notFound(`a resource of ${invocation.target.service}`, name, names);
      }
      const run = (values: unknown[]) => {
        const context = new InvocationContext(invocation, this.#facts, resources.slotOf(invocation));
        return (...first: unknown[]) =>
          runInContext(context, () => method.method.apply(instance, [...first.slice(0, before.length), ...values]));
      };
      const values = this.#checked(invocation, method, decoded, args);
      return values instanceof Promise ? values.then(run) : run(values);
    };
    const object = resources.objectFor(invocation);
    return object instanceof Promise ? object.then(enter) : enter(object);
  }

  #arguments(invocation: Invocation, method: Method, args: Encoded): unknown[] | Promise<unknown[]> {
    return this.#checked(invocation, method, decodedArgs(args), args);
  }

  #checked(
    invocation: Invocation,
    method: Pick<Method, "name" | "schemas">,
    values: unknown[],
    args: Encoded,
  ): unknown[] | Promise<unknown[]> {
    if (method.schemas === undefined) return values;
    const refuse = (error: unknown): never => {
      throw this.#refusal(invocation, error, args);
    };
    try {
      const checked = checkArguments(method.schemas, values, method.name);
      return checked instanceof Promise ? checked.catch(refuse) : checked;
    } catch (error) {
      return refuse(error);
    }
  }

  /** Why arguments are refused: their form, their values, or a validator that threw. */
  #refusal(invocation: Invocation, error: unknown, args: Encoded): LeverError {
    if (!LeverError.is(error)) {
      return new LeverError("METHOD_THREW", this.describeThrown(invocation, error), { effect: "none" });
    }
    if (args.form !== "bytes" || error.reason !== "INVALID_ARGUMENTS") return error;
    return new LeverError(
      "ARGS_FORM",
      `${invocation.target.method} was given ${args.bytes.length} bytes and takes JSON values: ${error.rawMessage}`,
      { effect: "none", details: error.details },
    );
  }

  #run(invocation: Invocation, method: Method, args: unknown[]): unknown {
    return runInContext(new InvocationContext(invocation, this.#facts), () => method.call(args));
  }

  describeThrown(invocation: Invocation, thrown: unknown): string {
    const { method } = invocation.target;
    const traceId = invocation.fields.traceparent?.split("-")[1] ?? randomBytes(16).toString("hex");
    this.#report(thrown, { method, traceId });
    if (this.#options.showsErrors) return `${method} threw ${textOf(thrown)}`;
    const where = this.#options.instance === "" ? "its instance" : this.#options.instance;
    return `${method} threw an error that is not for callers; it is in the log of ${where} with trace ${traceId}`;
  }

  #report(thrown: unknown, facts: ErrorFacts): void {
    const { onError } = this.#options;
    try {
      if (onError !== undefined) return onError(thrown, facts);
    } catch (error) {
      // biome-ignore lint/suspicious/noConsole: a reporter that throws must not take the report with it.
      console.error("lever: onError threw:", error);
    }
    // biome-ignore lint/suspicious/noConsole: the instance's log is where a method's unexpected error belongs.
    console.error(
      `lever: ${facts.method}${facts.resource === undefined ? "" : " of a resource"} threw (trace ${facts.traceId}):`,
      thrown,
    );
  }

  // ---------------------------------------------------------------- the end

  /** Takes no new calls; resolves when those that run have ended, or after `drainTimeoutMs`. Then closes. */
  async drain(): Promise<void> {
    await this.end();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.end();
  }

  /** As `drain`. */
  end(): Promise<ServerEnd> {
    this.#ended ??= this.#end();
    return this.#ended;
  }

  /** Calls back once, when the server has ended. */
  whenEnded(callback: () => void): void {
    this.#onEnded = callback;
  }

  async #end(): Promise<ServerEnd> {
    const { drainTimeoutMs, instance } = this.#options;
    const connection = this.#connection;
    const error = new LeverError("DRAINING", `${instance || "the instance"} is about to stop`, { effect: "none" });
    this.#draining.abort(error);
    let timer: unknown;
    const late = new Promise<boolean>((resolve) => {
      timer = connection.clock.setTimer(() => resolve(false), drainTimeoutMs);
    });
    // Resources are served until each has moved.
    if (this.#resources !== undefined) await Promise.race([this.#resources.leave(), late]);
    connection.goAway(error);
    const isIdle = this.#invocations.isIdle || (await Promise.race([this.#invocations.idle().then(() => true), late]));
    connection.clock.clearTimer(timer);
    if (this.#resources !== undefined) {
      // The last answers have to leave before what they answer for is over: their gate shuts with it.
      await connection.flush(flushTimeoutMs);
      await this.#resources.close();
    }
    const cutOff = isIdle ? 0 : Math.max(this.#invocations.running, 1);
    await connection.flush(flushTimeoutMs);
    connection.stopServing(this, !isIdle);
    connection.release();
    this.#onEnded();
    return { cutOff };
  }
}

/** Bytes are views of what came in: the method gets memory of its own. */
function decodedArgs(args: Encoded): unknown[] {
  return args.form === "bytes" ? [copyBytes(args.bytes)] : decodeArgs(args.bytes);
}

function textOf(thrown: unknown): string {
  try {
    return thrown instanceof Error ? `${thrown.name}: ${thrown.message}` : String(thrown);
  } catch {
    return "a value that cannot be printed";
  }
}
