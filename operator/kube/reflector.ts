/**
 * A local copy of the objects of one kind, kept in step with the API server: list, then watch.
 *
 * Invariants: the copy goes through versions that the server had, in their order, never back; handlers hear of each
 * change after it is in the copy, one after another; what cannot be understood is never left out, but makes a new list.
 * Between two contacts with the server the copy is as old as the last one: who decides by it must be able to be wrong.
 *
 * Source: the list and watch protocol of the Kubernetes API ("Efficient detection of changes"); client-go's Reflector.
 */

import type { Clock, Random } from "@leveros/protocol/clock/clock.ts";
import { type BackoffLimits, backoffMs } from "./backoff.ts";
import type { KubeClient } from "./kube-client.ts";
import { KubeError } from "./kube-error.ts";
import { type KubeObject, type ResourceKind, type WatchEvent, withoutManagedFields } from "./kube-object.ts";
import { pause } from "./pause.ts";

const pageItemsDefault = 500;
/** With every expired token the next list asks for larger pages: in the end it is one. */
const pageGrowth = 4;
/** A watch has from one to two of these. A silent connection is found when its watch's time is over. */
const watchSecondsDefault = 60;
const backoffDefault: BackoffLimits = { minMs: 500, maxMs: 10_000 };
/** A watch that ends sooner and has told nothing has failed, however it ended. */
const watchMsMin = 1000;
/** After so long a watch it does not count for how long to wait that there was a list because of the one before. */
const soundWatchMs = 10_000;

/** Why everything was listed. */
export type ListReason =
  | "initial"
  /** The server has forgotten the version that the watch was at. */
  | "expired"
  /** The watch said something that was not understood. */
  | "malformed";

/** Why a watch ended. */
export type WatchEnd =
  /** Its time was over. */
  | "closed"
  /** It ended at once, having told nothing. */
  | "short"
  | "expired"
  | "malformed"
  /** Its time was over long ago. */
  | "silent"
  /** 429. */
  | "throttled"
  /** Another 4xx: not allowed, or there is no such kind. */
  | "refused"
  /** 5xx, or the connection failed. */
  | "failed";

export interface ReflectorCounts {
  /** Complete ones. */
  readonly lists: Record<ListReason, number>;
  /** Lists that were not completed. */
  listFailures: number;
  /** Of them those whose continue token had expired. */
  listsExpired: number;
  readonly watchEnds: Record<WatchEnd, number>;
  /** Handlers that threw. */
  handlerErrors: number;
}

export interface ReflectorHandler<T> {
  /** The object is new (`old` is undefined) or has changed. */
  onUpsert?(object: T, old: T | undefined): void;
  /** It is gone; as it was last known. */
  onDelete?(old: T): void;
}

export interface ReflectorOptions<T extends KubeObject> {
  readonly client: Pick<KubeClient, "list" | "watch">;
  readonly kind: ResourceKind;
  /** Without it all. */
  readonly namespace?: string | undefined;
  readonly labelSelector?: string | undefined;
  readonly fieldSelector?: string | undefined;
  readonly clock: Clock;
  readonly random: Random;
  /**
   * What is kept of an object: memory is what grows with the cluster. Must keep name, namespace, uid and
   * resourceVersion. Without it all but `metadata.managedFields`.
   */
  readonly transform?: (object: T) => T;
  /** For the log; what has failed is tried again. Does not throw. */
  readonly onError?: (error: unknown) => void;
  /** Objects in a page of a list, 500 unless set. */
  readonly pageItems?: number;
  /** A watch lasts for one to two times this, 60 s unless set. */
  readonly watchSeconds?: number;
  readonly backoff?: BackoffLimits;
}

export class Reflector<T extends KubeObject> {
  readonly counts: ReflectorCounts = {
    lists: { initial: 0, expired: 0, malformed: 0 },
    listFailures: 0,
    listsExpired: 0,
    watchEnds: { closed: 0, short: 0, expired: 0, malformed: 0, silent: 0, throttled: 0, refused: 0, failed: 0 },
    handlerErrors: 0,
  };
  readonly #options: ReflectorOptions<T>;
  readonly #transform: (object: T) => T;
  readonly #objects = new Map<string, T>();
  readonly #handlers = new Set<ReflectorHandler<T>>();
  readonly #abort = new AbortController();
  #running: Promise<void> | undefined;
  #isSynced = false;
  #onSynced: ((isSynced: boolean) => void)[] = [];
  /** Of the copy; undefined: it has to be listed. */
  #resourceVersion: string | undefined;
  #listReason: ListReason = "initial";
  #pageItems: number;
  #failures = 0;

