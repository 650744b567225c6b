/** The operator's core and the agents of one environment, joined over memory: what a cluster is to its instances. */

import { EndpointTables } from "@leveros/operator/core/endpoint-table.ts";
import { type InstanceKey, ServiceRegistry } from "@leveros/operator/core/service-registry.ts";
import { DiscoveryServer } from "@leveros/operator/discovery/discovery-server.ts";
import type { ServicePolicy } from "@leveros/protocol/control/discovery.ts";
import { clock } from "../connection.ts";
import { type Listener, operatorAddress, TestAgent, type TestNetwork, type TestPlace } from "./test-agent.ts";

/** An instance that its source has made known. */
export interface ClusterInstance extends InstanceKey {
  readonly agent: TestAgent;
  /** The operator has told everybody that it serves. */
  readonly whenServing: Promise<void>;
}

export class TestCluster implements TestNetwork {
  readonly environment: string;
  readonly #registry: ServiceRegistry;
  readonly #discovery: DiscoveryServer;
  readonly #listeners = new Map<string, Listener>();
  readonly #agents = new Set<TestAgent>();
  readonly #onServing = new Map<string, () => void>();

  constructor(environment: string) {
    this.environment = environment;
    this.#registry = new ServiceRegistry({
      tables: new EndpointTables({ startVersion: 1, origin: "test" }),
      clock,
      observer: {
        onState: ({ instance }, state) => {
          if (state === "Serving") this.#onServing.get(instance)?.();
        },
      },
    });
    this.#discovery = new DiscoveryServer({ registry: this.#registry, clock });
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

  /** Ends everything at once. */
  close(): void {
    for (const agent of this.#agents) agent.close();
    this.#listeners.clear();
    this.#discovery.close();
    this.#registry.close();
  }
}
