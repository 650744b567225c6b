/**
 * The HTTP interface: `POST /<service>[/<resource>]/<method>` with a JSON array or bytes. `docs/http.md` describes it.
 *
 * It owns what HTTP has and Lever has not: connections, their limits, and which request gets which kind of answer. A
 * request becomes an ordinary call of a client session with the gateway's agent. How an answer reaches the client is
 * answer.ts's.
 *
 * Invariant: whatever comes in on a connection, what goes out is HTTP, with problem details for every error.
 */

import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import type { Duplex } from "node:stream";
import type { Agent } from "@leveros/agent/core/agent.ts";
import { listenOn } from "@leveros/agent/host/socket.ts";
import type { Clock } from "@leveros/protocol/clock/clock.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { AssemblyBudget } from "@leveros/protocol/invocation/assembly.ts";
import { decodeReceived } from "@leveros/protocol/invocation/received-item.ts";
import { type Encoded, encodeArgs } from "@leveros/protocol/value/form.ts";
import express, { type Express, type NextFunction, type Request, type Response } from "express";
import type { Registry } from "prom-client";
import { Answer, lingerMsMax } from "./answer.ts";
import { contentForm } from "./content-form.ts";
import { corsHeaders, preflightHeaders } from "./cors.ts";
import { DoorMetrics } from "./door-metrics.ts";
import { DoorSession } from "./door-session.ts";
import { exchange, exchangeMsMax } from "./exchange.ts";
import { parseArguments } from "./json-args.ts";
import { rawProblem, statusOf } from "./problem.ts";
import { type RequestOptions, requestOptions, traceparentOf } from "./request-options.ts";
import { type RequestPlace, requestPlace, requestTarget, type TargetRules } from "./request-target.ts";

export interface HttpDoorOptions extends TargetRules {
  readonly host: string;
  /** 0 gives a free one. */
  readonly port: number;
  readonly agent: Agent;
  readonly clock: Clock;
  readonly registry: Registry;
  /** Origins that browsers may read answers from; `*` is any. */
  readonly corsOrigins: readonly string[];
  /** The largest body of a call, and the longest line of an exchange; 512 KiB unless set. */
  readonly bodyBytesMax?: number;
  readonly limits?: Partial<DoorLimits>;
}

export interface DoorLimits {
  /** Open connections; one more is closed at once. */
  readonly connectionsMax: number;
  /** The request line and all headers, bytes. */
  readonly headerBytesMax: number;
  readonly headersMax: number;
  /** How long the headers of a request may take, and the body of a call. */
  readonly headersMsMax: number;
  readonly bodyMsMax: number;
  /** How long a connection may lie idle between requests: longer than load balancers keep theirs (60 s). */
  readonly idleMsMax: number;
  /** How long a channel over HTTP may take. */
  readonly exchangeMsMax: number;
  /** Bodies and results that are held for clients, bytes together. */
  readonly heldBytesMax: number;
}

export const bodyBytesMaxDefault = 512 * 1024;

export const defaultDoorLimits: DoorLimits = {
  connectionsMax: 10_000,
  headerBytesMax: 32 * 1024,
  headersMax: 200,
  headersMsMax: 10_000,
  bodyMsMax: 60_000,
  idleMsMax: 65_000,
  exchangeMsMax,
  heldBytesMax: 256 * 1024 * 1024,
};

const allowedMethods = "POST, OPTIONS";
const goneCodes: ReadonlySet<string> = new Set(["ECONNRESET", "EPIPE", "HPE_INVALID_EOF_STATE"]);
/** For connections that none of the other limits ends. */
const requestMsMax = 300_000;

export class HttpDoor {
  readonly #options: HttpDoorOptions;
  readonly #limits: DoorLimits;
  readonly #server: Server;
  readonly #app: Express;
  readonly #session: DoorSession;
  readonly #metrics: DoorMetrics;
  readonly #budget: AssemblyBudget;
  readonly #running = new Set<Answer>();
  readonly #answers = new WeakMap<IncomingMessage, Answer>();
  /** The last request of each connection: what a parse error on it belongs to. */
  readonly #lastAnswer = new WeakMap<Duplex, Answer>();
  #connections = 0;
  #isDraining = false;
  #whenIdle: (() => void)[] = [];

