/** An agent as a process of the world. */

import { Agent } from "@leveros/agent/core/agent.ts";
import { DiscoveryClient } from "@leveros/agent/core/discovery-client.ts";
import type { Identity } from "@leveros/protocol/session/hello.ts";
import { defaultSessionLimits } from "@leveros/protocol/session/limits.ts";
import { Session } from "@leveros/protocol/session/session.ts";
import type { Machine } from "../world/machine.ts";
import type { Network } from "../world/network.ts";
import { SimProcess } from "../world/sim-process.ts";
import { operatorAddress } from "./operator-node.ts";

export interface AgentPlace {
  readonly environment: string;
  /** Undefined for one whose app serves nothing. */
  readonly service?: string;
  readonly instance: string;
}

export interface AgentNodeOptions extends AgentPlace {
  readonly network: Network;
  readonly machine: Machine;
  /** Where its app connects. */
  readonly socket: string;
  /** `host:port` for peers. */
  readonly address: string;
  /** How many there were before it in this place. */
  readonly restarts: number;
}

export class AgentNode {
  readonly process: SimProcess;
  readonly agent: Agent;
  readonly #discovery: DiscoveryClient;

  constructor(options: AgentNodeOptions) {
    const { network, machine, environment, service, instance, address, restarts } = options;
    const { world } = network;
    this.process = new SimProcess(world, machine, `${instance}/agent.${restarts}`);
    const { clock, leaseClock } = this.process;
    const random = world.random.next;
    const identity: Identity = {
      role: "agent",
      environment,
      instance,
      ...(service !== undefined && { service }),
    };
    const dialOperator = async () =>
      new Session({
        transport: await network.dial(this.process, operatorAddress),
        clock,
        side: "dialer",
        identity,
        limits: defaultSessionLimits,
        handler: {},
      });
    this.#discovery = new DiscoveryClient({
      clock,
      random,
      identity: { role: "agent", address, ...(service !== undefined && { environment, service, instance }) },
      dial: dialOperator,
    });
    this.agent = new Agent({
      clock,
      random,
      identity,
      discovery: this.#discovery,
      dial: (to) => network.dial(this.process, to),
      ...(service !== undefined && { ownership: { leaseClock, address, dialLeader: dialOperator } }),
    });
    network.listen(options.socket, this.process, (transport) => this.agent.acceptApp(transport));
    network.listen(address, this.process, (transport) => this.agent.acceptPeer(transport));
  }

  kill(): void {
    this.process.kill();
  }
}
