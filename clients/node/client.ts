/** The caller's side: typed proxies, and invocations and channels by URL. */

import { Channel, type RawChannel } from "@leveros/protocol/channel/channel.ts";
import { startChannel } from "@leveros/protocol/channel/open-channel.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { type OutgoingOptions, startCall } from "@leveros/protocol/invocation/outgoing-call.ts";
import { encodeFields, type RoutingFields, tokenBytesMax } from "@leveros/protocol/session/routing-header.ts";
import type { Session } from "@leveros/protocol/session/session.ts";
import { parseUrl } from "@leveros/protocol/target/lever-url.ts";
import { Target } from "@leveros/protocol/target/target.ts";
import { copyBytes } from "@leveros/protocol/value/copy-bytes.ts";
import { decodePayload, type Encoded, encodeArgs } from "@leveros/protocol/value/form.ts";
import { agentConnection, gatewayConnection } from "./agent-connection.ts";
import type { Connection } from "./connection.ts";
import { currentContext } from "./context.ts";
import { makeProxy, type Remote } from "./service-proxy.ts";

export interface ClientOptions {
  /** The agent's address; LEVER_AGENT unless given. `unix:///run/lever/agent.sock` or `tcp://host:port`. */
  readonly agent?: string;
  /** From outside, without an agent: `host:port` of the gateway's native port. */
  readonly gateway?: string;
  /** The environment of URLs and services that name none; with an agent, the agent's own. */
  readonly environment?: string;
}

export interface CallOptions {
  /** Time for the whole call, or for the opening of a channel, ms, 1 to 3,600,000. The service's own default otherwise. */
  readonly timeoutMs?: number;
  /** Cancels the call, or the channel, also after it was opened. */
  readonly signal?: AbortSignal;
  /** Idempotency token, 1 to 128 bytes; the method sees it in `context().token`. */
  readonly token?: string;
  /** Strings for the method's `context().metadata`; at most 16 KiB together with the rest of the routing header. */
  readonly metadata?: Readonly<Record<string, string>>;
}

/** For `leveros/testing`, whose connections are of its own making. */
export const ownConnection = Symbol("connection");
interface OwnConnection {
  readonly [ownConnection]?: Connection;
}

function connect({ agent, gateway, environment }: ClientOptions): Connection {
  return gateway === undefined ? agentConnection(agent) : gatewayConnection(gateway, environment);
}

const timeoutMsMax = 3_600_000;
const noFields = new Uint8Array(0);

/**
 * Calls services. In a pod (or a process of `lever dev`) `new Client()` goes through the agent; from outside,
 * `new Client({ gateway, environment })` goes through a gateway.
 *
 * All calls reject with `LeverError` or, when the method threw one by intent, `MethodError`.
 */
export class Client implements AsyncDisposable {
  readonly #connection: Connection;
  readonly #environment: string | undefined;
  readonly #mayHavePort: boolean;
  readonly #targets = new Map<string, { target: Target; resource: string | undefined }>();
  #isClosed = false;

  constructor(options: ClientOptions = {}) {
    const { agent, gateway, environment } = options;
    if (agent !== undefined && gateway !== undefined) {
      throw new LeverError("INVALID_OPTION", "agent and gateway were both given; a client goes through one of them");
    }
    this.#connection = (options as OwnConnection)[ownConnection] ?? connect(options);
    this.#connection.retain();
    this.#environment = environment;
    this.#mayHavePort = gateway !== undefined;
  }

