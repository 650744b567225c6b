/** Serves an object's functions as the methods of this process's service. */

import { encodeRegistration } from "@leveros/protocol/control/registration.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { type Invocation, InvocationServer, type MethodHost } from "@leveros/protocol/invocation/invocation-server.ts";
import type { Session } from "@leveros/protocol/session/session.ts";
import { copyBytes } from "@leveros/protocol/value/copy-bytes.ts";
import { decodeArgs } from "@leveros/protocol/value/decode.ts";
import type { Encoded } from "@leveros/protocol/value/form.ts";
import { agentConnection } from "./agent-connection.ts";
import { type Connection, clock } from "./connection.ts";
import { InvocationContext, runInContext, type ServerFacts } from "./context.ts";
import { type Method, methodTable, registeredMethods } from "./method-table.ts";
import { checkArguments } from "./validated.ts";
import { library, version } from "./version.ts";

export interface ServeOptions {
  /** The agent's address; LEVER_AGENT unless given. `unix:///run/lever/agent.sock` or `tcp://host:port`. */
  readonly agent?: string;
  /** On SIGTERM and SIGINT: take no new calls, let those that run end, then exit. Default true. */
  readonly handleSignals?: boolean;
  /** How long running methods may take to end after that, ms. 0 to 3,600,000; default 25,000. */
  readonly drainTimeoutMs?: number;
  /** Where errors of methods are reported that are no MethodError. Default: `console.error`. */
  readonly onError?: (error: unknown, facts: { readonly method: string; readonly traceId: string | undefined }) => void;
}

/** What `serve` returns. */
export interface Server extends AsyncDisposable {
  /** Takes no new calls; resolves when those that run have ended, or after `drainTimeoutMs`. Then closes. */
  drain(): Promise<void>;
}

/**
 * Serves the functions of `methods`: plain ones as methods that are invoked, those whose names end in `Chan` or `_chan`
 * (or are `chan`) as streaming ones, which get the channel as their first parameter. Names that begin with `_` stay
 * private. Resolves when the agent knows the methods; afterwards the connection is kept open and made again when lost.
 *
 * Rejects with INVALID_OPTION, or AGENT_UNREACHABLE when no agent answers within 30 s.
 */
export async function serve(methods: object, options: ServeOptions = {}): Promise<Server> {
  const drainTimeoutMs = options.drainTimeoutMs ?? 25_000;
  if (!(drainTimeoutMs >= 0 && drainTimeoutMs <= 3_600_000)) {
    throw new LeverError("INVALID_OPTION", `drainTimeoutMs is ${drainTimeoutMs}, expected 0 to 3600000`);
  }
  const connection = agentConnection(options.agent).retain();
  let server: MethodServer;
  try {
    server = new MethodServer(connection, methods, drainTimeoutMs, options);
    connection.serve(server);
    const session = await connection.openWithin(30_000, undefined);
    await server.registered(session);
  } catch (error) {
    connection.stopServing();
    connection.release();
    throw error;
  }
  if (options.handleSignals !== false) server.handleSignals();
  return server;
}

/** Serves over one connection; `testing` makes its own connections. */
export class MethodServer implements MethodHost, Server {
  readonly #connection: Connection;
  readonly #methods: Map<string, Method>;
  readonly #invocations: InvocationServer;
  readonly #drainTimeoutMs: number;
  readonly #onError: ServeOptions["onError"];
  readonly #draining = new AbortController();
  readonly #facts: ServerFacts;
  /** `lever dev` shows callers what a method threw; elsewhere that is for the log alone. */
  readonly #showsErrors = process.env.LEVER_SHOW_ERRORS === "1";
  #drained: Promise<void> | undefined;
  #stopSignals: () => void = () => {};