  constructor(options: ReflectorOptions<T>) {
    this.#options = options;
    this.#transform = options.transform ?? withoutManagedFields;
    this.#pageItems = options.pageItems ?? pageItemsDefault;
  }

  start(): void {
    if (!this.#abort.signal.aborted) this.#running ??= this.#run();
  }

  /** Nothing is asked and no handler is called any more; resolves when nothing is under way. */
  async close(): Promise<void> {
    this.#abort.abort();
    this.#settleSynced(false);
    await this.#running;
  }

  /** The copy is complete, if not new: it was listed once. */
  get isSynced(): boolean {
    return this.#isSynced;
  }

  /** True as soon as `isSynced`; false if it is closed before. */
  whenSynced(): Promise<boolean> {
    if (this.#isSynced || this.#abort.signal.aborted) return Promise.resolve(this.#isSynced);
    return new Promise((resolve) => this.#onSynced.push(resolve));
  }

  get(namespace: string | undefined, name: string): T | undefined {
    return this.#objects.get(`${namespace ?? ""}/${name}`);
  }

  values(): IterableIterator<T> {
    return this.#objects.values();
  }

  get size(): number {
    return this.#objects.size;
  }

  /** From now on; what is there already comes first, at once. Returns how to end it. */
  subscribe(handler: ReflectorHandler<T>): () => void {
    this.#handlers.add(handler);
    for (const object of [...this.#objects.values()]) this.#call(() => handler.onUpsert?.(object, undefined));
    return () => this.#handlers.delete(handler);
  }

  // ---------------------------------------------------------------- list and watch

  async #run(): Promise<void> {
    const { signal } = this.#abort;
    while (!signal.aborted) {
      const waitMs = await this.#turn();
      if (waitMs > 0) await pause(this.#options.clock, waitMs, signal);
    }
  }

  /** Lists if it has to, then watches once; how long to wait before the next turn. */
  async #turn(): Promise<number> {
    try {
      this.#resourceVersion ??= await this.#list();
    } catch (error) {
      if (this.#abort.signal.aborted) return 0;
      this.counts.listFailures++;
      if (KubeError.is(error) && error.isExpired) {
        this.counts.listsExpired++;
        this.#pageItems *= pageGrowth;
      }
      return this.#failed(error);
    }
    return await this.#watch();
  }

  /** Resolves to the version that the copy has then. */
  async #list(): Promise<string> {
    const { client, kind, namespace, labelSelector, fieldSelector, pageItems = pageItemsDefault } = this.#options;
    const { signal } = this.#abort;
    const listed = new Map<string, T>();
    let token: string | undefined;
    let resourceVersion: string;
    do {
      const page = await client.list<T>(kind, {
        namespace,
        labelSelector,
        fieldSelector,
        limit: this.#pageItems,
        continue: token,
        signal,
      });
      for (const item of page.items) {
        const key = this.#keyOf(item);
        // What is known already is kept: its fields need no second copy.
        const known = this.#objects.get(key);
        listed.set(key, known !== undefined && isSameVersion(known, item) ? known : this.#transform(item));
      }
      token = page.metadata.continue || undefined;
      resourceVersion = page.metadata.resourceVersion;
    } while (token !== undefined && !signal.aborted);
    signal.throwIfAborted();
    this.#pageItems = pageItems;
    this.counts.lists[this.#listReason]++;
    for (const [key, object] of [...this.#objects]) if (!listed.has(key)) this.#remove(key, object);
    for (const [key, object] of listed) this.#upsert(key, object);
    this.#isSynced = true;
    this.#settleSynced(true);
    return resourceVersion;
  }

  async #watch(): Promise<number> {
    const { client, kind, namespace, labelSelector, fieldSelector, clock, random } = this.#options;
    const { watchSeconds = watchSecondsDefault } = this.#options;
    const { signal } = this.#abort;
    const beganAtMs = clock.now();
    let told = 0;
    try {
      await client.watch<T>(
        kind,
        {
          namespace,
          labelSelector,
          fieldSelector,
          resourceVersion: this.#resourceVersion as string,
          timeoutSeconds: Math.ceil(watchSeconds * (1 + random())),
          signal,
        },
        (event) => {
          if (signal.aborted) return;
          this.#onEvent(event);
          told++;
        },
      );
    } catch (error) {
      if (signal.aborted) return 0;
      const end = endOf(error);
      this.counts.watchEnds[end]++;
      const mustList = end === "expired" || end === "malformed";
      // Lists are dear: a line that cannot be read and comes with every watch must not make one in each second.
      if (mustList ? clock.now() - beganAtMs >= soundWatchMs : told > 0) this.#failures = 0;
      if (mustList) {
        this.#resourceVersion = undefined;
        this.#listReason = end;
      }
      return this.#failed(error);
    }
    const isShort = told === 0 && clock.now() - beganAtMs < watchMsMin;
    this.counts.watchEnds[isShort ? "short" : "closed"]++;
    if (isShort) return this.#failed(KubeError.failure("ConnectionFailed", `watch ${kind.plural}`, "ended at once"));
    this.#failures = 0;
    return 0;
  }

  #failed(error: unknown): number {
    const { backoff = backoffDefault, random, onError } = this.#options;
    this.#failures++;
    onError?.(error);
    const waitMs = backoffMs(backoff, this.#failures, random);
    // All who were told the same time do not come at that time.
    const retryAfterMs = KubeError.is(error) ? (error.retryAfterMs ?? 0) : 0;
    return retryAfterMs > 0 ? Math.max(waitMs, retryAfterMs * (1 + random() / 4)) : waitMs;
  }

  #onEvent({ type, object }: WatchEvent<T>): void {
    const resourceVersion = object.metadata?.resourceVersion;
    if (typeof resourceVersion !== "string" || resourceVersion === "") {
      throw this.#malformed(`${type} without metadata.resourceVersion`);
    }
    if (type !== "BOOKMARK") {
      const key = this.#keyOf(object);
      if (type === "DELETED") this.#remove(key, this.#objects.get(key));
      else this.#upsert(key, this.#transform(object));
    }
    this.#resourceVersion = resourceVersion;
  }

  #keyOf({ metadata }: T): string {
    if (typeof metadata?.name !== "string" || metadata.name === "") {
      throw this.#malformed("an object without metadata.name");
    }
    return `${metadata.namespace ?? ""}/${metadata.name}`;
  }

  #malformed(message: string): KubeError {
    return KubeError.failure("Malformed", `watch ${this.#options.kind.plural}`, message);
  }

  // ---------------------------------------------------------------- the copy

  #upsert(key: string, object: T): void {
    const old = this.#objects.get(key);
    if (old !== undefined && isSameVersion(old, object)) return;
    // Another object of the same name: whatever was known of the first one is over.
    const isOther = old !== undefined && old.metadata.uid !== object.metadata.uid;
    if (isOther) this.#remove(key, old);
    this.#objects.set(key, object);
    for (const handler of [...this.#handlers]) {
      this.#call(() => handler.onUpsert?.(object, isOther ? undefined : old));
    }
  }

  #remove(key: string, old: T | undefined): void {
    if (old === undefined) return;
    this.#objects.delete(key);
    for (const handler of [...this.#handlers]) this.#call(() => handler.onDelete?.(old));
  }

  #call(handle: () => void): void {
    if (this.#abort.signal.aborted) return;
    try {
      handle();
    } catch (error) {
      this.counts.handlerErrors++;
      this.#options.onError?.(error);
    }
  }

  #settleSynced(isSynced: boolean): void {
    const waiting = this.#onSynced;
    this.#onSynced = [];
    for (const resolve of waiting) resolve(isSynced);
  }
}

function isSameVersion(a: KubeObject, b: KubeObject): boolean {
  return a.metadata.resourceVersion === b.metadata.resourceVersion && a.metadata.uid === b.metadata.uid;
}

function endOf(error: unknown): WatchEnd {
  // A transform that throws: the object is not known.
  if (!KubeError.is(error)) return "malformed";
  if (error.isExpired) return "expired";
  if (error.reason === "Malformed" || error.reason === "TooLarge") return "malformed";
  if (error.reason === "Silent") return "silent";
  if (error.status === 429) return "throttled";
  return error.status >= 400 && error.status < 500 ? "refused" : "failed";
}
