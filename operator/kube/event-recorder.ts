/**
 * Events of objects, for `kubectl describe`: what the operator did or could not do.
 *
 * Repeats of one event become a series: one object whose count grows, written at most every half a minute. Invariants:
 * who records waits for nothing and hears of no error; memory and requests are bounded, per object too; what is left out
 * is counted. Nothing may depend on an event: conditions say what is, events only what happened.
 *
 * Source: the API `events.k8s.io/v1`; client-go's `tools/events`.
 */

import type { Clock, Random } from "@leveros/protocol/clock/clock.ts";
import { backoffMs } from "./backoff.ts";
import type { KubeClient } from "./kube-client.ts";
import { KubeError } from "./kube-error.ts";
import { apiVersionOf, events, type KubeObject, type ObjectMeta, type ResourceKind } from "./kube-object.ts";
import { pause } from "./pause.ts";
import { TokenBucket } from "./token-bucket.ts";

/** A repeat after so long a time begins a new event. */
const seriesGapMs = 360_000;
/** How often a series' count is written. */
const seriesWriteMs = 30_000;
const seriesMax = 1000;
/** Of one object: a condition that flaps must not fill etcd. */
const perObject = { ratePerSecond: 1 / 60, burst: 20 };
const objectsMax = 1000;
const waitingMax = 200;
const triesMax = 5;
const retry = { minMs: 1000, maxMs: 20_000 };
/** Limits of the API, bytes. */
const noteBytesMax = 1024;
const reasonBytesMax = 128;

export type EventType = "Normal" | "Warning";

export interface EventToRecord {
  readonly type: EventType;
  /** CamelCase, few: `InvalidSpec`, `ResourceMoved`. */
  readonly reason: string;
  /** CamelCase: what was done or tried, `Reconcile` unless set. */
  readonly action?: string;
  /** For people; up to 1,024 bytes, the rest is cut off. */
  readonly note: string;
}

interface KubeEvent extends KubeObject {
  readonly eventTime: string;
  readonly reportingController: string;
  readonly reportingInstance: string;
  readonly type: EventType;
  readonly reason: string;
  readonly action: string;
  readonly note: string;
  readonly regarding: object;
  readonly series?: { readonly count: number; readonly lastObservedTime: string };
}

export interface EventCounts {
  /** New objects, and counts of them that were raised. */
  created: number;
  updated: number;
  /** Left out: too many of one object, or too many at once. */
  dropped: number;
  /** Given up after an error. */
  failed: number;
}

export interface EventRecorderOptions {
  readonly client: Pick<KubeClient, "create" | "mergePatch">;
  readonly clock: Clock;
  readonly random: Random;
  /** Since 1970, for the times that people read. */
  readonly wallMs: () => number;
  /** Who records: the pod's name. */
  readonly instance: string;
  /** For the log. Does not throw. */
  readonly onError?: (error: unknown) => void;
}

interface Series {
  readonly event: KubeEvent;
  count: number;
  /** What the server has; 0: nothing yet. */
  writtenCount: number;
  lastMs: number;
  lastTime: string;
  /** It is to be written, or is being written, or waits for its time. */
  isPending: boolean;
}

export class EventRecorder {
  readonly counts: EventCounts = { created: 0, updated: 0, dropped: 0, failed: 0 };
  readonly #options: EventRecorderOptions;
  /** By what makes two events the same; the one that was least recently seen first. */
  readonly #series = new Map<string, Series>();
  readonly #buckets = new Map<string, TokenBucket>();
  readonly #waiting: Series[] = [];
  readonly #abort = new AbortController();
  #writing: Promise<void> | undefined;
  #names = 0;

  constructor(options: EventRecorderOptions) {
    this.#options = options;
  }

  /** Something happened to the object of this kind. Returns at once. */
  record(kind: ResourceKind, object: KubeObject, { type, reason, action = "Reconcile", note }: EventToRecord): void {
    if (this.#abort.signal.aborted) return;
    const { metadata } = object;
    const objectKey = `${kind.plural}.${kind.group}/${metadata.namespace ?? ""}/${metadata.name}/${metadata.uid ?? ""}`;
    const key = JSON.stringify([objectKey, type, reason, action, note]);
    const now = this.#options.clock.now();
    const known = this.#series.get(key);
    if (known !== undefined && now - known.lastMs < seriesGapMs) {
      this.#repeat(key, known, now);
      return;
    }
    if (!this.#bucketOf(objectKey, now).take(now)) {
      this.counts.dropped++;
      return;
    }
    const time = this.#time();
    const series: Series = {
      event: this.#eventOf(kind, metadata, { type, reason, action, note }, time),
      count: 1,
      writtenCount: 0,
      lastMs: now,
      lastTime: time,
      isPending: false,
    };
    this.#series.delete(key);
    keep(this.#series, seriesMax).set(key, series);
    this.#write(series);
  }

  /** Records nothing more; resolves when nothing is under way. What was not written yet is not. */
  async close(): Promise<void> {
    this.#abort.abort();
    await this.#writing;
  }

  #repeat(key: string, series: Series, now: number): void {
    series.count++;
    series.lastMs = now;
    series.lastTime = this.#time();
    this.#series.delete(key);
    this.#series.set(key, series);
    if (series.isPending) return;
    series.isPending = true;
    void this.#writeLater(series);
  }

