/**
 * An API server for tests: objects with resource versions, lists in pages, watches with bookmarks, conflicts, and every
 * way to fail, reached over memory (on whatever clock) or over real HTTP.
 *
 * It keeps what a client can rely on: a list's pages are of one version, a watch tells every change after a version or
 * says 410, a replace is done only on the version that it names.
 */

import http from "node:http";
import type { AddressInfo, Socket } from "node:net";
import type { Clock } from "@leveros/protocol/clock/clock.ts";
import type { KubeObject, ResourceKind } from "./kube-object.ts";
import type { KubeRequest, KubeResponse, KubeTransport } from "./kube-transport.ts";

type Stored = KubeObject & Record<string, unknown>;

/** What goes wrong with a request. */
export type Fault =
  /** Answered so, and nothing done. */
  | { readonly status: number; readonly reason?: string; readonly retryAfter?: number; readonly body?: string }
  /** The connection breaks: before anything is done, or when all is done and nothing was answered. */
  | { readonly reset: "before" | "after" }
  /** Nothing is answered; done or not. */
  | { readonly silent: "before" | "after" }
  /** On its way there, and the answer's way back. */
  | { readonly delayMs: number; readonly answerDelayMs?: number }
  /** Of a watch: after so many lines. */
  | { readonly afterLines: number; readonly watchFault: WatchFault };

export type WatchFault =
  | "close"
  | "reset"
  | "silence"
  | { readonly line: string }
  /** Without its end. */
  | { readonly partOfLine: string };

/** What a token says: whose it is, whom for, and further claims, of the pod that it is bound to. */
export interface KnownToken {
  readonly username: string;
  readonly audiences: readonly string[];
  readonly extra?: Readonly<Record<string, readonly string[]>>;
}

interface Change {
  readonly version: number;
  readonly collection: string;
  readonly type: "ADDED" | "MODIFIED" | "DELETED";
  readonly object: Stored;
}

interface Watcher {
  readonly collection: string;
  readonly namespace: string | undefined;
  readonly selector: string | undefined;
  /** `metadata.name=…` is all that is understood. */
  readonly fields: string | undefined;
  send(line: string): void;
  end(how: "close" | "reset"): void;
}

interface Answer {
  readonly status: number;
  readonly retryAfter?: string | undefined;
  readonly body?: unknown;
  /** Of a watch. */
  start?(send: (line: string) => void, end: (how: "close" | "reset") => void): () => void;
}

const pathPattern =
  /^\/(?:api|apis\/(?<group>[^/]+))\/(?<version>[^/]+)(?:\/namespaces\/(?<namespace>[^/]+))?\/(?<plural>[^/]+)(?:\/(?<name>[^/]+))?(?:\/(?<subresource>[^/]+))?$/;

