/**
 * Requests to the API server, typed, with time limits.
 *
 * Every request ends: with an answer, with a `KubeError`, or when its time on the clock is over. Nothing is repeated
 * here: whoever asks knows whether it may be. Objects go and come as JSON has them (`kube-object.ts`).
 */

import type { Clock } from "@leveros/protocol/clock/clock.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { KubeError } from "./kube-error.ts";
import {
  apiVersionOf,
  type KubeList,
  type KubeObject,
  type ObjectName,
  type ResourceKind,
  resourcePath,
  type WatchEvent,
} from "./kube-object.ts";
import type { KubeRequest, KubeResponse, KubeTransport } from "./kube-transport.ts";
import { WatchLines } from "./watch-lines.ts";

export const fieldManager = "lever-operator";

const requestTimeoutMsDefault = 10_000;
/** A page of large objects from a busy server takes seconds. */
const listTimeoutMsDefault = 60_000;
/** How long after the end of its time the server may still be about to end a watch. */
const watchSlackMs = 10_000;
/** An answer, or a line of a watch. An object in etcd has 1.5 MiB at the most; a page has many. */
const bodyBytesMax = 128 * 1024 * 1024;
const lineCharsMax = 16 * 1024 * 1024;
/** What is read of an answer that says no. */
const errorBytesMax = 256 * 1024;

export interface AnsweredRequest {
  readonly verb: string;
  readonly kind: ResourceKind;
  /** HTTP status; 0: none. */
  readonly status: number;
  readonly tookMs: number;
}

export interface KubeClientOptions {
  readonly transport: KubeTransport;
  readonly clock: Clock;
  /** Sent as `user-agent`. */
  readonly userAgent?: string;
  /** Who is said to have set what is written; `lever-operator` unless set. */
  readonly fieldManager?: string;
  /** Of requests for one object, 10 s unless set. */
  readonly requestTimeoutMs?: number;
  /** Of a page of a list, 60 s unless set. */
  readonly listTimeoutMs?: number;
  /** For metrics: each request once, a watch when it has begun. Does not throw. */
  readonly onAnswer?: (answer: AnsweredRequest) => void;
}

export interface RequestOptions {
  readonly timeoutMs?: number | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface ListOptions extends RequestOptions {
  readonly namespace?: string | undefined;
  readonly labelSelector?: string | undefined;
  readonly fieldSelector?: string | undefined;
  /** Objects in the answer; without it all. */
  readonly limit?: number | undefined;
  readonly continue?: string | undefined;
}

export interface WatchOptions {
  readonly namespace?: string | undefined;
  readonly labelSelector?: string | undefined;
  readonly fieldSelector?: string | undefined;
  readonly resourceVersion: string;
  /** The server ends the watch after this long. */
  readonly timeoutSeconds: number;
  readonly signal?: AbortSignal | undefined;
}

export interface ApplyOptions extends RequestOptions {
  /** Takes fields over from whoever else set them; true unless set. */
  readonly force?: boolean;
  /** Validates and admits, and stores nothing. */
  readonly isDryRun?: boolean;
  readonly subresource?: string;
}

export interface DeleteOptions extends RequestOptions {
  readonly uid?: string | undefined;
  readonly resourceVersion?: string | undefined;
  readonly propagationPolicy?: "Foreground" | "Background" | "Orphan";
}

type Query = Readonly<Record<string, string | number | boolean | undefined>>;

interface Exchange extends RequestOptions {
  readonly verb: string;
  readonly method: KubeRequest["method"];
  readonly kind: ResourceKind;
  readonly path: string;
  readonly query?: Query;
  readonly body?: unknown;
  readonly contentType?: string;
}

export class KubeClient {
  readonly #transport: KubeTransport;
  readonly #clock: Clock;
  readonly #userAgent: string;
  readonly #fieldManager: string;
  readonly #requestTimeoutMs: number;
  readonly #listTimeoutMs: number;
  readonly #onAnswer: (answer: AnsweredRequest) => void;

