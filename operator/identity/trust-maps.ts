/**
 * The ConfigMap `lever-trust` with the bundle of trusted CAs, in each namespace that has a LeverService and in the
 * operator's own: agents and gateways have it mounted, so that the kubelet keeps it up to date.
 *
 * Level-based, by the leader: what is there is compared with what is wanted, whatever was seen of it before. A ConfigMap
 * of that name that is not Lever's is left alone. The one of a namespace whose last LeverService has gone is deleted; pods
 * that still run keep what they have.
 */

import type { Clock, Random } from "@leveros/protocol/clock/clock.ts";
import type { KubeClient } from "../kube/kube-client.ts";
import { KubeError } from "../kube/kube-error.ts";
import { type KubeObject, resourceKind } from "../kube/kube-object.ts";
import { trustMapKey, trustMapName } from "../kube/reconcile/wanted-deployment.ts";
import { Reflector } from "../kube/reflector.ts";
import { type WorkDone, WorkQueue } from "../kube/work-queue.ts";

export const configMaps = resourceKind("", "v1", "ConfigMap", "configmaps");
const labels = { "app.kubernetes.io/managed-by": "lever", "app.kubernetes.io/name": "lever" };

export interface ConfigMapObject extends KubeObject {
  readonly data?: Readonly<Record<string, string>>;
}

export interface TrustMapsOptions {
  readonly client: KubeClient;
  readonly clock: Clock;
  readonly random: Random;
  /** The operator's own. */
  readonly namespace: string;
  /** PEM; undefined: not known yet. */
  readonly bundle: () => string | undefined;
  readonly isLeader: () => boolean;
  readonly onLog: (level: "info" | "warn", text: string) => void;
}

export class TrustMaps {
  readonly reflector: Reflector<ConfigMapObject>;
  readonly queue: WorkQueue;
  readonly #options: TrustMapsOptions;
  /** LeverServices of each namespace that has some. */
  readonly #services = new Map<string, number>();

  constructor(options: TrustMapsOptions) {
    this.#options = options;
    const { client, clock, random, onLog } = options;
    this.reflector = new Reflector<ConfigMapObject>({
      client,
      kind: configMaps,
      fieldSelector: `metadata.name=${trustMapName}`,
      clock,
      random,
      onError: (error) => onLog("warn", `watching configmaps ${trustMapName}: ${messageOf(error)}`),
    });
    this.queue = new WorkQueue({
      clock,
      random,
      workers: 4,
      work: (namespace) => this.#reconcile(namespace),
      retry: { minMs: 200, maxMs: 60_000 },
      onDone: (done) => this.#onDone(done),
    });
  }

  /** All has to be listed. */
  start(services: Pick<Reflector<KubeObject>, "subscribe">): void {
    const { namespace } = this.#options;
    services.subscribe({
      onUpsert: ({ metadata: { namespace: of = "" } }, old) => {
        if (old === undefined) this.#count(of, 1);
      },
      onDelete: ({ metadata: { namespace: of = "" } }) => this.#count(of, -1),
    });
    const changed = ({ metadata }: ConfigMapObject) => this.#add(metadata.namespace ?? "");
    this.reflector.subscribe({ onUpsert: changed, onDelete: changed });
    this.#add(namespace);
  }

  /** The bundle has changed, or this replica leads now. */
  changed(): void {
    const known = [...this.reflector.values()].map(({ metadata }) => metadata.namespace ?? "");
    for (const namespace of new Set([this.#options.namespace, ...this.#services.keys(), ...known]))
      this.#add(namespace);
  }

  async close(): Promise<void> {
    await Promise.all([this.queue.close("drop"), this.reflector.close()]);
  }

  #add(namespace: string): void {
    if (this.#options.isLeader()) this.queue.add(namespace);
  }

  #count(namespace: string, by: number): void {
    const count = (this.#services.get(namespace) ?? 0) + by;
    if (count > 0) this.#services.set(namespace, count);
    else this.#services.delete(namespace);
    this.#add(namespace);
  }

  async #reconcile(namespace: string): Promise<void> {
    const { client, bundle, isLeader, namespace: own } = this.#options;
    const pem = bundle();
    if (!isLeader() || pem === undefined) return;
    const found = this.reflector.get(namespace, trustMapName);
    const isOwn = found?.metadata.labels?.["app.kubernetes.io/managed-by"] === "lever";
    if (namespace === own || this.#services.has(namespace)) {
      if (found !== undefined && !isOwn) {
        throw new Error(`it is there without the label app.kubernetes.io/managed-by: lever, and is left alone`);
      }
      if (found?.data?.[trustMapKey] === pem) return;
      await client.apply<ConfigMapObject>(configMaps, {
        metadata: { name: trustMapName, namespace, labels },
        data: { [trustMapKey]: pem },
      });
      return;
    }
    if (found === undefined || !isOwn) return;
    try {
      const { uid } = found.metadata;
      await client.delete(configMaps, { namespace, name: trustMapName }, { uid });
    } catch (error) {
      if (!KubeError.is(error) || !(error.isNotFound || error.isConflict)) throw error;
    }
  }

  #onDone({ key, failures, error }: WorkDone): void {
    if (!Number.isInteger(Math.log2(failures))) return;
    const text = `the ConfigMap ${key}/${trustMapName} (failed ${failures} in a row): ${messageOf(error)}`;
    this.#options.onLog("warn", text);
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
