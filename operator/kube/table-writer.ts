/**
 * Writes the instances into the `LeverEndpointTable` of each service, for people and for the next start of the operator,
 * while this replica leads.
 *
 * Coalesced: of one service at most one write in `writeIntervalMs`, and none if what is to be written is there. The slots
 * beside them are the leader's (`kube-slot-store.ts`), of whose writes none is lost to this one's.
 */

import type { Clock, Random } from "@leveros/protocol/clock/clock.ts";
import { listedInstancesMax } from "../api/v1alpha1/lever-endpoint-table.ts";
import type { EndpointTables } from "../core/endpoint-table.ts";
import type { KubeObject } from "./kube-object.ts";
import type { KubeSlotStore } from "./kube-slot-store.ts";
import type { Pod } from "./reconcile/kubernetes-object.ts";
import type { Reflector } from "./reflector.ts";
import type { Seen, SeenTable } from "./seen-objects.ts";
import { instancesDigest, type TableInstance } from "./slot-table-object.ts";
import { type WorkDone, WorkQueue, type WorkResult } from "./work-queue.ts";

const writeIntervalMs = 1000;
const workers = 4;

export interface TableWriterOptions {
  readonly tables: EndpointTables;
  readonly store: Pick<KubeSlotStore, "writeInstances" | "forget">;
  readonly clock: Clock;
  readonly random: Random;
  readonly pods: Reflector<Seen<Pod>>;
  readonly services: Reflector<Seen<KubeObject>>;
  /** What the API server has. */
  readonly stored: Reflector<SeenTable>;
  readonly isLeader: () => boolean;
  readonly onDone?: (done: WorkDone) => void;
}

export class TableWriter {
  readonly #options: TableWriterOptions;
  readonly queue: WorkQueue;
  readonly #watched = new Map<string, () => void>();

  constructor(options: TableWriterOptions) {
    this.#options = options;
    const { clock, random, onDone } = options;
    this.queue = new WorkQueue({ clock, random, workers, work: (key) => this.#write(key), ...(onDone && { onDone }) });
  }

  start(): void {
    const { services, stored, tables, store } = this.#options;
    const onStored = ({ metadata: { namespace, name } }: SeenTable) => {
      const key = `${namespace}/${name}`;
      if (this.#watched.has(key)) this.#changed(key);
    };
    stored.subscribe({
      // A write of the last leader may come late.
      onUpsert: (table, old) => {
        if (table.instances !== old?.instances) onStored(table);
      },
      onDelete: onStored,
    });
    services.subscribe({
      onUpsert: ({ metadata: { namespace = "", name } }) => {
        const key = `${namespace}/${name}`;
        if (this.#watched.has(key)) return;
        this.#watched.set(
          key,
          tables.watch(namespace, name, () => this.#changed(key)),
        );
        this.#changed(key);
      },
      onDelete: ({ metadata: { namespace = "", name } }) => {
        const key = `${namespace}/${name}`;
        this.#watched.get(key)?.();
        this.#watched.delete(key);
        store.forget(namespace, name);
      },
    });
  }

  /** Nobody has written anything for a while, perhaps. */
  elected(): void {
    for (const key of this.#watched.keys()) this.#changed(key);
  }

  close(): Promise<void> {
    return this.queue.close("drop");
  }

  #changed(key: string): void {
    if (this.#options.isLeader()) this.queue.addAfter(key, writeIntervalMs);
  }

  async #write(key: string): Promise<WorkResult> {
    const { tables, store, stored, pods, isLeader, services } = this.#options;
    const slash = key.indexOf("/");
    const [namespace, name] = [key.slice(0, slash), key.slice(slash + 1)];
    const table = tables.table(namespace, name);
    if (!isLeader() || !table.exists || services.get(namespace, name) === undefined) return;
    const instances = table.instances
      .toSorted((a, b) => (a.id < b.id ? -1 : 1))
      .map((instance): TableInstance => {
        const { id, address, zone, state } = instance;
        const podUid = pods.get(namespace, id)?.metadata.uid;
        return { id, ...(podUid && { podUid }), address, ...(zone !== undefined && { zone }), state };
      });
    const servingInstances = instances.filter(({ state }) => state === "Serving").length;
    const listed = instances.slice(0, listedInstancesMax);
    // The copy may be behind: then what comes shows the difference.
    if (stored.get(namespace, name)?.instances === instancesDigest(listed, servingInstances)) return;
    await store.writeInstances(namespace, name, { version: table.version, servingInstances, instances: listed });
  }
}
