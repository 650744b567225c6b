/**
 * Slot tables in the API server: the `LeverEndpointTable` of each service.
 *
 * The version of a table is the name of the write that made it (`writer`). The object's resourceVersion changes with what
 * is written beside it for people as well; that is seen to here, so that the leader does not lose a write to it.
 * Invariants (R8): a table is replaced by a PUT that names the resourceVersion under which the expected table was seen,
 * and by nothing else; a request that had no answer is not repeated here, and nothing is known of it.
 */

import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import {
  type SlotStore,
  SlotStoreConflict,
  type SlotTableContent,
  type StoredSlotTable,
} from "../core/ownership/slot-store.ts";
import type { KubeClient } from "./kube-client.ts";
import { KubeError } from "./kube-error.ts";
import { leverEndpointTables, type ObjectMeta, type OwnerReference, withoutManagedFields } from "./kube-object.ts";
import {
  decodeOwnership,
  encodeOwnership,
  type StoredEndpointTable,
  slotRuns,
  type TableInstance,
} from "./slot-table-object.ts";

/** Of one request. */
const timeoutMsDefault = 5000;
/**
 * Of the leader's record: beside a longer one there is no room for its rows once more, for people. etcd takes 1.5 MiB;
 * 4,096 slots usually have 180 KiB here, and 330 KiB for people.
 */
const recordCharsMax = 512 * 1024;
/** Somebody else writes beside the table at the same time, again and again. */
const triesMax = 5;

/** What is beside the table, for people. */
export interface TableInstances {
  /** Rises with each change. */
  readonly version: number;
  readonly servingInstances: number;
  readonly instances: readonly TableInstance[];
}

export interface KubeSlotStoreOptions {
  readonly client: Pick<KubeClient, "get" | "create" | "replace" | "mergePatch" | "delete">;
  /** The service, for an object that is made: with the service it goes. */
  readonly ownerOf?: (environment: string, service: string) => OwnerReference | undefined;
  /** Of objects that are made. */
  readonly labels?: Readonly<Record<string, string>>;
  /** Of one request, 5 s unless set. */
  readonly timeoutMs?: number;
}

/** What was last seen of an object, without its slots: they are large, and the leader has them. */
interface Known {
  readonly metadata: ObjectMeta;
  /** Undefined: the object holds no table. */
  readonly writer: string | undefined;
  readonly beside: Partial<TableInstances>;
}

export class KubeSlotStore implements SlotStore {
  readonly #options: KubeSlotStoreOptions;
  readonly #timeoutMs: number;
  /** Undefined: there was no object. */
  readonly #known = new Map<string, Known | undefined>();

  constructor(options: KubeSlotStoreOptions) {
    this.#options = options;
    this.#timeoutMs = options.timeoutMs ?? timeoutMsDefault;
  }

  async read(environment: string, service: string): Promise<StoredSlotTable | undefined> {
    const object = await this.#get(environment, service);
    if (object?.ownership === undefined) return undefined;
    const content = decodeOwnership(environment, service, object.ownership);
    return { ...content, version: content.writer };
  }