  constructor(
    connection: Connection,
    methods: object,
    drainTimeoutMs: number,
    options: ServeOptions & { instance?: string },
  ) {
    this.#connection = connection;
    this.#methods = methodTable(methods);
    this.#drainTimeoutMs = drainTimeoutMs;
    this.#onError = options.onError;
    const { runtime } = connection;
    this.#facts = {
      instance: options.instance ?? process.env.LEVER_INSTANCE ?? "",
      draining: this.#draining.signal,
      now: runtime.now,
    };
    this.#invocations = new InvocationServer({
      host: this,
      wheel: runtime.wheel,
      budget: runtime.budget,
      now: runtime.now,
    });
  }

  // ---------------------------------------------------------------- the connection

  onOpen: InvocationServer["onOpen"] = (stream, open) => this.#invocations.onOpen(stream, open);

  onSession(session: Session): void {
    if (this.#draining.signal.aborted) return;
    session.register(
      encodeRegistration({ methods: registeredMethods(this.#methods), resources: false, library, version }),
    );
  }

  /** Resolves when the agent has taken the registration: it answers a PING behind it, or closes the session. */
  registered(session: Session): Promise<void> {
    return session.roundTrip();
  }

  // ---------------------------------------------------------------- methods

  prepare(invocation: Invocation, args: Encoded): (() => unknown) | Promise<() => unknown> {
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
    const method = this.#method(invocation);
    const enter = (values: unknown[]) => (channel: unknown) => this.#run(invocation, method, [channel, ...values]);
    const values = this.#arguments(invocation, method, args);
    return values instanceof Promise ? values.then(enter) : enter(values);
  }

  #method(invocation: Invocation): Method {
    const { method, service } = invocation.target;
    const found = this.#methods.get(method);
    if (found !== undefined) return found;
    throw new LeverError(
      "METHOD_NOT_FOUND",
      `${service} has no method ${method}; it has ${[...this.#methods.keys()].slice(0, 20).join(", ")}`,
      { effect: "none" },
    );
  }

  #arguments(invocation: Invocation, method: Method, args: Encoded): unknown[] | Promise<unknown[]> {
    // Bytes are views of what came in: the method gets memory of its own.
    const values = args.form === "bytes" ? [copyBytes(args.bytes)] : decodeArgs(args.bytes);
    return method.schemas === undefined ? values : checkArguments(method.schemas, values, invocation.target.method);
  }

  #run(invocation: Invocation, method: Method, args: unknown[]): unknown {
    return runInContext(new InvocationContext(invocation, this.#facts), () => method.call(args));
  }

  describeThrown(invocation: Invocation, thrown: unknown): string {
    const { method } = invocation.target;
    const traceId = invocation.fields.traceparent?.split("-")[1];
    if (this.#onError !== undefined) this.#onError(thrown, { method, traceId });
    // biome-ignore lint/suspicious/noConsole: the instance's log is where a method's unexpected error belongs.
    else console.error(`lever: ${method} threw${traceId === undefined ? "" : ` (trace ${traceId})`}:`, thrown);
    if (this.#showsErrors)
      return `${method} threw ${thrown instanceof Error ? `${thrown.name}: ${thrown.message}` : String(thrown)}`;
    const where = this.#facts.instance === "" ? "" : ` of ${this.#facts.instance}`;
    return `${method} threw an error that is not for callers; it is in the log${where}${traceId === undefined ? "" : ` with trace ${traceId}`}`;
  }

  // ---------------------------------------------------------------- the end

  handleSignals(): void {
    const signals = ["SIGTERM", "SIGINT"] as const;
    const onSignal = () => {
      this.drain().then(
        () => process.exit(0),
        () => process.exit(1),
      );
    };
    for (const signal of signals) process.once(signal, onSignal);
    this.#stopSignals = () => {
      for (const signal of signals) process.off(signal, onSignal);
    };
  }

  drain(): Promise<void> {
    this.#drained ??= this.#drain();
    return this.#drained;
  }

  async #drain(): Promise<void> {
    const error = new LeverError("DRAINING", `${this.#facts.instance || "the instance"} is about to stop`, {
      effect: "none",
    });
    this.#draining.abort(error);
    this.#connection.current?.goAway(error);
    let timer: unknown;
    const late = new Promise<void>((resolve) => {
      timer = clock.setTimer(resolve, this.#drainTimeoutMs);
    });
    await Promise.race([this.#invocations.idle(), late]);
    clock.clearTimer(timer);
    // The last answers are on their way once a turn of the loop has passed.
    await new Promise<void>((resolve) => clock.setTimer(resolve, 20));
    this.#stopSignals();
    this.#connection.stopServing();
    this.#connection.release();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.drain();
  }
}
