/** The operator as a process of the world: the real tables, registry and servers; it dies and comes back. */

import { EndpointTables } from "@leveros/operator/core/endpoint-table.ts";
import type { InstanceProcess } from "@leveros/operator/core/ownership/holder.ts";
import { OwnershipLeader } from "@leveros/operator/core/ownership/leader.ts";
import { type InstanceKey, ServiceRegistry, type SourceInstance } from "@leveros/operator/core/service-registry.ts";
import { DiscoveryServer } from "@leveros/operator/discovery/discovery-server.ts";
import type { ServicePolicy } from "@leveros/protocol/control/discovery.ts";
import type { Machine } from "../world/machine.ts";
import type { Network } from "../world/network.ts";
import { SimProcess } from "../world/sim-process.ts";
import type { ApiServer } from "./api-server.ts";

export const operatorAddress = "operator:3837";

export interface OperatorNodeOptions {
  readonly network: Network;
  readonly machine: Machine;
  readonly apiServer: ApiServer;
  /** How many there were before it. */
  readonly restarts: number;
}

export class OperatorNode {
  readonly process: SimProcess;
  readonly leader: OwnershipLeader;
  readonly #registry: ServiceRegistry;
  readonly #discovery: DiscoveryServer;

  constructor({ network, machine, apiServer, restarts }: OperatorNodeOptions) {
    const { world } = network;
    this.process = new SimProcess(world, machine, `operator.${restarts}`);
    const { clock, leaseClock } = this.process;
    const tables = new EndpointTables({
      startVersion: Math.floor(machine.wallMs(world.now())),
      origin: `operator-${restarts}`,
    });
    this.leader = new OwnershipLeader({
      clock,
      leaseClock,
      random: world.random.next,
      store: apiServer.storeFor(this.process),
      onSlots: (environment, service, rows) => tables.setSlots(environment, service, rows),
    });
    this.leader.start();
    this.#registry = new ServiceRegistry({ tables, clock, leader: this.leader });
    this.#discovery = new DiscoveryServer({ registry: this.#registry, clock, leader: this.leader });
    network.listen(operatorAddress, this.process, (transport) => this.#discovery.accept(transport));
  }

  declare(environment: string, service: string, policy: ServicePolicy): void {
    this.#registry.declareService(environment, service, policy);
  }

  removeService(environment: string, service: string): void {
    this.#registry.removeService(environment, service);
  }

  upsert(instance: SourceInstance): void {
    this.#registry.upsertInstance(instance);
  }

  remove(instance: InstanceKey): void {
    this.#registry.removeInstance(instance);
  }

  /** As `OwnershipLeader.processEnded`. */
  processEnded(key: InstanceKey, process: InstanceProcess, endedBefore?: number): void {
    this.leader.processEnded(key, process, endedBefore);
  }

  kill(): void {
    this.process.kill();
  }
}