  private constructor(options: HttpDoorOptions) {
    this.#options = options;
    const limits = { ...defaultDoorLimits, ...options.limits };
    this.#limits = limits;
    this.#session = new DoorSession(options.agent, options.clock);
    this.#budget = new AssemblyBudget(limits.heldBytesMax);
    this.#metrics = new DoorMetrics(options.registry, {
      connections: () => this.#connections,
      running: () => this.#running.size,
      heldBytes: () => this.#budget.bytes,
    });
    this.#app = express();
    this.#app.disable("x-powered-by");
    this.#app.use((request: Request, response: Response, next: NextFunction) =>
      this.#commonHeaders(request, response, next),
    );
    this.#app.use((request: Request) => this.#handle(request));
    this.#server = this.#makeServer();
  }

  /** Rejects with the system's error when the port cannot be had. */
  static async start(options: HttpDoorOptions): Promise<HttpDoor> {
    const door = new HttpDoor(options);
    await listenOn(door.#server, options.host, options.port, () => door.close());
    return door;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** Takes no new connections; resolves when all requests have been answered. */
  drain(): Promise<void> {
    this.#isDraining = true;
    this.#server.close();
    for (const answer of this.#running) answer.isLast = true;
    if (this.#running.size === 0) return Promise.resolve();
    return new Promise((resolve) => this.#whenIdle.push(resolve));
  }

  /** Ends everything now. */
  close(): void {
    this.#server.close();
    this.#server.closeAllConnections();
  }

  // ---------------------------------------------------------------- connections

  #makeServer(): Server {
    const { headerBytesMax, headersMax, headersMsMax, idleMsMax, connectionsMax } = this.#limits;
    const server = createServer({
      headersTimeout: headersMsMax,
      requestTimeout: requestMsMax,
      // Node looks for late requests at this interval only.
      connectionsCheckingInterval: Math.ceil(headersMsMax / 4),
      keepAliveTimeout: idleMsMax,
      maxHeaderSize: headerBytesMax,
      // Node would answer without a word about why.
      requireHostHeader: false,
      keepAlive: true,
      keepAliveInitialDelay: 30_000,
    });
    // Node drops what is above this silently; one more than the limit tells that there were more.
    server.maxHeadersCount = headersMax + 1;
    server.maxConnections = connectionsMax;
    server.on("connection", (socket) => {
      this.#connections++;
      socket.once("close", () => this.#connections--);
    });
    const onRequest = (request: IncomingMessage, response: ServerResponse) => this.#onRequest(request, response);
    server.on("request", onRequest);
    // The word to go on is said when the body is wanted (request-body.ts): not before the headers were looked at.
    server.on("checkContinue", onRequest);
    server.on("checkExpectation", onRequest);
    server.on("connect", (_request, socket) => {
      this.#refuse(socket, new LeverError("HTTP_METHOD_NOT_ALLOWED", "CONNECT: this gateway is no proxy"));
    });
    server.on("clientError", (error: NodeJS.ErrnoException, socket) => this.#onClientError(error, socket));
    return server;
  }

  /** Bytes that are no HTTP, or a request that does not come to its end. */
  #onClientError(error: NodeJS.ErrnoException, socket: Duplex): void {
    // The last of these: the client has ended its direction within a request, so that it is taken for gone.
    if (goneCodes.has(error.code ?? "") || !socket.writable) {
      socket.destroy();
      return;
    }
    const problem = this.#clientProblem(error);
    const last = this.#lastAnswer.get(socket);
    if (last === undefined || (last.isOver && last.body.isComplete)) return this.#refuse(socket, problem);
    if (!last.body.isComplete) {
      // The body of a request: whoever answers that knows whether its method has run.
      if (!last.isOver) last.body.fail(problem);
      else if (!last.isLingering) socket.destroy();
      return;
    }
    // Behind a request that is still being answered: an answer now would be taken for that one's.
    last.isLast = true;
    last.whenClosed(() => socket.destroy());
  }

  #clientProblem(error: NodeJS.ErrnoException): LeverError {
    const { headerBytesMax, headersMsMax } = this.#limits;
    switch (error.code) {
      case "HPE_HEADER_OVERFLOW":
        return new LeverError(
          "HEADER_TOO_LARGE",
          `the request line and the headers take more than ${headerBytesMax} bytes, the gateway's limit`,
          { details: { limit: "headerBytes", bytesMax: headerBytesMax } },
        );
      case "ERR_HTTP_REQUEST_TIMEOUT":
        return new LeverError(
          "HTTP_REQUEST_TIMEOUT",
          `the headers did not arrive within ${headersMsMax / 1000} s, or the body within ${requestMsMax / 1000} s`,
        );
      default:
        return new LeverError("HTTP_REQUEST_INVALID", `the request is not valid HTTP/1.1: ${error.message}`);
    }
  }

  /** An answer to what never became a request; the connection ends with it. */
  #refuse(socket: Duplex, error: LeverError): void {
    if (socket.writableEnded || !socket.writable) return;
    this.#metrics.refused(statusOf(error));
    socket.on("error", () => {});
    socket.end(rawProblem(error));
    // What still comes in is dropped for a while: closing over unread bytes could reset the answer.
    const { clock } = this.#options;
    const timer = clock.setTimer(() => socket.destroy(), lingerMsMax);
    socket.once("close", () => clock.clearTimer(timer));
    socket.resume();
  }

  // ---------------------------------------------------------------- requests

  #onRequest(request: IncomingMessage, response: ServerResponse): void {
    // It was told that nothing more is answered here, so that nothing may run for it either.
    if (this.#lastAnswer.get(request.socket)?.endsConnection === true) return;
    const { clock } = this.#options;
    const startedAt = clock.now();
    const answer = new Answer(request, response, {
      clock,
      budget: this.#budget,
      onAnswered: (status) => this.#metrics.answered(status, clock.now() - startedAt),
    });
    answer.isLast = this.#isDraining;
    this.#running.add(answer);
    this.#answers.set(request, answer);
    this.#lastAnswer.set(request.socket, answer);
    // Express would parse and decode it, and a resource is what its escapes say.
    request.url = "/";
    // What goes wrong in a middleware comes back here instead of as a page of express's own.
    const last = (error: unknown) => {
      answer.fail(error);
      answer.whenClosed(() => this.#over(answer));
    };
    try {
      (this.#app as unknown as (request: IncomingMessage, response: ServerResponse, last: unknown) => void)(
        request,
        response,
        last,
      );
    } catch (error) {
      last(error);
    }
  }

  #over(answer: Answer): void {
    this.#running.delete(answer);
    if (!this.#isDraining) return;
    this.#server.closeIdleConnections();
    if (this.#running.size > 0) return;
    const waiting = this.#whenIdle;
    this.#whenIdle = [];
    for (const resolve of waiting) resolve();
  }

  #commonHeaders(request: Request, response: Response, next: NextFunction): void {
    response.setHeader("x-content-type-options", "nosniff");
    const cors = corsHeaders(request.headers.origin, this.#options.corsOrigins);
    for (const [name, value] of Object.entries(cors)) response.setHeader(name, value);
    next();
  }

  async #handle(request: IncomingMessage): Promise<void> {
    const answer = this.#answers.get(request) as Answer;
    try {
      await this.#answer(request, answer);
    } catch (error) {
      answer.fail(error);
    } finally {
      answer.whenClosed(() => this.#over(answer));
    }
  }

  async #answer(request: IncomingMessage, answer: Answer): Promise<void> {
    const trace = traceparentOf(request.headers.traceparent as string | undefined);
    answer.setHeader("traceparent", trace.traceparent);
    this.#checkHeaders(request);
    const place = requestPlace(answer.rawUrl, request.headers.host);
    if (request.method === "OPTIONS") return preflight(request, answer);
    if (place.path === "/" && (request.method === "GET" || request.method === "HEAD")) {
      const text = "This is a Lever gateway. POST /<service>/<method> with a JSON array of arguments.\n";
      return answer.send(200, "text/plain; charset=utf-8", text);
    }
    const { target, resource } = requestTarget(place, this.#options);
    if (request.method !== "POST") {
      answer.setHeader("allow", allowedMethods);
      throw new LeverError(
        "HTTP_METHOD_NOT_ALLOWED",
        `${request.method} on the method ${target.text}: methods are called with POST${hint(request, place, target.isStreaming)}`,
      );
    }
    const call = requestOptions(request, resource, trace);
    const form = contentForm(request.headers);
    const bodyBytesMax = this.#options.bodyBytesMax ?? bodyBytesMaxDefault;
    const session = this.#session;
    if ((form === "ndjson") !== target.isStreaming) {
      throw new LeverError(
        "METHOD_KIND_MISMATCH",
        target.isStreaming
          ? `${target.method} is a streaming method; send content-type application/x-ndjson with the arguments as the ` +
              "first line, or use a client library"
          : `${target.method} is no streaming method; send content-type application/json or application/octet-stream`,
      );
    }
    if (form === "ndjson") {
      const { clock } = this.#options;
      const limitMs = this.#limits.exchangeMsMax;
      return exchange(answer, target, call, { session, clock, lineBytesMax: bodyBytesMax, exchangeMsMax: limitMs });
    }
    const startedAt = this.#options.clock.now();
    const body = await this.#readBody(answer, call, bodyBytesMax);
    const args: Encoded = form === "bytes" ? { bytes: body, form } : encodeArgs(parseArguments(body, "the body"));
    if (!answer.hold(args.bytes.length)) throw tooMuchHeld("none");
    const elapsedMs = this.#options.clock.now() - startedAt;
    const timeoutMs = call.timeoutMs === 0 ? 0 : Math.max(Math.ceil(call.timeoutMs - elapsedMs), 1);
    const result = await session.call(target, args, { timeoutMs, fields: call.fields, signal: answer.gone });
    if (!answer.hold(result.bytes.length)) throw tooMuchHeld("ran");
    if (result.form === "bytes") answer.send(200, "application/octet-stream", result.bytes);
    else answer.send(200, "application/json", JSON.stringify(decodeReceived(result)));
  }

  /** Throws HEADER_TOO_LARGE or HTTP_REQUEST_INVALID. */
  #checkHeaders(request: IncomingMessage): void {
    const { headersMax } = this.#limits;
    const { rawHeaders } = request;
    if (rawHeaders.length / 2 > headersMax) {
      throw new LeverError("HEADER_TOO_LARGE", `the request has more than ${headersMax} headers, the gateway's limit`, {
        details: { limit: "headers", headersMax },
      });
    }
    // RFC 9112, 3.2: it decides the environment, so that two proxies must not see two of them.
    const hosts = request.headersDistinct["host"]?.length ?? 0;
    if (hosts > 1 || (hosts === 0 && request.httpVersionMinor > 0)) {
      throw new LeverError("HTTP_REQUEST_INVALID", `the request has ${hosts} Host headers, expected one`);
    }
  }

  async #readBody({ body }: Answer, call: RequestOptions, bytesMax: number): Promise<Uint8Array> {
    const { bodyMsMax } = this.#limits;
    const isCallers = call.timeoutMs > 0 && call.timeoutMs <= bodyMsMax;
    const ms = isCallers ? call.timeoutMs : bodyMsMax;
    const { clock } = this.#options;
    const timer = clock.setTimer(() => {
      const text = `the body did not arrive within ${ms} ms`;
      body.fail(new LeverError(isCallers ? "DEADLINE_EXCEEDED" : "HTTP_REQUEST_TIMEOUT", text, { effect: "none" }));
    }, ms);
    try {
      return await body.all(bytesMax);
    } finally {
      clock.clearTimer(timer);
    }
  }
}

function preflight(request: IncomingMessage, answer: Answer): void {
  answer.setHeader("allow", allowedMethods);
  if (request.headers.origin !== undefined) {
    for (const [name, value] of Object.entries(preflightHeaders(request.headers))) answer.setHeader(name, value);
  }
  answer.send(204, undefined);
}

const hintCharsMax = 500;

/** A command to copy. Only of characters that a shell leaves alone between the quotes. */
function hint(request: IncomingMessage, { path, query }: RequestPlace, isStreaming: boolean): string {
  const url = `http://${request.headers.host ?? "127.0.0.1:8080"}${path}${query === "" ? "" : `?${query}`}`;
  if (url.length > hintCharsMax || !/^[\x21-\x26\x28-\x7e]+$/.test(url)) return "";
  const type = isStreaming ? "application/x-ndjson" : "application/json";
  return `, as in: curl '${url}' -H 'content-type: ${type}' -d '[]'`;
}

function tooMuchHeld(effect: "none" | "ran"): LeverError {
  return new LeverError("OVERLOADED", "the gateway holds as many bytes for HTTP clients as it may", { effect });
}
