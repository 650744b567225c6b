/** The caller's side: typed proxies, and invocations and channels by URL. */

import { Channel, type RawChannel } from "@leveros/protocol/channel/channel.ts";
import { startChannel } from "@leveros/protocol/channel/open-channel.ts";
import { ResumingChannel } from "@leveros/protocol/channel/resuming-channel.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { MethodError } from "@leveros/protocol/error/method-error.ts";
import { startCall } from "@leveros/protocol/invocation/outgoing-call.ts";
import type { OutgoingOptions } from "@leveros/protocol/invocation/outgoing-stream.ts";
import { decodeReceived } from "@leveros/protocol/invocation/received-item.ts";
import { encodeFields, type RoutingFields } from "@leveros/protocol/session/routing-header.ts";
import type { Session } from "@leveros/protocol/session/session.ts";
import { parseUrl, printUrl } from "@leveros/protocol/target/lever-url.ts";
import { Target } from "@leveros/protocol/target/target.ts";
import { copyBytes } from "@leveros/protocol/value/copy-bytes.ts";
import { type Encoded, encodeArgs } from "@leveros/protocol/value/form.ts";
import { agentConnection, gatewayConnection } from "./agent-connection.ts";
import { CallCancellation, OpenCalls } from "./call-cancellation.ts";
import {
  type CallOptions,
  checkOptions,
  inherited,
  resumeTimeoutMsDefault,
  routingFields,
  shorterTimeout,
} from "./call-options.ts";
import { type Connection, connectWaitMs } from "./connection.ts";
import { type CallOrigin, currentContext, homeConnection, isRunning, originOf } from "./context.ts";
import { parseGateway } from "./endpoint.ts";
import { makeProxy, type Remote } from "./service-proxy.ts";

export interface ClientOptions {
  /** The agent's address; LEVER_AGENT unless given. `unix:///run/lever/agent.sock` or `tcp://host:port`. */
  readonly agent?: string;
  /** From outside, without an agent: `host:port` of the gateway's native port. */
  readonly gateway?: string;
  /** The environment of URLs and services that name none; with an agent, the agent's own. */
  readonly environment?: string;
}

/** For `leveros/testing`, whose connections are of its own making. */
export const ownConnection = Symbol("connection");
export interface OwnConnection extends ClientOptions {
  readonly [ownConnection]?: Connection;
}

type Start<Result> = (connection: Connection, session: Session, outgoing: OutgoingOptions) => Promise<Result>;

/** What is the same for all attempts of a call. */
interface Attempted {
  readonly resource: string | undefined;
  readonly cursor: string | undefined;
  /** The method or hook that makes it. */
  readonly within: ReturnType<typeof currentContext>;
}

interface Destination {
  readonly target: Target;
  readonly resource: string | undefined;
}

/** Parsed URLs that a client remembers; they may be made per resource, so that their number has no bound. */
const destinationsMax = 1024;

/**
 * Calls services. In a pod (or a process of `lever dev`) `new Client()` goes through the agent; from outside,
 * `new Client({ gateway, environment })` goes through a gateway. It connects at its first call: making one does nothing.
 *
 * All calls reject with `LeverError` or, when the method threw one by intent, `MethodError`. A connection that is lost
 * is made again, and only calls that had not left this process are repeated.
 */
export class Client implements AsyncDisposable {
  /** Undefined until it is known: LEVER_AGENT is looked at by the first call. */
  #connection: Connection | undefined;
  readonly #isDefault: boolean;
  readonly #environment: string | undefined;
  readonly #gatewayPort: number | undefined;
  readonly #destinations = new Map<string, Destination>();
  readonly #openCalls = new OpenCalls();
  #isClosed = false;

  /** Throws INVALID_OPTION. */
  constructor(options: ClientOptions = {}) {
    const { agent, gateway, environment } = options;
    if (agent !== undefined && gateway !== undefined) {
      throw new LeverError("INVALID_OPTION", "agent and gateway were both given; a client goes through one of them");
    }
    if (environment !== undefined) checkEnvironment(environment);
    this.#environment = environment;
    const own = (options as OwnConnection)[ownConnection];
    this.#isDefault = own === undefined && agent === undefined && gateway === undefined;
    if (own !== undefined) this.#connection = own;
    else if (gateway !== undefined) {
      const endpoint = parseGateway(gateway);
      this.#gatewayPort = endpoint.port;
      this.#connection = gatewayConnection(endpoint, environment);
    } else if (agent !== undefined) this.#connection = agentConnection(agent);
    this.#connection?.retain();
  }

