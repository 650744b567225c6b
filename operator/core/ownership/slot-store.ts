/**
 * Where the slot tables of services are kept, so that the next leader finds what the last one decided.
 *
 * A table is replaced as a whole, by compare and swap on the version that its writer last saw (R8). What a write that
 * did not answer has done is unknown until the table is read again: `writer` tells whose content it is.
 */

import type { AbsentMemory } from "@leveros/protocol/control/ownership.ts";

/** An incarnation, as the table names it. */
export interface HolderRef {
  readonly instance: string;
  readonly incarnation: string;
  readonly process: string;
  readonly address: string;
  /** As the incarnation says it (`HolderIdentity`). */
  readonly appStartedAt: number;
  readonly agentStartedAt: number;
}

/** A holder that is to release the slot before the next one gets it. */
export interface StoredFormer {
  readonly holder: HolderRef;
  readonly epoch: number;
}

/** What a resource of the slot finds at the next holder. */
export type StoredOrigin =
  | { readonly memory: AbsentMemory }
  | {
      readonly memory: "state";
      readonly epoch: number;
      readonly address: string;
      /** The state has never left this process: nobody else can get it. */
      readonly process?: string;
    };

/** Why a slot went from one instance to another. */
export type MoveReason =
  /** Nobody had held it. */
  | "first"
  /** Its holder gave it up, its app having gone. */
  | "released"
  | "processEnded"
  | "leaseEnded"
  /** Its holder is about to stop. */
  | "leaving"
  | "rebalance"
  /** The same process has registered anew. */
  | "sameProcess"
  /** A move was called off: its holder did not come to an end with it in time, or the next one went away. */
  | "calledOff";

export interface SlotMove {
  /** Wall-clock ms. */
  readonly at: number;
  /** Instances; empty: nobody. */
  readonly from: string;
  readonly to: string;
  readonly epoch: number;
  readonly reason: MoveReason;
}

export interface StoredSlotRow {
  readonly slot: number;
  /** Whose `epoch` is, or is to be as soon as `after` is empty. */
  readonly holder?: HolderRef;
  /** Of the holder, or of the last one. */
  readonly epoch: number;
  /** Not yet proven to have released the slot. */
  readonly after: readonly StoredFormer[];
  /** Replies under lower epochs are not believed. */
  readonly fence: number;
  /** The highest epoch given out. */
  readonly issued: number;
  /** What callers were last told: who holds it, under which epoch. */
  readonly shown: { readonly holder: string; readonly epoch: number };
  readonly origin: StoredOrigin;
  /** The highest epoch that has ended and under which something may have run. */
  readonly endedEpoch: number;
  /** The last ones, newest last. */
  readonly moves: readonly SlotMove[];
}

/** What is written: all of a service's slots. */
export interface SlotTableContent {
  readonly environment: string;
  readonly service: string;
  /** Unique for each write. */
  readonly writer: string;
  readonly leaseMs: number;
  /** The highest epoch ever given out in this table, that of a move that was called off included. */
  readonly lastEpoch: number;
  /** One for each slot, in their order. */
  readonly rows: readonly StoredSlotRow[];
}

export interface StoredSlotTable extends SlotTableContent {
  /** Of the store; changes with each write. */
  readonly version: string;
}

/** Every promise settles: an implementation keeps its own time limits. */
export interface SlotStore {
  /** Sees every write that has succeeded before. */
  read(environment: string, service: string): Promise<StoredSlotTable | undefined>;
  /**
   * Replaces the table whose version is `ifVersion` (undefined: there must be none) and resolves to its new version.
   * Rejects with a SlotStoreConflict if there is another: then nothing was written. After any other error it may have
   * been, or may be still.
   */
  write(table: SlotTableContent, ifVersion: string | undefined): Promise<string>;
  /** Deletes the table if `ifVersion` is its version, as `write` replaces it. */
  delete(environment: string, service: string, ifVersion: string | undefined): Promise<void>;
}

/** The table is not the one that its writer had seen. */
export class SlotStoreConflict extends Error {
  readonly found: string | undefined;

  constructor(environment: string, service: string, expected: string | undefined, found: string | undefined) {
    super(
      `the slot table of ${environment}/${service} has version ${found ?? "none"}, expected ${expected ?? "none"}; ` +
        "read it again",
    );
    this.name = "SlotStoreConflict";
    this.found = found;
  }
}

/** In this process, for `lever dev`: outlives the leader, so that another can take over. */
export class MemorySlotStore implements SlotStore {
  readonly #tables = new Map<string, StoredSlotTable>();
  #writes = 0;

  async read(environment: string, service: string): Promise<StoredSlotTable | undefined> {
    return this.#tables.get(`${environment}/${service}`);
  }

  async write(table: SlotTableContent, ifVersion: string | undefined): Promise<string> {
    const { environment, service } = table;
    this.#expect(environment, service, ifVersion);
    const version = `${++this.#writes}`;
    this.#tables.set(`${environment}/${service}`, { ...table, version });
    return version;
  }

  async delete(environment: string, service: string, ifVersion: string | undefined): Promise<void> {
    this.#expect(environment, service, ifVersion);
    this.lose(environment, service);
  }

  /** Deletes it whatever it is. */
  lose(environment: string, service: string): void {
    this.#tables.delete(`${environment}/${service}`);
  }

  #expect(environment: string, service: string, ifVersion: string | undefined): void {
    const found = this.#tables.get(`${environment}/${service}`)?.version;
    if (found !== ifVersion) throw new SlotStoreConflict(environment, service, ifVersion, found);
  }
}
