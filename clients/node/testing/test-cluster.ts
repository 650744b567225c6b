/** The operator's core and the agents of one environment, joined over memory: what a cluster is to its instances. */

import { EndpointTables } from "@leveros/operator/core/endpoint-table.ts";
import { OwnershipLeader } from "@leveros/operator/core/ownership/leader.ts";
import { MemorySlotStore } from "@leveros/operator/core/ownership/slot-store.ts";
import { type InstanceKey, ServiceRegistry } from "@leveros/operator/core/service-registry.ts";
import { DiscoveryServer } from "@leveros/operator/discovery/discovery-server.ts";
import type { ServicePolicy } from "@leveros/protocol/control/discovery.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { slotOf } from "@leveros/protocol/target/slot.ts";
import { clock } from "../connection.ts";
import {
  type Listener,
  leaseClock,
  operatorAddress,
  TestAgent,
  type TestNetwork,
  type TestPlace,
} from "./test-agent.ts";

/** An instance that its source has made known. */
export interface ClusterInstance extends InstanceKey {
  readonly agent: TestAgent;
  /** The operator has told everybody that it serves. */
  readonly whenServing: Promise<void>;
}

export class TestCluster implements TestNetwork {
  readonly environment: string;
  readonly #leader: OwnershipLeader;
  readonly #registry: ServiceRegistry;
  readonly #discovery: DiscoveryServer;
  readonly #listeners = new Map<string, Listener>();
  readonly #agents = new Set<TestAgent>();
  readonly #onServing = new Map<string, () => void>();
  /** Those who wait for a change of slots. */
  #onSlots: (() => void)[] = [];

  constructor(environment: string) {
    this.environment = environment;
    const tables = new EndpointTables({ startVersion: 1, origin: "test" });
    this.#leader = new OwnershipLeader({
      clock,
      leaseClock,
      random: Math.random,
      store: new MemorySlotStore(),
      onSlots: (of, service, rows) => {
        tables.setSlots(of, service, rows);
        this.#wake();
      },
    });
    this.#leader.start();
    this.#registry = new ServiceRegistry({
      tables,
      clock,
      leader: this.#leader,
      observer: {
        onState: ({ instance }, state) => {
          if (state === "Serving") this.#onServing.get(instance)?.();
        },
      },
    });
    this.#discovery = new DiscoveryServer({ registry: this.#registry, clock, leader: this.#leader });
    this.#listeners.set(operatorAddress, { accept: (transport) => this.#discovery.accept(transport) });
  }

  listener(address: string): Listener | undefined {
    return this.#listeners.get(address);
  }

  declareService(service: string, policy: ServicePolicy): void {
    this.#registry.declareService(this.environment, service, policy);
  }

  /** An agent whose app calls and serves nothing; a gateway's has clients outside instead. */
  addCaller(name: string, role: TestPlace["role"] = "agent"): TestAgent {
    const agent = new TestAgent(this, name, { role, environment: this.environment });
    this.#agents.add(agent);
    return agent;
  }

  /** An agent whose app is to serve: one more instance of a declared service. */
  addInstance(service: string, instance: string): ClusterInstance {
    const key: InstanceKey = { environment: this.environment, service, instance };
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#onServing.set(instance, resolve);
    const agent = new TestAgent(this, instance, { role: "agent", ...key });
    this.#agents.add(agent);
    this.#listeners.set(agent.address, agent);
    this.#registry.upsertInstance(key);
    return { ...key, agent, whenServing: promise };
  }

  /** Everybody learns that the instance is no more. */
  removeInstance({ agent, whenServing: _, ...key }: ClusterInstance): void {
    this.#listeners.delete(agent.address);
    this.#onServing.delete(key.instance);
    this.#registry.removeInstance(key);
    this.#agents.delete(agent);
  }

  /** Nothing of what it runs will be heard any more: what it held may go to others at once. */
  processEnded(key: InstanceKey): void {
    for (const process of ["app", "agent"] as const) this.#leader.processEnded(key, process);
  }

  /**
   * The instance that holds the resource, as soon as there is one. Rejects with RESOURCE_UNAVAILABLE if nobody does for
   * `timeoutMs`, and NO_RESOURCES.
   */
  async holderOf(service: string, resource: string, timeoutMs: number): Promise<string> {
    const late = new LeverError(
      "RESOURCE_UNAVAILABLE",
      `nobody has held ${JSON.stringify(resource)} of ${service} for ${timeoutMs} ms`,
    );
    let isLate = false;
    const timer = clock.setTimer(() => {
      isLate = true;
      this.#wake();
    }, timeoutMs);
    try {
      for (;;) {
        const rows = this.#leader.slotsOf(this.environment, service);
        if (rows === undefined) throw new LeverError("NO_RESOURCES", `${service} was started without a resource`);
        const holder = rows[slotOf(resource, rows.length)]?.holder;
        if (holder !== undefined && holder !== "") return holder;
        if (isLate) throw late;
        await new Promise<void>((resolve) => this.#onSlots.push(resolve));
      }
    } finally {
      clock.clearTimer(timer);
    }
  }

  #wake(): void {
    const waiting = this.#onSlots;
    this.#onSlots = [];
    for (const wake of waiting) wake();
  }

  /** Ends everything at once. */
  close(): void {
    this.#leader.close();
    for (const agent of this.#agents) agent.close();
    this.#listeners.clear();
    this.#discovery.close();
    this.#registry.close();
  }
}