export class ApiServer {
  /** What is to go wrong with a request; asked for each. */
  fault: (request: KubeRequest) => Fault | undefined = () => undefined;
  /** All that were asked for, in order. */
  readonly requests: KubeRequest[] = [];
  /** Service accounts' tokens that it knows, by their text. */
  readonly tokens = new Map<string, KnownToken>();
  /** Objects in a page, whatever is asked for. */
  pageItemsMax = Number.POSITIVE_INFINITY;
  readonly #clock: Clock;
  readonly #collections = new Map<string, Map<string, Stored>>();
  readonly #watchers = new Set<Watcher>();
  readonly #pages = new Map<string, { readonly version: number; readonly items: readonly Stored[] }>();
  #changes: Change[] = [];
  #version = 1000;
  #oldestVersion = 1000;
  #uids = 0;
  #tokens = 0;
  #listening: http.Server | undefined;
  readonly #sockets = new Set<Socket>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  get version(): string {
    return `${this.#version}`;
  }

  get watcherCount(): number {
    return this.#watchers.size;
  }

  /** Requests whose method and path begin so. */
  requestsTo(start: string): KubeRequest[] {
    return this.requests.filter(({ method, path }) => `${method} ${path}`.startsWith(start));
  }

  // ---------------------------------------------------------------- what others do

  objects<T extends KubeObject>(kind: ResourceKind): T[] {
    return [...this.#collection(collectionOf(kind)).values()] as unknown as T[];
  }

  object<T extends KubeObject>(kind: ResourceKind, namespace: string, name: string): T | undefined {
    return this.#collection(collectionOf(kind)).get(`${namespace}/${name}`) as unknown as T | undefined;
  }

  /** Creates the object, or puts it in the place of what is there. */
  put(kind: ResourceKind, object: KubeObject): void {
    this.#store(collectionOf(kind), object as Stored);
  }

  remove(kind: ResourceKind, namespace: string, name: string): void {
    this.#remove(collectionOf(kind), `${namespace}/${name}`);
  }

  /** Changes elsewhere raise the version. */
  pass(versions = 1): void {
    this.#version += versions;
  }

  sendBookmarks(): void {
    for (const watcher of this.#watchers) {
      const object = { kind: "Bookmark", metadata: { resourceVersion: `${this.#version}` } };
      watcher.send(JSON.stringify({ type: "BOOKMARK", object }));
    }
  }

  /** Forgets changes and pages: who has an older version, or a continue token, gets 410. */
  compact(): void {
    this.#changes = [];
    this.#pages.clear();
    this.#oldestVersion = this.#version;
  }

  /** Every watch is told that its version is too old. */
  expireWatches(): void {
    for (const watcher of [...this.#watchers]) {
      watcher.send(JSON.stringify({ type: "ERROR", object: statusOf(410, "Expired") }));
      watcher.end("close");
    }
  }

  endWatches(how: "close" | "reset"): void {
    for (const watcher of [...this.#watchers]) watcher.end(how);
  }

  // ---------------------------------------------------------------- doors

  /** Over memory, on the clock. */
  transport(): KubeTransport {
    return { send: (request, signal) => this.#send(request, signal), close: () => {} };
  }

  /** Over HTTP on the loopback; its base URL. */
  async listen(): Promise<string> {
    const server = http.createServer((incoming, outgoing) => {
      void this.#serve(incoming, outgoing);
    });
    server.on("connection", (socket) => {
      this.#sockets.add(socket);
      socket.on("close", () => this.#sockets.delete(socket));
    });
    this.#listening = server;
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  }

  get connectionCount(): number {
    return this.#sockets.size;
  }

  async close(): Promise<void> {
    const server = this.#listening;
    if (server === undefined) return;
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => server.close(resolve));
  }

  async #send(request: KubeRequest, signal: AbortSignal): Promise<KubeResponse> {
    const isWatch = request.path.includes("watch=true");
    this.requests.push(request);
    const fault = this.fault(request);
    const aborted = new Promise<never>((_, reject) => {
      const abort = () => reject(new Error("aborted"));
      if (signal.aborted) abort();
      else signal.addEventListener("abort", abort);
    });
    aborted.catch(() => {});
    const wait = (ms: number) =>
      ms <= 0 ? undefined : Promise.race([new Promise<void>((done) => void this.#clock.setTimer(done, ms)), aborted]);
    if (fault !== undefined) {
      if ("reset" in fault) {
        if (fault.reset === "after") this.#handle(request);
        throw new Error("read ECONNRESET");
      }
      if ("silent" in fault) {
        if (fault.silent === "after") this.#handle(request);
        return await aborted;
      }
      if ("delayMs" in fault) {
        // It arrives even if nobody waits for the answer any more.
        const arrived = new Promise<Answer>((resolve) => {
          this.#clock.setTimer(() => resolve(this.#handle(request)), fault.delayMs);
        });
        const answer = await Promise.race([arrived, aborted]);
        await wait(fault.answerDelayMs ?? 0);
        return memoryResponse(answer, signal, undefined);
      }
    }
    const answer = fault !== undefined && "status" in fault ? faultAnswer(fault) : this.#handle(request);
    return memoryResponse(answer, signal, isWatch && fault !== undefined && "watchFault" in fault ? fault : undefined);
  }

  async #serve(incoming: http.IncomingMessage, outgoing: http.ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of incoming) chunks.push(chunk as Buffer);
    const request: KubeRequest = {
      method: incoming.method as KubeRequest["method"],
      path: incoming.url as string,
      headers: incoming.headers as Record<string, string>,
      ...(chunks.length > 0 && { body: Buffer.concat(chunks).toString("utf8") }),
    };
    this.requests.push(request);
    const fault = this.fault(request);
    if (fault !== undefined && ("reset" in fault || "silent" in fault)) {
      if (("reset" in fault ? fault.reset : fault.silent) === "after") this.#handle(request);
      if ("reset" in fault) incoming.socket.resetAndDestroy();
      return;
    }
    if (fault !== undefined && "delayMs" in fault) await new Promise((done) => setTimeout(done, fault.delayMs));
    const answer = fault !== undefined && "status" in fault ? faultAnswer(fault) : this.#handle(request);
    outgoing.statusCode = answer.status;
    if (answer.retryAfter !== undefined) outgoing.setHeader("retry-after", answer.retryAfter);
    outgoing.setHeader("content-type", "application/json");
    if (answer.start === undefined) {
      outgoing.end(typeof answer.body === "string" ? answer.body : JSON.stringify(answer.body));
      return;
    }
    outgoing.flushHeaders();
    const stop = startWatch(
      answer,
      fault !== undefined && "watchFault" in fault ? fault : undefined,
      (text) => void outgoing.write(text),
      (how) => (how === "close" ? outgoing.end() : incoming.socket.resetAndDestroy()),
    );
    outgoing.on("close", stop);
  }

  // ---------------------------------------------------------------- the API

  #handle(request: KubeRequest): Answer {
    const url = new URL(request.path, "http://server");
    const match = pathPattern.exec(url.pathname);
    if (match?.groups === undefined) return failure(404, "NotFound");
    const { group = "", version, namespace, plural, name, subresource } = match.groups;
    const collection = `${group}/${version}/${plural}`;
    const key = `${namespace ?? ""}/${name ?? ""}`;
    const body = request.body === undefined ? undefined : (JSON.parse(request.body) as Stored);
    switch (request.method) {
      case "GET":
        if (name !== undefined) return this.#get(collection, key);
        return url.searchParams.get("watch") === "true"
          ? this.#watch(collection, namespace, url.searchParams)
          : this.#list(collection, namespace, url.searchParams);
      case "POST":
        if (plural === "tokenreviews") return this.#reviewToken(body as Stored);
        return this.#create(collection, namespace, body as Stored);
      case "PUT":
        return this.#replace(collection, key, body as Stored);
      case "PATCH":
        return this.#patch(collection, key, body as Stored, subresource, request.headers["content-type"] ?? "");
      case "DELETE":
        return this.#delete(collection, key, body);
    }
  }

  #collection(name: string): Map<string, Stored> {
    let objects = this.#collections.get(name);
    if (objects === undefined) {
      objects = new Map();
      this.#collections.set(name, objects);
    }
    return objects;
  }

  #get(collection: string, key: string): Answer {
    const object = this.#collection(collection).get(key);
    return object === undefined ? failure(404, "NotFound") : { status: 200, body: object };
  }

  #list(collection: string, namespace: string | undefined, query: URLSearchParams): Answer {
    const token = query.get("continue");
    const limit = Math.min(Number(query.get("limit") ?? Number.POSITIVE_INFINITY), this.pageItemsMax);
    let page = token === null ? undefined : this.#pages.get(token);
    if (token !== null && page === undefined) return failure(410, "Expired");
    if (page === undefined) {
      const selector = query.get("labelSelector") ?? undefined;
      const fields = query.get("fieldSelector") ?? undefined;
      const items = [...this.#collection(collection).values()].filter((object) =>
        isSelected(object, namespace, selector, fields),
      );
      items.sort((a, b) => (keyOf(a) < keyOf(b) ? -1 : 1));
      page = { version: this.#version, items };
    }
    const rest = page.items.slice(limit);
    const metadata: { resourceVersion: string; continue?: string } = { resourceVersion: `${page.version}` };
    if (rest.length > 0) {
      metadata.continue = `token-${++this.#tokens}`;
      this.#pages.set(metadata.continue, { version: page.version, items: rest });
    }
    return { status: 200, body: { kind: "List", metadata, items: page.items.slice(0, limit) } };
  }

  #watch(collection: string, namespace: string | undefined, query: URLSearchParams): Answer {
    const since = Number(query.get("resourceVersion"));
    if (since < this.#oldestVersion) return failure(410, "Expired");
    const timeoutMs = Number(query.get("timeoutSeconds")) * 1000;
    return {
      status: 200,
      start: (send, end) => {
        const stop = () => {
          this.#watchers.delete(watcher);
          this.#clock.clearTimer(timer);
        };
        const watcher: Watcher = {
          collection,
          namespace,
          selector: query.get("labelSelector") ?? undefined,
          fields: query.get("fieldSelector") ?? undefined,
          send,
          end: (how) => {
            stop();
            end(how);
          },
        };
        const timer = this.#clock.setTimer(() => watcher.end("close"), timeoutMs);
        this.#watchers.add(watcher);
        for (const change of [...this.#changes]) if (change.version > since) this.#tell(watcher, change);
        return stop;
      },
    };
  }

  #create(collection: string, namespace: string | undefined, body: Stored): Answer {
    const object = { ...body, metadata: { ...body.metadata, ...(namespace !== undefined && { namespace }) } } as Stored;
    if (this.#collection(collection).has(keyOf(object))) return failure(409, "AlreadyExists");
    return { status: 201, body: this.#store(collection, object) };
  }

  #reviewToken(body: Stored): Answer {
    const { token, audiences } = body["spec"] as { token: string; audiences: readonly string[] };
    const known = this.tokens.get(token);
    const common = known?.audiences.filter((audience) => audiences.includes(audience)) ?? [];
    const status =
      known === undefined || common.length === 0
        ? { authenticated: false, error: "made up: invalid bearer token" }
        : { authenticated: true, audiences: common, user: { username: known.username, extra: known.extra ?? {} } };
    return { status: 201, body: { ...body, status } };
  }

  #replace(collection: string, key: string, body: Stored): Answer {
    const found = this.#collection(collection).get(key);
    if (found === undefined) return failure(404, "NotFound");
    const { resourceVersion } = body.metadata;
    if (resourceVersion !== undefined && resourceVersion !== found.metadata.resourceVersion) {
      return failure(409, "Conflict");
    }
    return { status: 200, body: this.#store(collection, body) };
  }

  #patch(collection: string, key: string, body: Stored, subresource: string | undefined, type: string): Answer {
    const found = this.#collection(collection).get(key);
    const isApply = type === "application/apply-patch+yaml";
    if (!isApply && type !== "application/merge-patch+json") return failure(415, "UnsupportedMediaType");
    if (found === undefined) {
      if (!isApply || subresource !== undefined) return failure(404, "NotFound");
      return { status: 201, body: this.#store(collection, body) };
    }
    // Whole fields are enough here: nobody shares them in these tests.
    const { metadata, ...fields } = body;
    // A uid is a precondition.
    if (isApply && metadata.uid !== undefined && metadata.uid !== found.metadata.uid) return failure(409, "Conflict");
    const applied = isApply ? { ...found.metadata, ...mapsOf(found, body) } : found.metadata;
    const patched =
      subresource === "status"
        ? { ...found, status: body["status"] }
        : { ...found, ...fields, metadata: applied, status: body["status"] ?? found["status"] };
    return { status: 200, body: this.#store(collection, patched as Stored) };
  }

  #delete(collection: string, key: string, body: Record<string, unknown> | undefined): Answer {
    const found = this.#collection(collection).get(key);
    if (found === undefined) return failure(404, "NotFound");
    const wanted = (body?.["preconditions"] ?? {}) as { uid?: string; resourceVersion?: string };
    const { uid, resourceVersion } = found.metadata;
    const isOther = (want: string | undefined, have: string | undefined) => want !== undefined && want !== have;
    if (isOther(wanted.uid, uid) || isOther(wanted.resourceVersion, resourceVersion)) return failure(409, "Conflict");
    this.#remove(collection, key);
    return { status: 200, body: { kind: "Status", status: "Success" } };
  }

  #store(collection: string, object: Stored): Stored {
    const objects = this.#collection(collection);
    const found = objects.get(keyOf(object));
    const isSameSpec = found !== undefined && JSON.stringify(found["spec"]) === JSON.stringify(object["spec"]);
    const generation = (found?.metadata.generation ?? 0) + (isSameSpec ? 0 : 1);
    const stored = structuredClone({
      ...object,
      metadata: {
        ...object.metadata,
        uid: found?.metadata.uid ?? `uid-${++this.#uids}`,
        ...(object["spec"] !== undefined && { generation }),
        resourceVersion: `${++this.#version}`,
      },
    }) as Stored;
    objects.set(keyOf(object), stored);
    this.#publish({ version: this.#version, collection, type: found ? "MODIFIED" : "ADDED", object: stored });
    return stored;
  }

  #remove(collection: string, key: string): void {
    const found = this.#collection(collection).get(key);
    if (found === undefined) return;
    this.#collection(collection).delete(key);
    const object = { ...found, metadata: { ...found.metadata, resourceVersion: `${++this.#version}` } } as Stored;
    this.#publish({ version: this.#version, collection, type: "DELETED", object });
  }

  #publish(change: Change): void {
    this.#changes.push(change);
    for (const watcher of [...this.#watchers]) this.#tell(watcher, change);
  }

  #tell(watcher: Watcher, { collection, type, object }: Change): void {
    const { namespace, selector, fields } = watcher;
    if (collection !== watcher.collection || !isSelected(object, namespace, selector, fields)) return;
    watcher.send(JSON.stringify({ type, object }));
  }
}

function collectionOf({ group, version, plural }: ResourceKind): string {
  return `${group}/${version}/${plural}`;
}

function keyOf({ metadata }: KubeObject): string {
  return `${metadata.namespace ?? ""}/${metadata.name}`;
}

function isSelected(
  { metadata }: KubeObject,
  namespace: string | undefined,
  selector: string | undefined,
  fields: string | undefined,
): boolean {
  if (namespace !== undefined && metadata.namespace !== namespace) return false;
  if (fields !== undefined && fields !== `metadata.name=${metadata.name}`) return false;
  for (const term of selector?.split(",") ?? []) {
    const [label = "", value] = term.split("=");
    const found = metadata.labels?.[label];
    if (found === undefined || (value !== undefined && found !== value)) return false;
  }
  return true;
}

/** Labels, annotations and owners, of which an apply leaves those of others. */
function mapsOf(found: KubeObject, applied: KubeObject): Partial<KubeObject["metadata"]> {
  const { labels, annotations, ownerReferences = found.metadata.ownerReferences } = applied.metadata;
  return {
    labels: { ...found.metadata.labels, ...labels },
    annotations: { ...found.metadata.annotations, ...annotations },
    ...(ownerReferences !== undefined && { ownerReferences }),
  };
}

function statusOf(code: number, reason: string): unknown {
  return { kind: "Status", apiVersion: "v1", status: "Failure", code, reason, message: `made up: ${reason}` };
}

function failure(code: number, reason: string): Answer {
  return { status: code, body: statusOf(code, reason) };
}

function faultAnswer(fault: Extract<Fault, { status: number }>): Answer {
  const { status, reason, retryAfter, body } = fault;
  return {
    status,
    retryAfter: retryAfter?.toString(),
    body: body ?? (reason === undefined ? "upstream is not well" : statusOf(status, reason)),
  };
}

/** Sends a watch's lines, with what goes wrong among them. */
function startWatch(
  answer: Answer,
  fault: Extract<Fault, { watchFault: WatchFault }> | undefined,
  write: (text: string) => void,
  end: (how: "close" | "reset") => void,
): () => void {
  let lines = 0;
  let isOver = false;
  const fail = (how: WatchFault) => {
    isOver = true;
    stop();
    if (how === "silence") return;
    if (how === "close" || how === "reset") return end(how);
    write("line" in how ? `${how.line}\n` : how.partOfLine);
    if ("partOfLine" in how) end("close");
  };
  let stop = () => {};
  const started = answer.start?.(
    (line) => {
      if (isOver) return;
      write(`${line}\n`);
      if (fault !== undefined && ++lines === fault.afterLines) fail(fault.watchFault);
    },
    (how) => {
      if (!isOver) end(how);
    },
  );
  stop = () => started?.();
  if (isOver) stop();
  else if (fault?.afterLines === 0) fail(fault.watchFault);
  return stop;
}

function memoryResponse(
  answer: Answer,
  signal: AbortSignal,
  fault: Extract<Fault, { watchFault: WatchFault }> | undefined,
): KubeResponse {
  const head = { status: answer.status, retryAfter: answer.retryAfter };
  if (answer.start === undefined) {
    const text = typeof answer.body === "string" ? answer.body : JSON.stringify(answer.body);
    return {
      ...head,
      chunks: (async function* () {
        yield Buffer.from(text);
      })(),
    };
  }
  const written: Uint8Array[] = [];
  let ended: "close" | "reset" | undefined;
  let wake = () => {};
  const stop = startWatch(
    answer,
    fault,
    (text) => {
      written.push(Buffer.from(text));
      wake();
    },
    (how) => {
      ended = how;
      wake();
    },
  );
  signal.addEventListener("abort", () => {
    stop();
    ended ??= "reset";
    wake();
  });
  async function* chunks() {
    try {
      for (;;) {
        const chunk = written.shift();
        if (chunk !== undefined) yield chunk;
        else if (ended === "reset") throw new Error("read ECONNRESET");
        else if (ended === "close") return;
        else await new Promise<void>((resolve) => (wake = resolve));
      }
    } finally {
      stop();
    }
  }
  return { ...head, chunks: chunks() };
}