  async #writeLater(series: Series): Promise<void> {
    const { signal } = this.#abort;
    await pause(this.#options.clock, seriesWriteMs, signal);
    series.isPending = false;
    if (!signal.aborted) this.#write(series);
  }

  #write(series: Series): void {
    if (this.#waiting.length >= waitingMax) {
      this.counts.dropped++;
      return;
    }
    series.isPending = true;
    this.#waiting.push(series);
    this.#writing ??= this.#writeAll();
  }

  async #writeAll(): Promise<void> {
    for (let series = this.#waiting.shift(); series !== undefined; series = this.#waiting.shift()) {
      if (this.#abort.signal.aborted) break;
      await this.#writeOne(series);
      series.isPending = false;
      if (series.count > series.writtenCount && series.writtenCount > 0 && !this.#abort.signal.aborted) {
        series.isPending = true;
        void this.#writeLater(series);
      }
    }
    this.#writing = undefined;
  }

  async #writeOne(series: Series): Promise<void> {
    const { clock, random, onError } = this.#options;
    const { signal } = this.#abort;
    for (let tries = 1; ; tries++) {
      try {
        return await this.#send(series);
      } catch (error) {
        if (signal.aborted) return;
        if (tries === triesMax || !KubeError.is(error) || !error.isTransient) {
          this.counts.failed++;
          onError?.(error);
          return;
        }
        await pause(clock, Math.max(backoffMs(retry, tries, random), error.retryAfterMs ?? 0), signal);
        if (signal.aborted) return;
      }
    }
  }

  async #send(series: Series): Promise<void> {
    const { client } = this.#options;
    const { signal } = this.#abort;
    const { event, count, lastTime } = series;
    const repeated = count > 1 ? { series: { count, lastObservedTime: lastTime } } : {};
    if (series.writtenCount > 0) {
      try {
        await client.mergePatch(events, event.metadata, repeated, { signal });
        series.writtenCount = count;
        this.counts.updated++;
        return;
      } catch (error) {
        // Events live for an hour: this one is no more.
        if (!KubeError.is(error) || !error.isNotFound) throw error;
      }
    }
    try {
      await client.create(events, { ...event, ...repeated }, { signal });
    } catch (error) {
      // A try before, that had no answer, has made it.
      if (!KubeError.is(error) || !error.isConflict) throw error;
    }
    series.writtenCount = count;
    this.counts.created++;
  }

  #eventOf(kind: ResourceKind, regarding: ObjectMeta, event: Required<EventToRecord>, time: string): KubeEvent {
    const { instance, wallMs } = this.#options;
    // Names are seen in `kubectl get events`; unique by who made them and when.
    const unique = `${Math.floor(wallMs()).toString(16)}.${(++this.#names).toString(16)}`;
    return {
      metadata: {
        // Of an object without a namespace they are kept in the default one: a rule of the API.
        namespace: regarding.namespace ?? "default",
        name: `${regarding.name.slice(0, 200).replace(/[.-]+$/, "")}.${unique}`,
      },
      eventTime: time,
      reportingController: "leveros.dev/operator",
      reportingInstance: cut(instance, reasonBytesMax),
      type: event.type,
      reason: cut(event.reason, reasonBytesMax),
      action: cut(event.action, reasonBytesMax),
      note: cut(event.note, noteBytesMax),
      regarding: {
        apiVersion: apiVersionOf(kind),
        kind: kind.kind,
        namespace: regarding.namespace,
        name: regarding.name,
        uid: regarding.uid,
        resourceVersion: regarding.resourceVersion,
      },
    };
  }

  #bucketOf(objectKey: string, now: number): TokenBucket {
    const bucket = this.#buckets.get(objectKey) ?? new TokenBucket(perObject, now);
    this.#buckets.delete(objectKey);
    keep(this.#buckets, objectsMax).set(objectKey, bucket);
    return bucket;
  }

  #time(): string {
    return new Date(this.#options.wallMs()).toISOString().replace("Z", "000Z");
  }
}

/** Makes room for one more: the first that was put in goes. */
function keep<Value>(map: Map<string, Value>, max: number): Map<string, Value> {
  const first = map.size < max ? undefined : map.keys().next().value;
  if (first !== undefined) map.delete(first);
  return map;
}

function cut(text: string, bytesMax: number): string {
  const bytes = Buffer.from(text);
  if (bytes.length <= bytesMax) return text;
  const whole = bytes.subarray(0, bytesMax - 3).toString("utf8");
  // A character that was cut through.
  return `${whole.replace(/\uFFFD$/, "")}…`;
}