  constructor(options: KubeClientOptions) {
    this.#transport = options.transport;
    this.#clock = options.clock;
    this.#userAgent = options.userAgent ?? fieldManager;
    this.#fieldManager = options.fieldManager ?? fieldManager;
    this.#requestTimeoutMs = options.requestTimeoutMs ?? requestTimeoutMsDefault;
    this.#listTimeoutMs = options.listTimeoutMs ?? listTimeoutMsDefault;
    this.#onAnswer = options.onAnswer ?? (() => {});
  }

  /** The newest version, by a quorum read. */
  get<T extends KubeObject>(kind: ResourceKind, object: ObjectName, options: RequestOptions = {}): Promise<T> {
    return this.#ask<T>({ verb: "get", method: "GET", kind, path: resourcePath(kind, object), ...options });
  }

  /** The newest versions; pages that are continued are all of the first one's version. */
  async list<T extends KubeObject>(kind: ResourceKind, options: ListOptions = {}): Promise<KubeList<T>> {
    const { namespace, labelSelector, fieldSelector, limit, continue: token, signal } = options;
    const path = resourcePath(kind, { namespace });
    const list = await this.#ask<KubeList<T>>({
      verb: "list",
      method: "GET",
      kind,
      path,
      query: { labelSelector, fieldSelector, limit, continue: token },
      timeoutMs: options.timeoutMs ?? this.#listTimeoutMs,
      signal,
    });
    // A list without items has null in their place.
    if (typeof list.metadata?.resourceVersion !== "string" || !Array.isArray(list.items ?? [])) {
      throw KubeError.failure("Malformed", `list ${path}`, "expected a list with metadata.resourceVersion and items");
    }
    return list.items === null ? { ...list, items: [] } : list;
  }

  /**
   * Calls `onEvent` for each change after `resourceVersion`, bookmarks included, until the server ends the watch: then
   * it resolves. Rejects if the server says that something is wrong (410: list anew), if the connection fails, if
   * something comes that is not an event (Malformed), and if the watch is not over well after its time (Silent).
   * What `onEvent` throws ends the watch.
   */
  async watch<T extends KubeObject>(
    kind: ResourceKind,
    options: WatchOptions,
    onEvent: (event: WatchEvent<T>) => void,
  ): Promise<void> {
    const { namespace, labelSelector, fieldSelector, resourceVersion, timeoutSeconds, signal } = options;
    const path = resourcePath(kind, { namespace });
    const what = `watch ${path}`;
    const exchange: Exchange = {
      verb: "watch",
      method: "GET",
      kind,
      path,
      query: {
        watch: true,
        allowWatchBookmarks: true,
        labelSelector,
        fieldSelector,
        resourceVersion,
        timeoutSeconds,
      },
      signal,
    };
    const life = new RequestLife(this.#clock, what, signal);
    try {
      life.limit(this.#requestTimeoutMs, "TimedOut", "no answer");
      const response = await this.#send(exchange, life);
      life.limit(timeoutSeconds * 1000 + watchSlackMs, "Silent", `not ended by the server after ${timeoutSeconds} s`);
      const lines = new WatchLines<T>(what, lineCharsMax, onEvent);
      for await (const chunk of chunksOf(what, response)) {
        life.throwIfOver();
        lines.push(chunk);
      }
      life.throwIfOver();
      lines.end();
    } catch (error) {
      throw life.explain(error);
    } finally {
      life.end();
    }
  }

  create<T extends KubeObject>(kind: ResourceKind, object: T, options: RequestOptions = {}): Promise<T> {
    const { namespace } = object.metadata;
    const path = resourcePath(kind, { namespace });
    return this.#ask<T>({
      verb: "create",
      method: "POST",
      kind,
      path,
      query: { fieldManager: this.#fieldManager },
      body: complete(kind, object),
      ...options,
    });
  }

  /**
   * Puts the object in the place of the version that it names; 409 if there is another. Throws INVALID_OPTION if it
   * names none: that would replace whatever is there.
   */
  async replace<T extends KubeObject>(kind: ResourceKind, object: T, options: RequestOptions = {}): Promise<T> {
    const path = resourcePath(kind, object.metadata);
    if (!object.metadata.resourceVersion) {
      throw new LeverError("INVALID_OPTION", `${path}: metadata.resourceVersion is missing; replace what was read`);
    }
    return await this.#ask<T>({
      verb: "replace",
      method: "PUT",
      kind,
      path,
      query: { fieldManager: this.#fieldManager },
      body: complete(kind, object),
      ...options,
    });
  }

  /** Server-side apply as the field manager `lever-operator`: the object has exactly the fields that are Lever's. */
  apply<T extends KubeObject>(kind: ResourceKind, object: T, options: ApplyOptions = {}): Promise<T> {
    const { force = true, isDryRun = false, subresource, timeoutMs, signal } = options;
    return this.#ask<T>({
      verb: "apply",
      method: "PATCH",
      kind,
      path: resourcePath(kind, object.metadata, subresource),
      query: { fieldManager: this.#fieldManager, force, dryRun: isDryRun ? "All" : undefined },
      // JSON is YAML.
      contentType: "application/apply-patch+yaml",
      body: complete(kind, object),
      timeoutMs,
      signal,
    });
  }

  /** Server-side apply of the status: name, namespace and `status` of the object. */
  applyStatus<T extends KubeObject>(kind: ResourceKind, object: T, options: RequestOptions = {}): Promise<T> {
    return this.apply(kind, object, { ...options, subresource: "status" });
  }

  /** JSON merge patch (RFC 7386). */
  mergePatch<T extends KubeObject>(
    kind: ResourceKind,
    object: ObjectName,
    patch: object,
    options: RequestOptions & { readonly subresource?: string } = {},
  ): Promise<T> {
    const { subresource, timeoutMs, signal } = options;
    return this.#ask<T>({
      verb: "patch",
      method: "PATCH",
      kind,
      path: resourcePath(kind, object, subresource),
      query: { fieldManager: this.#fieldManager },
      contentType: "application/merge-patch+json",
      body: patch,
      timeoutMs,
      signal,
    });
  }

  /** What a subresource takes: `pods/eviction`, say. */
  post<Answer>(
    kind: ResourceKind,
    object: ObjectName,
    subresource: string,
    body: object,
    options: RequestOptions = {},
  ): Promise<Answer> {
    const path = resourcePath(kind, object, subresource);
    return this.#ask<Answer>({ verb: "create", method: "POST", kind, path, body, ...options });
  }

  /** 404 if there is none, 409 if it is not the one with that uid and version. */
  async delete(kind: ResourceKind, object: ObjectName, options: DeleteOptions = {}): Promise<void> {
    const { uid, resourceVersion, propagationPolicy, timeoutMs, signal } = options;
    await this.#ask({
      verb: "delete",
      method: "DELETE",
      kind,
      path: resourcePath(kind, object),
      body: { apiVersion: "v1", kind: "DeleteOptions", propagationPolicy, preconditions: { uid, resourceVersion } },
      timeoutMs,
      signal,
    });
  }

  /** Ends idle connections; requests under way are their askers' business. */
  close(): void {
    this.#transport.close();
  }

  async #ask<Answer>(exchange: Exchange): Promise<Answer> {
    const what = `${exchange.verb} ${exchange.path}`;
    const timeoutMs = exchange.timeoutMs ?? this.#requestTimeoutMs;
    const life = new RequestLife(this.#clock, what, exchange.signal);
    try {
      life.limit(timeoutMs, "TimedOut", `no answer within ${timeoutMs} ms`);
      // The server gives up too: a write is not done long after it was given up here.
      const query = { ...exchange.query, timeout: `${Math.ceil(timeoutMs)}ms` };
      const response = await this.#send({ ...exchange, query }, life);
      const text = await readBody(what, response, bodyBytesMax);
      life.throwIfOver();
      return parseObject(what, text) as Answer;
    } catch (error) {
      throw life.explain(error);
    } finally {
      life.end();
    }
  }

  /** Resolves to an answer that says yes. */
  async #send(exchange: Exchange, life: RequestLife): Promise<KubeResponse> {
    const { verb, method, kind, path, query = {}, body, contentType = "application/json" } = exchange;
    const what = `${verb} ${path}`;
    const sentAtMs = this.#clock.now();
    const request: KubeRequest = {
      method,
      path: withQuery(path, query),
      headers: {
        accept: "application/json",
        "user-agent": this.#userAgent,
        ...(body !== undefined && { "content-type": contentType }),
      },
      ...(body !== undefined && { body: JSON.stringify(body) }),
    };
    let status = 0;
    try {
      life.throwIfOver();
      const response = await this.#transport.send(request, life.signal).catch((error: unknown) => {
        throw connectionFailed(what, error);
      });
      life.throwIfOver();
      status = response.status;
      if (status >= 200 && status < 300) return response;
      const text = await readBody(what, response, errorBytesMax);
      life.throwIfOver();
      throw KubeError.fromStatus(what, status, parsed(text), response.retryAfter);
    } finally {
      this.#onAnswer({ verb, kind, status, tookMs: this.#clock.now() - sentAtMs });
    }
  }
}

