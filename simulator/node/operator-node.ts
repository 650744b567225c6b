/** The operator as a process of the world: the real tables, registry and servers; it dies and comes back. */

import { EndpointTables } from "@leveros/operator/core/endpoint-table.ts";
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
  readonly #registry: ServiceRegistry;
  readonly #discovery: DiscoveryServer;

  constructor({ network, machine, restarts }: OperatorNodeOptions) {
    const { world } = network;
    this.process = new SimProcess(world, machine, `operator.${restarts}`);
    const { clock } = this.process;
    this.#registry = new ServiceRegistry({
      tables: new EndpointTables({
        startVersion: Math.floor(machine.wallMs(world.now())),
        origin: `operator-${restarts}`,
      }),
      clock,
    });
    this.#discovery = new DiscoveryServer({ registry: this.#registry, clock });
    network.listen(operatorAddress, this.process, (transport) => this.#discovery.accept(transport));
  }

  declare(environment: string, service: string, policy: ServicePolicy): void {
    this.#registry.declareService(environment, service, policy);
  }

  upsert(instance: SourceInstance): void {
    this.#registry.upsertInstance(instance);
  }

  remove(instance: InstanceKey): void {
    this.#registry.removeInstance(instance);
  }

  kill(): void {
    this.process.kill();
  }
}
