/**
 * The ConfigMap `lever-trust` with the bundle of trusted CAs, in each namespace that has a LeverService and in the
 * operator's own: agents and gateways have it mounted, so that the kubelet keeps it up to date.
 *
 * Level-based, by the leader: what is there is compared with what is wanted, whatever was seen of it before. A ConfigMap
 * of that name that is not Lever's is left alone, and what stands in the way of one is told to whoever asks. The one of a
 * namespace whose last LeverService has gone is deleted; pods that still run keep what they have.
 */

import type { Clock, Random } from "@leveros/protocol/clock/clock.ts";
import type { KubeClient } from "../kube/kube-client.ts";
import { KubeError } from "../kube/kube-error.ts";
import { type KubeObject, resourceKind } from "../kube/kube-object.ts";
import type { TrustProblem } from "../kube/reconcile/trust-problem.ts";
import { trustMapKey, trustMapName } from "../kube/reconcile/wanted-deployment.ts";
import { Reflector } from "../kube/reflector.ts";
import { type WorkDone, WorkQueue, type WorkResult } from "../kube/work-queue.ts";

export const configMaps = resourceKind("", "v1", "ConfigMap", "configmaps");
const labels = { "app.kubernetes.io/managed-by": "lever", "app.kubernetes.io/name": "lever" };

const lookAgainMs = 1000;

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
  /** By namespace: why it has none, by the last try. */
  readonly #problems = new Map<string, TrustProblem>();
  #onProblem: (namespace: string) => void = () => {};

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

  /** Undefined: none is known. A replica that does not lead knows of none. */
  problemOf(namespace: string): TrustProblem | undefined {
    return this.#problems.get(namespace);
  }

  /** Whoever is to be told when that has changed. */
  onProblem(onChange: (namespace: string) => void): void {
    this.#onProblem = onChange;
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

  async #reconcile(namespace: string): Promise<WorkResult> {
    const { client, bundle, isLeader, namespace: own } = this.#options;
    const pem = bundle();
    if (!isLeader() || pem === undefined) return;
    const found = this.reflector.get(namespace, trustMapName);
    const isOwn = found?.metadata.labels?.["app.kubernetes.io/managed-by"] === "lever";
    if (namespace === own || this.#services.has(namespace)) {
      if (found !== undefined && !isOwn) {
        throw new ForeignMap("it is there without the label app.kubernetes.io/managed-by: lever, and is left alone");
      }
      if (found?.data?.[trustMapKey] === pem) return;
      const object = { metadata: { name: trustMapName, namespace, labels }, data: { [trustMapKey]: pem } };
      if (found !== undefined) {
        // Of that very object: whoever has made another one meanwhile keeps it.
        const { uid = "" } = found.metadata;
        await client.apply<ConfigMapObject>(configMaps, { ...object, metadata: { ...object.metadata, uid } });
        return;
      }
      try {
        await client.create<ConfigMapObject>(configMaps, object);
      } catch (error) {
        if (!KubeError.is(error) || !error.isConflict) throw error;
        // It is there by now, and comes by the watch; whose it is it says then.
        return { requeueAfterMs: lookAgainMs };
      }
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
    this.#setProblem(key, error);
    if (!Number.isInteger(Math.log2(failures))) return;
    const text = `the ConfigMap ${key}/${trustMapName} (failed ${failures} in a row): ${messageOf(error)}`;
    this.#options.onLog("warn", text);
  }

  #setProblem(namespace: string, error: unknown): void {
    // It says nothing of the namespace: what was known of it stands.
    if (KubeError.is(error) && (error.isTransient || error.isConflict)) return;
    const before = this.#problems.get(namespace);
    const problem = error === undefined ? undefined : problemOf(error);
    if (problem === undefined) this.#problems.delete(namespace);
    else this.#problems.set(namespace, problem);
    if (JSON.stringify(before) !== JSON.stringify(problem)) this.#onProblem(namespace);
  }
}

/** Somebody else's is there. */
class ForeignMap extends Error {}

function problemOf(error: unknown): TrustProblem {
  if (error instanceof ForeignMap) return { kind: "foreign" };
  return { kind: "refused", message: KubeError.is(error) && error.said ? error.said.message : messageOf(error) };
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