/** When one request ends at the latest, and why it ended. */
class RequestLife {
  readonly #clock: Clock;
  readonly #what: string;
  readonly #asker: AbortSignal | undefined;
  readonly #abort = new AbortController();
  #timer: unknown;
  #over: KubeError | undefined;

  constructor(clock: Clock, what: string, asker: AbortSignal | undefined) {
    this.#clock = clock;
    this.#what = what;
    this.#asker = asker;
    if (asker?.aborted) this.#onAbort();
    else asker?.addEventListener("abort", this.#onAbort);
  }

  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  /** In the place of the limit before. */
  limit(ms: number, reason: "TimedOut" | "Silent", message: string): void {
    if (this.#timer !== undefined) this.#clock.clearTimer(this.#timer);
    this.#timer = this.#clock.setTimer(() => this.#stop(KubeError.failure(reason, this.#what, message)), ms);
  }

  throwIfOver(): void {
    if (this.#over !== undefined) throw this.#over;
  }

  /** The end that was set here comes out of the transport as an error of the connection. */
  explain(error: unknown): unknown {
    return this.#over ?? error;
  }

  /** Leaves nothing behind. Does not abort: the connection of an answer that was read is good for the next request. */
  end(): void {
    if (this.#timer !== undefined) this.#clock.clearTimer(this.#timer);
    this.#asker?.removeEventListener("abort", this.#onAbort);
  }

  readonly #onAbort = (): void => {
    this.#stop(KubeError.failure("Aborted", this.#what, "given up by who asked"));
  };

  #stop(error: KubeError): void {
    this.#over ??= error;
    this.#abort.abort();
  }
}

function connectionFailed(what: string, error: unknown): KubeError {
  return KubeError.failure("ConnectionFailed", what, error instanceof Error ? error.message : String(error), error);
}

async function* chunksOf(what: string, { chunks }: KubeResponse): AsyncGenerator<Uint8Array, void, void> {
  try {
    yield* chunks;
  } catch (error) {
    throw connectionFailed(what, error);
  }
}

async function readBody(what: string, response: KubeResponse, bytesMax: number): Promise<string> {
  const chunks: Uint8Array[] = [];
  let bytes = 0;
  for await (const chunk of chunksOf(what, response)) {
    bytes += chunk.length;
    if (bytes > bytesMax) {
      throw KubeError.failure("TooLarge", what, `the answer has over ${bytesMax} bytes; ask for smaller pages`);
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString("utf8");
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function parseObject(what: string, text: string): object {
  const value = parsed(text);
  if (typeof value !== "object" || value === null) {
    throw KubeError.failure("Malformed", what, `expected a JSON object, found ${JSON.stringify(text.slice(0, 100))}`);
  }
  return value;
}

function withQuery(path: string, query: Query): string {
  const parameters = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined) parameters.set(name, `${value}`);
  }
  const text = parameters.toString();
  return text === "" ? path : `${path}?${text}`;
}

/** The API server wants to be told what an object is. */
function complete<T extends KubeObject>(kind: ResourceKind, object: T): T {
  return { ...object, apiVersion: apiVersionOf(kind), kind: kind.kind };
}
