/**
 * The other replicas of the operator: the pods of its own namespace that carry its label. Each is listened to for as long
 * as it is there (`discovery/replica-link.ts`).
 */

import type { Clock, Random } from "@leveros/protocol/clock/clock.ts";
import type { Session } from "@leveros/protocol/session/session.ts";
import type { ServiceRegistry } from "../core/service-registry.ts";
import { ReplicaLink } from "../discovery/replica-link.ts";
import { pause } from "./pause.ts";
import type { Pod } from "./reconcile/kubernetes-object.ts";
import type { Reflector } from "./reflector.ts";
import type { Seen } from "./seen-objects.ts";

/** What a replica that begins waits for the others to say, at the most. */
const firstWordMs = 3000;

export interface ReplicasOptions {
  readonly pods: Reflector<Seen<Pod>>;
  /** The own pod's name, and where this one is reached: one of them is enough to tell it from the others. */
  readonly self: { readonly name: string; readonly address: string | undefined };
  /** Where the others listen. */
  readonly port: number;
  readonly registry: ServiceRegistry;
  readonly clock: Clock;
  readonly random: Random;
  dial(address: string): Promise<Session>;
  /** For the log. Does not throw. */
  readonly onError: (replica: string, error: unknown) => void;
}

interface Replica {
  readonly address: string;
  readonly link: ReplicaLink;
  /** All that it knew was heard, or it cannot be reached. */
  isKnown: boolean;
  /** The last try to reach it has failed, and that was told. */
  isLost: boolean;
}

export class Replicas {
  readonly #options: ReplicasOptions;
  /** By the pod's name. */
  readonly #replicas = new Map<string, Replica>();
  readonly #abort = new AbortController();

  constructor(options: ReplicasOptions) {
    this.#options = options;
  }

  /** Resolves when each replica that is there has said what it knows, or after 3 s. The reflector has to be synced. */
  async start(): Promise<void> {
    const { pods, clock } = this.#options;
    pods.subscribe({ onUpsert: (pod) => this.#onPod(pod), onDelete: ({ metadata }) => this.#drop(metadata.name) });
    const untilMs = clock.now() + firstWordMs;
    const { signal } = this.#abort;
    while (!signal.aborted && clock.now() < untilMs && [...this.#replicas.values()].some(({ isKnown }) => !isKnown)) {
      await pause(clock, 50, signal);
    }
  }

  /** Those that are there, and those that are heard. */
  get count(): number {
    return this.#replicas.size;
  }

  close(): void {
    this.#abort.abort();
    for (const name of [...this.#replicas.keys()]) this.#drop(name);
  }

  #onPod({ metadata: { name, deletionTimestamp }, status }: Seen<Pod>): void {
    const { self, port } = this.#options;
    if (name === self.name || this.#abort.signal.aborted) return;
    const ip = status?.podIP ?? "";
    const isOver = status?.phase === "Failed" || status?.phase === "Succeeded";
    // One that is about to end is listened to until it does.
    if (ip === "" || isOver) return this.#drop(name);
    const address = ip.includes(":") ? `[${ip}]:${port}` : `${ip}:${port}`;
    if (address === self.address) return;
    const known = this.#replicas.get(name);
    if (known?.address === address) return;
    this.#drop(name);
    if (deletionTimestamp !== undefined && known === undefined) return;
    this.#add(name, address);
  }

  #add(name: string, address: string): void {
    const { registry, clock, random, self, dial, onError } = this.#options;
    const replica: Replica = {
      address,
      isKnown: false,
      isLost: false,
      link: new ReplicaLink({
        clock,
        random,
        registry,
        replica: self.name,
        dial: () => dial(address),
        onComplete: () => {
          replica.isKnown = true;
          replica.isLost = false;
        },
        onDisconnected: (error) => {
          replica.isKnown = true;
          if (!replica.isLost) onError(name, error);
          replica.isLost = true;
        },
      }),
    };
    this.#replicas.set(name, replica);
  }

  #drop(name: string): void {
    this.#replicas.get(name)?.link.close();
    this.#replicas.delete(name);
  }
}
