/**
 * One service's table in the store: when it is read and written, and what is known of it.
 *
 * Changes are counted; who depends on one asks whether it `has` been written. Invariants: one request is under way at
 * most, and changes meanwhile go into the next write; after a write that failed, in whatever way, nothing is certain
 * (`isCertain`) before the table has been read (R8).
 */

import type { Clock, Random } from "@leveros/protocol/clock/clock.ts";
import { type SlotStore, SlotStoreConflict, type SlotTableContent, type StoredSlotTable } from "./slot-store.ts";

/** What nobody waits for is written with the next change, or after this long. */
const lazyWriteMs = 1000;
const retryMinMs = 100;
const retryMaxMs = 5000;

export interface TableFileOptions {
  readonly environment: string;
  readonly service: string;
  readonly clock: Clock;
  readonly random: Random;
  readonly store: SlotStore;
  /** A name for a write, different from all others. */
  nextWriter(): string;
  /** Whether the name is one of `nextWriter`'s. */
  isOwn(writer: string): boolean;
  /** The table as it is now. */
  content(writer: string): SlotTableContent;
  /** What the store has, for the first time, or because somebody else has written it. */
  onRead(stored: StoredSlotTable | undefined): void;
  /** A request is over: there may be more to do now. */
  onSettled(): void;
  onError(error: unknown): void;
}

export class TableFile {
  readonly #options: TableFileOptions;
  #isLoaded = false;
  #isClosed = false;
  #isBusy = false;
  #mustRead = true;
  /** To be read when what is under way is over. */
  #isSuspect = false;
  #version: string | undefined;
  #attempt: { readonly writer: string; readonly change: number } | undefined;
  /** Changes, counted: all; the last that somebody waits for; the last that the store has. */
  #change = 0;
  #needed = 0;
  #written = 0;
  #lazyDueAt = Number.POSITIVE_INFINITY;
  #failures = 0;
  #retryAt = Number.NEGATIVE_INFINITY;
  #whenIdle: (() => void) | undefined;

  constructor(options: TableFileOptions) {
    this.#options = options;
  }

  /** What the store has is what was last read or written here. */
  get isCertain(): boolean {
    return !this.#mustRead;
  }

  /** The store has the change of this number. */
  has(change: number): boolean {
    return change <= this.#written;
  }

  /** Something has changed that is to be written some time. */
  changed(): void {
    this.#change++;
    this.#lazyDueAt = Math.min(this.#lazyDueAt, this.#options.clock.now() + lazyWriteMs);
  }

  /** Something has changed that somebody waits for; its number. */
  needs(): number {
    this.changed();
    this.#needed = this.#change;
    return this.#change;
  }

  /** Somebody else may have touched it: it is read again before anything else is done. */
  suspect(): void {
    if (this.#isBusy) this.#isSuspect = true;
    else this.#mustRead = true;
  }

  /** Begins what is due. */
  proceed(): void {
    const { clock, store, environment, service } = this.#options;
    if (this.#isBusy || this.#isClosed || clock.now() < this.#retryAt) return;
    if (this.#mustRead) return this.#run(store.read(environment, service), (stored) => this.#onRead(stored));
    const isLazyDue = clock.now() >= this.#lazyDueAt && !this.has(this.#change);
    if (!this.has(this.#needed) || isLazyDue) this.#write();
  }

  /** How long until `proceed` is to be called without any other cause; infinity: there is nothing to do. */
  get dueInMs(): number {
    if (this.#isBusy || this.#isClosed) return Number.POSITIVE_INFINITY;
    const now = this.#options.clock.now();
    if (this.#mustRead || !this.has(this.#needed)) return this.#retryAt - now;
    if (this.has(this.#change)) return Number.POSITIVE_INFINITY;
    return Math.max(this.#retryAt, this.#lazyDueAt) - now;
  }

  /** Begins nothing any more; what is under way is not heard of. */
  close(): void {
    this.#isClosed = true;
  }

  /**
   * Closes, and deletes the table when nothing is under way, if it is the one that is known here. One that was not read
   * yet is taken for the last leader's if this one leads when it is (`isLeader`): after that it may be the next one's.
   * Rejects as the store does.
   */
  async delete(isLeader: () => boolean): Promise<void> {
    this.close();
    if (this.#isBusy) await new Promise<void>((resolve) => (this.#whenIdle = resolve));
    const { store, environment, service, isOwn } = this.#options;
    if (this.#mustRead) {
      const stored = await store.read(environment, service);
      const isKnown = stored !== undefined && (stored.version === this.#version || isOwn(stored.writer));
      if (!isKnown && !isLeader()) return;
      this.#version = stored?.version;
    }
    await store.delete(environment, service, this.#version);
  }

  #write(): void {
    const attempt = { writer: this.#options.nextWriter(), change: this.#change };
    this.#attempt = attempt;
    this.#lazyDueAt = Number.POSITIVE_INFINITY;
    const content = this.#options.content(attempt.writer);
    this.#run(this.#options.store.write(content, this.#version), (version) => this.#onWritten(version, attempt.change));
  }

  #onWritten(version: string, change: number): void {
    this.#version = version;
    this.#written = change;
    this.#attempt = undefined;
  }

  #onRead(stored: StoredSlotTable | undefined): void {
    const { clock, isOwn, onRead } = this.#options;
    const attempt = this.#attempt;
    this.#attempt = undefined;
    this.#mustRead = false;
    if (this.#isLoaded && stored?.version === this.#version) {
      // What was tried is not there. If it comes yet, the next write finds another version.
      this.#lazyDueAt = clock.now();
    } else if (this.#isLoaded && stored === undefined) {
      // Somebody has deleted it. What is known here is as good.
      this.#version = undefined;
      this.needs();
    } else if (this.#isLoaded && stored !== undefined && isOwn(stored.writer)) {
      // What was tried last, or an earlier try that was taken for lost: then all that it says was known here before.
      this.#version = stored.version;
      if (stored.writer === attempt?.writer) this.#written = attempt.change;
      else this.#lazyDueAt = clock.now();
    } else {
      this.#isLoaded = true;
      this.#version = stored?.version;
      this.#written = this.#change;
      this.#needed = this.#change;
      this.#lazyDueAt = Number.POSITIVE_INFINITY;
      onRead(stored);
    }
  }

  #run<Answer>(request: Promise<Answer>, onAnswer: (answer: Answer) => void): void {
    this.#isBusy = true;
    const settle = (apply: () => void) => {
      this.#isBusy = false;
      this.#whenIdle?.();
      if (this.#isClosed) return;
      apply();
      if (this.#isSuspect) this.#mustRead = true;
      this.#isSuspect = false;
      this.#options.onSettled();
    };
    request.then(
      (answer) =>
        settle(() => {
          this.#failures = 0;
          onAnswer(answer);
        }),
      (error: unknown) => settle(() => this.#onFailed(error)),
    );
  }

  #onFailed(error: unknown): void {
    const { clock, random, onError } = this.#options;
    this.#failures++;
    // A write may have been done all the same.
    this.#mustRead = true;
    // A conflict is read about at once, unless it comes again and again.
    const isConflict = error instanceof SlotStoreConflict && this.#failures === 1;
    const ceilingMs = Math.min(retryMaxMs, retryMinMs * 2 ** Math.min(this.#failures, 16));
    this.#retryAt = clock.now() + (isConflict ? 0 : random() * ceilingMs);
    onError(error);
  }
}
