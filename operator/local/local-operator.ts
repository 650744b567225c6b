/**
 * The operator's part of a local environment: tables, the leader, and the port at which agents find both.
 *
 * It can be closed and another one begun at the same port and on the same slot store, as an operator that is restarted:
 * agents go on with what they have, and dial again. Invariant: it takes nobody before its services are declared.
 */

import { hostLeaseClock } from "@leveros/agent/host/host-lease-clock.ts";
import { type Listener, listenTcp } from "@leveros/agent/host/socket.ts";
import type { Clock } from "@leveros/protocol/clock/clock.ts";
import { type AccessPolicy, allowedCallersMax } from "@leveros/protocol/control/access.ts";
import { defaultServicePolicy, operatorEnvironment, operatorService } from "@leveros/protocol/control/discovery.ts";
import { isStreamingName } from "@leveros/protocol/target/lever-url.ts";
import type { AdminMethods } from "../admin/admin-methods.ts";
import { EndpointTables } from "../core/endpoint-table.ts";
import { OwnershipLeader } from "../core/ownership/leader.ts";
import type { SlotStore } from "../core/ownership/slot-store.ts";
import { type InstanceKey, type RegistryObserver, ServiceRegistry } from "../core/service-registry.ts";
import { DiscoveryServer } from "../discovery/discovery-server.ts";
import { operatorVersion } from "../version.ts";

const host = "127.0.0.1";

export interface LocalOperatorOptions {
  readonly clock: Clock;
  readonly store: SlotStore;
  /** Not told of the operator itself. */
  readonly observer: RegistryObserver;
  readonly admin: Pick<AdminMethods, "calls" | "channels">;
}

export class LocalOperator {
  readonly registry: ServiceRegistry;
  readonly leader: OwnershipLeader;
  readonly #options: LocalOperatorOptions;
  readonly #server: DiscoveryServer;
  #listener: Listener | undefined;
  readonly #environments = new Set<string>();
  #isClosed = false;

  constructor(options: LocalOperatorOptions) {
    this.#options = options;
    const { clock, store, observer, admin } = options;
    const now = Date.now();
    const tables = new EndpointTables({ startVersion: now, origin: `local-${process.pid}-${now}` });
    this.leader = new OwnershipLeader({
      clock,
      leaseClock: hostLeaseClock(),
      random: Math.random,
      store,
      onSlots: (environment, service, rows) => tables.setSlots(environment, service, rows),
    });
    this.leader.start();
    this.registry = new ServiceRegistry({
      tables,
      clock,
      leader: this.leader,
      observer: {
        onRegistered: (key, registration) => {
          if (this.#tells(key)) observer.onRegistered?.(key, registration);
        },
        onState: (key, state) => {
          if (this.#tells(key)) observer.onState?.(key, state);
        },
      },
    });
    const { calls, channels } = admin;
    const library = `lever-operator/${operatorVersion}`;
    this.#server = new DiscoveryServer({
      registry: this.registry,
      clock,
      leader: this.leader,
      calls,
      channels,
      library,
    });
  }

  /** Takes agents from now on, at a free port unless one is given; and is a service like any, for their callers. */
  async listen(port = 0): Promise<void> {
    const listener = await listenTcp(host, port, (transport) => this.#server.accept(transport));
    this.#listener = listener;
    const [environment, service] = [operatorEnvironment, operatorService];
    const key = { environment, service, instance: `operator-${process.pid}` };
    this.#declareItself();
    this.registry.upsertInstance(key);
    const { calls, channels } = this.#options.admin;
    const link = this.registry.connect({ ...key, address: listener.address }, () => {});
    link.registered({
      methods: [...Object.keys(calls), ...Object.keys(channels)].map((name) => ({
        name,
        kind: isStreamingName(name) ? "channel" : "call",
      })),
      resources: false,
      library: "lever-operator",
      version: operatorVersion,
    });
  }

  /** Instances of this environment may ask what `lever` asks, within which it may be started. */
  admit(environment: string): void {
    if (this.#environments.has(environment) || this.#environments.size >= allowedCallersMax) return;
    this.#environments.add(environment);
    if (this.#listener !== undefined) this.#declareItself();
  }

  #declareItself(): void {
    const callers = Array.from(this.#environments, (environment) => ({ environment }));
    // Whoever reaches this machine's gateway may ask too.
    const access: AccessPolicy = { callers, gateway: { expose: "Public" } };
    this.registry.declareService(operatorEnvironment, operatorService, { ...defaultServicePolicy, access });
  }

  /** `host:port`; empty before it listens. */
  get address(): string {
    return this.#listener?.address ?? "";
  }

  get port(): number {
    return this.#listener?.port ?? 0;
  }

  /** Nothing of what it knows is lost that cannot be found again: the store is not its own. */
  close(): void {
    this.#isClosed = true;
    this.leader.close();
    this.#server.close();
    this.#listener?.close();
    this.registry.close();
  }

  #tells({ environment }: InstanceKey): boolean {
    return !this.#isClosed && environment !== operatorEnvironment;
  }
}