  /**
   * A service's methods, typed by the object that is served:
   *
   *     const hello = client.service<Hello>("hello");
   *     await hello.sayHello("Ada");
   *     await hello.with({ timeoutMs: 500 }).sayHello("Ada");
   *
   * `name` is the service in the client's environment, or `environment/service`. Throws INVALID_URL.
   */
  service<Methods extends object>(name: string): Remote<Methods> {
    return this.#remote<Methods>(name, undefined);
  }

  /**
   * The methods of a service's resource, typed by its class, at the one instance that holds it:
   *
   *     const room = client.resource<Room>("chat", "room-7");
   *     await room.say("Ada", "hi");
   *
   * `name` as in `service`; `resource` is any text of 1 to 1,024 bytes of UTF-8. Throws INVALID_URL.
   */
  resource<Resource extends object>(name: string, resource: string): Remote<Resource> {
    // Without it the call would be one of the service.
    if (resource === undefined) {
      throw new LeverError("INVALID_URL", "resource is undefined, expected text of 1 to 1024 bytes", {
        details: { part: "resource" },
      });
    }
    return this.#remote<Resource>(name, resource);
  }

  #remote<Methods extends object>(name: string, resource: string | undefined): Remote<Methods> {
    const slash = name.indexOf("/");
    const environment = slash < 0 ? this.#environment : name.slice(0, slash);
    const service = slash < 0 ? name : name.slice(slash + 1);
    const url = printUrl({ environment, port: undefined, service, resource, method: "any" });
    const targets = new Map<string, Target>();
    return makeProxy<Methods>({
      name: url.slice(environment === undefined ? 1 : "lever://".length, -"/any".length),
      call: (method, args, options) => {
        let target = targets.get(method);
        if (target === undefined) {
          target = new Target(environment ?? "", service, method);
          if (targets.size < destinationsMax) targets.set(method, target);
        }
        const destination = { target, resource };
        return target.isStreaming ? this.#open(destination, args, options) : this.#call(destination, args, options);
      },
    });
  }

  /**
   * Invokes a method by its URL: `lever://<environment>/<service>/<method>`, or `/<service>/<method>` in the client's
   * environment. One lone `Uint8Array` in `args` is sent as bytes, and must not be changed until the call is over.
   */
  async invoke<Result = unknown>(
    url: string,
    args: readonly unknown[] = [],
    options: CallOptions = {},
  ): Promise<Result> {
    const destination = this.#parse(url);
    if (destination.target.isStreaming) {
      throw new LeverError(
        "METHOD_KIND_MISMATCH",
        `${destination.target.method} is a streaming method (its name ends in Chan or _chan, or is chan); ` +
          "use openChannel",
        { effect: "none" },
      );
    }
    return (await this.#call(destination, args, options)) as Result;
  }

  /** Opens a channel to a streaming method by its URL; resolves when the method has been entered. */
  async openChannel<Receives = unknown, Sends = unknown>(
    url: string,
    args: readonly unknown[] = [],
    options: CallOptions = {},
  ): Promise<Channel<Receives, Sends>> {
    const destination = this.#parse(url);
    if (!destination.target.isStreaming) {
      throw new LeverError(
        "METHOD_KIND_MISMATCH",
        `${destination.target.method} is no streaming method (those end in Chan or _chan, or are chan); use invoke`,
        { effect: "none" },
      );
    }
    return (await this.#open(destination, args, options)) as Channel<Receives, Sends>;
  }

  #parse(url: string): Destination {
    const known = this.#destinations.get(url);
    if (known !== undefined) return known;
    const parsed = parseUrl(url, { allowPort: this.#gatewayPort !== undefined });
    if (parsed.port !== undefined && parsed.port !== this.#gatewayPort) {
      throw new LeverError(
        "INVALID_URL",
        `the URL's port is ${parsed.port}, and this client goes through a gateway at port ${this.#gatewayPort}; ` +
          "leave the port out, or make a client for that gateway",
        { details: { part: "port" } },
      );
    }
    const destination = {
      target: new Target(parsed.environment ?? this.#environment ?? "", parsed.service, parsed.method),
      resource: parsed.resource,
    };
    if (this.#destinations.size >= destinationsMax) this.#destinations.clear();
    this.#destinations.set(url, destination);
    return destination;
  }

  async #call(destination: Destination, args: readonly unknown[], options: CallOptions): Promise<unknown> {
    const encoded = encodeArguments(args);
    const { target, resource } = destination;
    const result = await this.#attempt<Encoded>(
      { resource, cursor: undefined, within: currentContext() },
      options,
      (connection, session, outgoing) => startCall(connection.runtime, session, target, encoded, outgoing),
    );
    // Bytes are views of what came in: the caller gets memory of its own.
    return decodeReceived(result);
  }

  async #open(destination: Destination, args: readonly unknown[], options: CallOptions): Promise<Channel> {
    const encoded = encodeArguments(args);
    const { target, resource } = destination;
    const within = currentContext();
    const start = (startArgs: Encoded, cursor: string | undefined, callOptions: CallOptions) =>
      this.#attempt<RawChannel>({ resource, cursor, within }, callOptions, (connection, session, outgoing) =>
        startChannel(connection.runtime, session, target, startArgs, outgoing),
      );
    if (options.resume !== true) return new Channel(await start(encoded, undefined, options));
    if (resource === undefined) {
      throw new LeverError(
        "INVALID_OPTION",
        `resume is for channels to resources, and ${target.text} was called without one; open the channel again yourself`,
        { effect: "none", details: { field: "resume" } },
      );
    }
    // They are sent again, when their owner may have put something else there.
    const kept = encoded.form === "bytes" ? { ...encoded, bytes: copyBytes(encoded.bytes) } : encoded;
    const raw = await start(kept, undefined, options);
    const { clock, random } = this.#connect();
    const channel = new ResumingChannel(raw, {
      clock,
      random,
      resumeTimeoutMs: options.resumeTimeoutMs ?? resumeTimeoutMsDefault,
      // The channel itself obeys the other signals.
      reopen: (cursor, leftMs, signal) =>
        start(kept, cursor, { ...options, signal, timeoutMs: Math.min(options.timeoutMs ?? leftMs, leftMs) }),
    });
    const inheritedSignal = within !== undefined && isRunning(within) ? within.signal : undefined;
    const signal = new CallCancellation(this.#openCalls, options.signal, inheritedSignal);
    const onAbort = () => {
      channel.cancel(
        new LeverError("CANCELLED", `${target.text} was cancelled by its caller`, {
          effect: "ran",
          cause: signal.reason,
        }),
      );
    };
    if (signal.aborted || this.#isClosed) onAbort();
    else {
      signal.addEventListener("abort", onAbort);
      channel.whenEnded(() => signal.removeEventListener("abort", onAbort));
    }
    return new Channel(channel);
  }

  #connect(): Connection {
    if (this.#isDefault) {
      const home = homeConnection();
      if (home !== undefined) return home;
    }
    this.#connection ??= agentConnection(undefined).retain();
    return this.#connection;
  }

  /** Runs once, and again only what had not left this process when its connection was lost. */
  async #attempt<Result>(
    { resource, cursor, within }: Attempted,
    options: CallOptions,
    start: Start<Result>,
  ): Promise<Result> {
    if (this.#isClosed) throw closedError();
    checkOptions(options);
    const connection = this.#connect();
    const bounds = inherited(within);
    const timeoutMs = shorterTimeout(options.timeoutMs, bounds.timeoutMs);
    const signal = new CallCancellation(this.#openCalls, options.signal, bounds.signal);
    const origin = originOf(within);
    const fields = routingFields(resource, options, within, cursor, () => connection.leaseClock.read().wallMs);
    const session = connection.current;
    const startedAt = connection.clock.now();
    if (session !== undefined) {
      try {
        return await start(connection, session, outgoing(connection, session, origin, timeoutMs, fields, signal));
      } catch (error) {
        if (!hasNotLeft(error, session, signal)) throw seenFromHere(error);
      }
    }
    return this.#reattempt(connection, startedAt, origin, timeoutMs, fields, signal, start);
  }

  /** Waits for a connection, and tries for as long as the call may take. */
  async #reattempt<Result>(
    connection: Connection,
    startedAt: number,
    origin: CallOrigin | undefined,
    timeoutMs: number,
    fields: RoutingFields,
    signal: CallCancellation,
    start: Start<Result>,
  ): Promise<Result> {
    const waitMs = timeoutMs === 0 ? connectWaitMs : timeoutMs;
    for (;;) {
      const left = () => startedAt + waitMs - connection.clock.now();
      const session = await connection.open(Math.max(left(), 1), signal);
      if (this.#isClosed) throw closedError();
      try {
        const leftMs = timeoutMs === 0 ? 0 : Math.max(Math.ceil(left()), 1);
        return await start(connection, session, outgoing(connection, session, origin, leftMs, fields, signal));
      } catch (error) {
        if (!hasNotLeft(error, session, signal) || left() <= 0) throw seenFromHere(error);
      }
    }
  }

  /**
   * Ends the client: its calls and channels that are not over are CANCELLED. The connection closes when nothing else in
   * this process uses it, and nothing is left then that keeps the process alive.
   */
  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#openCalls.cancelAll(closedError());
    this.#connection?.release();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

/** What one attempt says and obeys. Throws HEADER_TOO_LARGE, CANCELLED. */
function outgoing(
  connection: Connection,
  session: Session,
  origin: CallOrigin | undefined,
  timeoutMs: number,
  fields: RoutingFields,
  signal: CallCancellation,
): OutgoingOptions {
  if (origin === undefined) return { timeoutMs, fields: encodeFields(fields), signal };
  // Another agent, or a gateway, knows nothing of the calling method; what this end knows of its lease holds all the same.
  const isSameAgent = origin.connection === connection;
  const isSameSession = origin.session === undefined || origin.session === session;
  if (isSameAgent && !isSameSession && origin.isBound) {
    throw new LeverError(
      "CANCELLED",
      "the connection with the agent was lost since the calling method of a resource began; it was cut off",
      { effect: "none" },
    );
  }
  return {
    timeoutMs,
    fields: encodeFields(isSameAgent && isSameSession ? { ...fields, ...origin.fields } : fields),
    signal,
    gate: origin.gate,
  };
}

/** The call's connection was lost before anything of the call had left: nobody knows of it. */
function hasNotLeft(error: unknown, session: Session, signal: CallCancellation): boolean {
  return (
    LeverError.is(error) &&
    error.effect === "none" &&
    error.kind === "network" &&
    error.reason !== "DEADLINE_EXCEEDED" &&
    !session.isAvailable &&
    !signal.aborted
  );
}

/** Errors are made where frames come in. What helps in a stack is where the call was made, which is known here. */
function seenFromHere(error: unknown): unknown {
  if (LeverError.is(error)) {
    const { reason, rawMessage, effect, cause, details } = error;
    return new LeverError(reason, rawMessage, { effect, cause, details });
  }
  return MethodError.is(error) ? new MethodError(error.value) : error;
}

function encodeArguments(args: readonly unknown[]): Encoded {
  if (Array.isArray(args)) return encodeArgs(args);
  throw new LeverError(
    "INVALID_ARGUMENTS",
    `args is ${args === null ? "null" : `a ${typeof args}`}, expected an array of the method's arguments`,
    { effect: "none" },
  );
}

function checkEnvironment(environment: string): void {
  try {
    printUrl({ environment, port: undefined, service: "any", resource: undefined, method: "any" });
  } catch (error) {
    throw new LeverError("INVALID_OPTION", `environment: ${LeverError.from(error).rawMessage}`, { cause: error });
  }
}

function closedError(): LeverError {
  return new LeverError("CANCELLED", "the client was closed", { effect: "none" });
}