  /**
   * A service's methods, typed by the object that is served:
   *
   *     const hello = client.service<Hello>("hello");
   *     await hello.sayHello("Ada");
   *     await hello.with({ timeoutMs: 500 }).sayHello("Ada");
   *
   * `name` is the service in the client's environment, or `environment/service`.
   */
  service<Methods extends object>(name: string): Remote<Methods> {
    const slash = name.indexOf("/");
    const environment = slash < 0 ? (this.#environment ?? "") : name.slice(0, slash);
    const service = slash < 0 ? name : name.slice(slash + 1);
    const targets = new Map<string, Target>();
    return makeProxy<Methods>((method, args, options) => {
      let target = targets.get(method);
      if (target === undefined) {
        target = Target.parse(`${environment}/${service}/${method}`);
        targets.set(method, target);
      }
      return target.isStreaming
        ? this.#open(target, undefined, args, options)
        : this.#call(target, undefined, args, options);
    });
  }

  /**
   * Invokes a method by its URL: `lever://<environment>/<service>/<method>`, or `/<service>/<method>` in the client's
   * environment. One lone `Uint8Array` in `args` is sent as bytes.
   */
  async invoke<Result = unknown>(
    url: string,
    args: readonly unknown[] = [],
    options: CallOptions = {},
  ): Promise<Result> {
    const { target, resource } = this.#parse(url);
    if (target.isStreaming) {
      throw new LeverError(
        "METHOD_KIND_MISMATCH",
        `${target.method} is a streaming method (its name ends in Chan or _chan, or is chan); use openChannel`,
        { effect: "none" },
      );
    }
    return (await this.#call(target, resource, args, options)) as Result;
  }

  /** Opens a channel to a streaming method by its URL; resolves when the method has been entered. */
  async openChannel<Receives = unknown, Sends = unknown>(
    url: string,
    args: readonly unknown[] = [],
    options: CallOptions = {},
  ): Promise<Channel<Receives, Sends>> {
    const { target, resource } = this.#parse(url);
    if (!target.isStreaming) {
      throw new LeverError(
        "METHOD_KIND_MISMATCH",
        `${target.method} is no streaming method (those end in Chan or _chan, or are chan); use invoke`,
        { effect: "none" },
      );
    }
    return (await this.#open(target, resource, args, options)) as Channel<Receives, Sends>;
  }

  #parse(url: string): { target: Target; resource: string | undefined } {
    const known = this.#targets.get(url);
    if (known !== undefined) return known;
    const parsed = parseUrl(url, { allowPort: this.#mayHavePort });
    const entry = {
      target: new Target(parsed.environment ?? this.#environment ?? "", parsed.service, parsed.method),
      resource: parsed.resource,
    };
    // URLs may be made per resource: the cache must not grow with them.
    if (this.#targets.size >= targetsCachedMax) this.#targets.clear();
    this.#targets.set(url, entry);
    return entry;
  }

  async #call(
    target: Target,
    resource: string | undefined,
    args: readonly unknown[],
    options: CallOptions,
  ): Promise<unknown> {
    const encoded = encodeArgs(args);
    const result = await this.#attempt(resource, options, (session, outgoing) =>
      startCall(this.#connection.runtime, session, target, encoded, outgoing),
    );
    return decodeResult(result);
  }

  async #open(
    target: Target,
    resource: string | undefined,
    args: readonly unknown[],
    options: CallOptions,
  ): Promise<Channel> {
    const encoded = encodeArgs(args);
    const raw = await this.#attempt<RawChannel>(resource, options, (session, outgoing) =>
      startChannel(this.#connection.runtime, session, target, encoded, outgoing),
    );
    return new Channel(raw);
  }

  /** Runs once, and again only what had not left this process when its connection was lost. */
  async #attempt<Result>(
    resource: string | undefined,
    options: CallOptions,
    start: (session: Session, outgoing: OutgoingOptions) => Promise<Result>,
  ): Promise<Result> {
    if (this.#isClosed) throw new LeverError("CANCELLED", "the client was closed", { effect: "none" });
    const { runtime } = this.#connection;
    const outgoing = outgoingOptions(resource, options);
    const startedAt = runtime.now();
    for (;;) {
      const session =
        this.#connection.current ?? (await this.#connection.openWithin(outgoing.timeoutMs, outgoing.signal));
      const left =
        outgoing.timeoutMs === 0 ? 0 : Math.max(Math.ceil(outgoing.timeoutMs - (runtime.now() - startedAt)), 1);
      try {
        return await start(session, left === outgoing.timeoutMs ? outgoing : { ...outgoing, timeoutMs: left });
      } catch (error) {
        const isOwnConnection = LeverError.is(error) && error.effect === "none" && !session.isAvailable;
        if (!isOwnConnection || this.#isClosed || (outgoing.timeoutMs > 0 && left <= 1)) throw error;
      }
    }
  }

  /** Ends the client. The connection closes when nothing else in this process uses it; calls that wait are CANCELLED. */
  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#connection.release();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

const targetsCachedMax = 1024;

function decodeResult(result: Encoded): unknown {
  // Bytes are views of what came in: the caller gets memory of its own.
  return result.form === "bytes" ? copyBytes(result.bytes) : decodePayload(result.bytes, result.form);
}

/** The options of a call, within those of the method that makes it: never more time, cancelled with it, the same trace. */
function outgoingOptions(resource: string | undefined, options: CallOptions): OutgoingOptions {
  const parent = currentContext();
  const { timeoutMs, token, metadata } = options;
  if (timeoutMs !== undefined && !(Number.isFinite(timeoutMs) && timeoutMs >= 1 && timeoutMs <= timeoutMsMax)) {
    throw new LeverError("INVALID_OPTION", `timeoutMs is ${timeoutMs}, expected 1 to ${timeoutMsMax}`, {
      effect: "none",
    });
  }
  if (token !== undefined && (token.length === 0 || new TextEncoder().encode(token).length > tokenBytesMax)) {
    throw new LeverError(
      "INVALID_OPTION",
      `token has ${token.length} characters, expected 1 to ${tokenBytesMax} bytes`,
      {
        effect: "none",
      },
    );
  }
  let time = timeoutMs === undefined ? 0 : Math.ceil(timeoutMs);
  let signal = options.signal;
  let traceparent: string | undefined;
  let tracestate: string | undefined;
  if (parent !== undefined) {
    const left = parent.timeLeftMs;
    if (left !== undefined) {
      if (left <= 0)
        throw new LeverError("DEADLINE_EXCEEDED", "the deadline of the calling method has passed", { effect: "none" });
      const ceiling = Math.max(Math.ceil(left), 1);
      time = time === 0 ? ceiling : Math.min(time, ceiling);
    }
    signal = signal === undefined ? parent.signal : AbortSignal.any([signal, parent.signal]);
    ({ traceparent, tracestate } = parent);
  }
  if (resource === undefined && token === undefined && metadata === undefined && traceparent === undefined) {
    return { timeoutMs: time, fields: noFields, signal };
  }
  const fields: RoutingFields = {};
  if (resource !== undefined) fields.resource = resource;
  if (token !== undefined) fields.token = token;
  if (metadata !== undefined && Object.keys(metadata).length > 0) fields.metadata = metadata;
  if (traceparent !== undefined) fields.traceparent = traceparent;
  if (tracestate !== undefined) fields.tracestate = tracestate;
  return { timeoutMs: time, fields: encodeFields(fields), signal };
}
