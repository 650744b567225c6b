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

export class LeaderRows {
  readonly #options: LeaderRowsOptions;
  readonly #services = new Map<string, { readonly environment: string; readonly service: string }>();
  #leader: string | undefined;
  #client: DiscoveryClient | undefined;

  constructor(options: LeaderRowsOptions) {
    this.#options = options;
  }

  /** From this leader (`host:port`) from now on; undefined: from nobody. */
  follow(leader: string | undefined): void {
    if (leader === this.#leader) return;
    this.#leader = leader;
    this.#client?.close();
    this.#client = undefined;
    if (leader === undefined) return;
    const { clock, random, dial } = this.#options;
    this.#client = new DiscoveryClient({ clock, random, dial: () => dial(leader), identity: { role: "gateway" } });
    for (const key of this.#services.keys()) this.#subscribe(key);
  }

  /** The service holds resources. */
  add(environment: string, service: string): void {
    const key = `${environment}/${service}`;
    if (this.#services.has(key)) return;
    this.#services.set(key, { environment, service });
    this.#subscribe(key);
  }

  /** It does not any more. */
  remove(environment: string, service: string): void {
    // The client unsubscribes with the next leader: that is seldom, and a subscription to what is gone is silent.
    this.#services.delete(`${environment}/${service}`);
  }

  close(): void {
    this.follow(undefined);
  }

  #subscribe(key: string): void {
    const known = this.#services.get(key);
    if (known === undefined) return;
    const { environment, service } = known;
    this.#client?.subscribe(environment, service, ({ slots }) => {
      if (slots !== undefined && this.#services.has(key)) this.#options.tables.setSlots(environment, service, slots);
    });
  }
}
