/**
 * This replica's ear at another one: what the agents say there goes into the registry here as if they were connected
 * here, so that all replicas have the same tables.
 *
 * An agent is connected to one replica at a time; whichever of its connections is heard of last counts. When the other
 * replica is not heard of any more, what it said stands for a while: its agents connect elsewhere.
 */

import {
  defaultOperatorChannelLimits,
  OperatorChannel,
  type OperatorChannelLimits,
} from "@leveros/agent/core/operator-channel.ts";
import type { Clock, Random } from "@leveros/protocol/clock/clock.ts";
import type { LeverError } from "@leveros/protocol/error/lever-error.ts";
import type { Session } from "@leveros/protocol/session/session.ts";
import type { AgentLink, ServiceRegistry } from "../core/service-registry.ts";
import { decodeReplicaMessage, type ReplicaMessage, replicaMethod } from "./replica-messages.ts";

export interface ReplicaLinkOptions {
  readonly clock: Clock;
  readonly random: Random;
  readonly registry: ServiceRegistry;
  /** Who listens, for the other one's log. */
  readonly replica: string;
  dial(): Promise<Session>;
  /** All that the other one knew at the connection's beginning is here; or there is no connection, and why. */
  readonly onComplete: () => void;
  readonly onDisconnected: (error: LeverError) => void;
}

const limits: OperatorChannelLimits = { ...defaultOperatorChannelLimits, connectTimeoutMs: 2000, backoffMaxMs: 2000 };

export class ReplicaLink {
  readonly #options: ReplicaLinkOptions;
  readonly #connection: OperatorChannel;
  readonly #links = new Map<string, AgentLink>();

  constructor(options: ReplicaLinkOptions) {
    this.#options = options;
    this.#connection = new OperatorChannel({
      clock: options.clock,
      random: options.random,
      limits,
      method: replicaMethod,
      dial: () => options.dial(),
      argument: () => ({ replica: options.replica }),
      onOpen: () => {},
      onMessage: (value) => {
        const message = decodeReplicaMessage(value);
        if (message !== undefined) this.#onMessage(message);
      },
      onEnd: () => this.#forgetAll(),
      onDisconnected: (error) => options.onDisconnected(error),
    });
  }

  /** Its agents that are known here. */
  get agentCount(): number {
    return this.#links.size;
  }

  close(): void {
    this.#connection.close();
    this.#forgetAll();
  }

  #onMessage(message: ReplicaMessage): void {
    const { registry, onComplete } = this.#options;
    if (message.type === "complete") return onComplete();
    if (message.type === "gone") {
      const key = `${message.environment}/${message.service}/${message.instance}`;
      this.#links.get(key)?.lost();
      this.#links.delete(key);
      return;
    }
    const { report, word } = message;
    const key = `${report.environment}/${report.service}/${report.instance}`;
    // Each connection there is one here: the first word of a new one is `nothing`, and takes the place of all before.
    let link = word.says === "nothing" ? undefined : this.#links.get(key);
    if (link === undefined) {
      try {
        const made = registry.connect(report, () => {
          if (this.#links.get(key) === made) this.#links.delete(key);
        });
        link = made;
      } catch {
        // Of one more instance that no source knows nothing is kept: it is heard of again once its agent says more.
        return;
      }
      this.#links.set(key, link);
    }
    if (word.says === "register") link.registered(word.registration);
    else if (word.says === "unregister") link.unregistered();
    else if (word.says === "draining") link.draining();
  }

  #forgetAll(): void {
    const links = [...this.#links.values()];
    this.#links.clear();
    for (const link of links) link.lostWithReplica();
  }
}
