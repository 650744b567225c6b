/**
 * The slots' rows at a replica that does not lead: it subscribes at the leader to the services that hold resources, as an
 * agent would. The leader's rows reach its own agents in the same moment.
 */

import { DiscoveryClient } from "@leveros/agent/core/discovery-client.ts";
import type { Clock, Random } from "@leveros/protocol/clock/clock.ts";
import type { Session } from "@leveros/protocol/session/session.ts";
import type { EndpointTables } from "../core/endpoint-table.ts";

export interface LeaderRowsOptions {
  readonly clock: Clock;
  readonly random: Random;
  readonly tables: EndpointTables;
  dial(address: string): Promise<Session>;
}

interface Service {
  readonly environment: string;
  readonly service: string;
  /** Undefined: nobody is followed. */
  unsubscribe: (() => void) | undefined;
}

export class LeaderRows {
  readonly #options: LeaderRowsOptions;
  /** Services that hold resources. */
  readonly #services = new Map<string, Service>();
  #leader: string | undefined;
  #client: DiscoveryClient | undefined;

  constructor(options: LeaderRowsOptions) {
    this.#options = options;
  }

  /** Services that the leader is listened to for. */
  get count(): number {
    return this.#client?.subscriptionCount ?? 0;
  }

  /** From this leader (`host:port`) from now on; undefined: from nobody. */
  follow(leader: string | undefined): void {
    if (leader === this.#leader) return;
    this.#leader = leader;
    this.#client?.close();
    this.#client = undefined;
    for (const service of this.#services.values()) service.unsubscribe = undefined;
    if (leader === undefined) return;
    const { clock, random, dial } = this.#options;
    this.#client = new DiscoveryClient({ clock, random, dial: () => dial(leader), identity: { role: "gateway" } });
    for (const service of this.#services.values()) this.#subscribe(service);
  }

  /** The service holds resources. */
  add(environment: string, service: string): void {
    const key = `${environment}/${service}`;
    if (this.#services.has(key)) return;
    const added: Service = { environment, service, unsubscribe: undefined };
    this.#services.set(key, added);
    this.#subscribe(added);
  }

  /** It does not any more. */
  remove(environment: string, service: string): void {
    const key = `${environment}/${service}`;
    this.#services.get(key)?.unsubscribe?.();
    this.#services.delete(key);
  }

  close(): void {
    this.follow(undefined);
  }

  #subscribe(known: Service): void {
    const { environment, service } = known;
    known.unsubscribe = this.#client?.subscribe(environment, service, ({ slots }) => {
      if (slots !== undefined) this.#options.tables.setSlots(environment, service, slots);
    });
  }
}