  async write(table: SlotTableContent, ifVersion: string | undefined): Promise<string> {
    const { environment, service } = table;
    const key = `${environment}/${service}`;
    if (this.#known.get(key)?.writer !== ifVersion || !this.#known.has(key)) await this.#get(environment, service);
    const ownership = encodeOwnership(table);
    const recordChars = ownership.rows.reduce((sum, { length }) => sum + length, 0);
    const slots = recordChars > recordCharsMax ? [] : slotRuns(table.rows);
    const heldSlots = table.rows.filter(({ shown }) => shown.holder !== "").length;
    for (let tries = 1; ; tries++) {
      const known = this.#known.get(key);
      if (known?.writer !== ifVersion) throw new SlotStoreConflict(environment, service, ifVersion, known?.writer);
      const metadata = this.#metadata(environment, service, known?.metadata);
      if (metadata === undefined) {
        throw new LeverError("NO_RESOURCES", `there is no service ${environment}/${service} any more`);
      }
      try {
        this.#see(key, await this.#put({ ...known?.beside, metadata, heldSlots, slots, ownership }));
        return table.writer;
      } catch (error) {
        this.#known.delete(key);
        // Not written. It may be that something beside the table was.
        if (tries === triesMax || !isOther(error)) throw error;
        await this.#get(environment, service);
      }
    }
  }

  async delete(environment: string, service: string, ifVersion: string | undefined): Promise<void> {
    const { client } = this.#options;
    for (let tries = 1; ; tries++) {
      const object = await this.#get(environment, service);
      this.#known.delete(`${environment}/${service}`);
      if (object === undefined) return;
      const writer = object.ownership?.writer;
      if (writer !== ifVersion) throw new SlotStoreConflict(environment, service, ifVersion, writer);
      const { uid, resourceVersion } = object.metadata;
      try {
        const name = { namespace: environment, name: service };
        await client.delete(leverEndpointTables, name, { uid, resourceVersion, timeoutMs: this.#timeoutMs });
        return;
      } catch (error) {
        if (tries === triesMax || !isOther(error)) throw error;
      }
    }
  }

  /** Writes what stands beside the table, and leaves the table alone. Makes the object if there is none but a service. */
  async writeInstances(environment: string, service: string, beside: TableInstances): Promise<void> {
    const { client } = this.#options;
    const key = `${environment}/${service}`;
    const timeoutMs = this.#timeoutMs;
    try {
      const name = { namespace: environment, name: service };
      this.#see(key, await client.mergePatch(leverEndpointTables, name, { ...beside }, { timeoutMs }));
    } catch (error) {
      if (!KubeError.is(error) || !error.isNotFound) throw error;
      const metadata = this.#metadata(environment, service);
      if (metadata === undefined) return;
      this.#see(key, await client.create(leverEndpointTables, { ...beside, metadata }, { timeoutMs }));
    }
  }

  /** The service is no more: nothing about it is remembered. */
  forget(environment: string, service: string): void {
    this.#known.delete(`${environment}/${service}`);
  }

  async #get(environment: string, service: string): Promise<StoredEndpointTable | undefined> {
    const { client } = this.#options;
    const key = `${environment}/${service}`;
    const name = { namespace: environment, name: service };
    this.#known.delete(key);
    try {
      const options = { timeoutMs: this.#timeoutMs };
      return this.#see(key, await client.get<StoredEndpointTable>(leverEndpointTables, name, options));
    } catch (error) {
      if (!KubeError.is(error) || !error.isNotFound) throw error;
      this.#known.set(key, undefined);
      return undefined;
    }
  }

  #put(object: StoredEndpointTable): Promise<StoredEndpointTable> {
    const { client } = this.#options;
    const options = { timeoutMs: this.#timeoutMs };
    return object.metadata.resourceVersion === undefined
      ? client.create(leverEndpointTables, object, options)
      : client.replace(leverEndpointTables, object, options);
  }

  #see(key: string, object: StoredEndpointTable): StoredEndpointTable {
    const { metadata, version, servingInstances, instances, ownership } = object;
    this.#known.set(key, {
      metadata: withoutManagedFields({ metadata }).metadata,
      writer: ownership?.writer,
      beside: {
        ...(version !== undefined && { version }),
        ...(servingInstances !== undefined && { servingInstances }),
        ...(instances !== undefined && { instances }),
      },
    });
    return object;
  }

  /**
   * Of an object that is made, or as it was found, with the service as its owner: what the one before it of that name had
   * is deleted with that. Undefined: there is no service, and nobody would ever delete what is made.
   */
  #metadata(environment: string, service: string, found?: ObjectMeta): ObjectMeta | undefined {
    const { ownerOf, labels } = this.#options;
    const owner = ownerOf?.(environment, service);
    if (ownerOf !== undefined && owner === undefined) return found;
    const metadata = found ?? { namespace: environment, name: service, ...(labels !== undefined && { labels }) };
    const { ownerReferences = [] } = metadata;
    if (owner === undefined || ownerReferences.some(({ uid }) => uid === owner.uid)) return metadata;
    return { ...metadata, ownerReferences: [...ownerReferences.filter(({ kind }) => kind !== owner.kind), owner] };
  }
}

/** It is not the object that was seen: another version, or none, or one where there was none. Nothing was done. */
function isOther(error: unknown): boolean {
  return KubeError.is(error) && (error.isConflict || error.isNotFound);
}
