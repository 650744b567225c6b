/** The agent of an instance under test, the connection of the app beside it, and all transports that lead to the two. */

import { uptime } from "node:os";
import { Agent } from "@leveros/agent/core/agent.ts";
import { DiscoveryClient } from "@leveros/agent/core/discovery-client.ts";
import { runtimeLeaseClock } from "@leveros/protocol/clock/lease-clock.ts";
import type { DiscoveryIdentity } from "@leveros/protocol/control/discovery.ts";
import type { Identity } from "@leveros/protocol/session/hello.ts";
import { defaultSessionLimits, type SessionLimits } from "@leveros/protocol/session/limits.ts";
import { Session } from "@leveros/protocol/session/session.ts";
import { memoryTransportPair } from "@leveros/protocol/transport/memory-transport.ts";
import type { Transport } from "@leveros/protocol/transport/transport.ts";
import { Connection, clock } from "../connection.ts";

export const leaseClock = runtimeLeaseClock(globalThis, () => uptime() * 1000);

/** In one process nobody falls silent, and a method that runs is waited for. */
const limits: SessionLimits = {
  ...defaultSessionLimits,
  pingIntervalMs: 0,
  silenceMs: 0,
  goAwayGraceMs: 3_700_000,
};

/** Who takes a transport at an address. */
export interface Listener {
  accept(transport: Transport): void;
}

/** What connects everything: agents by their addresses, and the operator. */
export interface TestNetwork {
  /** Undefined: nobody listens there (any more). */
  listener(address: string): Listener | undefined;
}

/** Whose agent it is. */
export interface TestPlace {
  readonly role: "agent" | "gateway";
  readonly environment: string;
  readonly service?: string;
  readonly instance?: string;
}

export const operatorAddress = "operator:3837";

/** An agent core on the network, with the connection of an app beside it. */
export class TestAgent {
  readonly agent: Agent;
  readonly address: string;
  /** The app's. */
  readonly connection: Connection;
  readonly #network: TestNetwork;
  readonly #discovery: DiscoveryClient;
  readonly #transports = new Set<Transport>();
  #isClosed = false;

  constructor(network: TestNetwork, id: string, place: TestPlace) {
    this.#network = network;
    this.address = `${id}:3837`;
    const identity: Identity = place;
    const discoveryIdentity: DiscoveryIdentity = { ...place, address: this.address };
    this.#discovery = new DiscoveryClient({
      clock,
      random: Math.random,
      identity: discoveryIdentity,
      dial: async () => this.#dialOperator(identity),
    });
    this.agent = new Agent({
      clock,
      random: Math.random,
      identity,
      discovery: this.#discovery,
      dial: async (address) => this.#dial(address),
      sessionLimits: limits,
      ownership: { leaseClock, address: this.address, dialLeader: async () => this.#dialOperator(identity) },
    });
    this.connection = new Connection({
      identity: { ...identity, role: "app" },
      name: `the agent of ${id}`,
      limits,
      dial: async () => this.#join((transport) => this.agent.acceptApp(transport)),
    });
  }

  /** For the agents of others. */
  accept(transport: Transport): void {
    this.#transports.add(transport);
    this.agent.acceptPeer(transport);
  }

  #dial(address: string): Transport {
    const listener = this.#network.listener(address);
    if (listener === undefined) throw new Error(`nobody listens at ${address}`);
    return this.#join((transport) => listener.accept(transport));
  }

  #dialOperator(identity: Identity): Session {
    return new Session({
      transport: this.#dial(operatorAddress),
      clock,
      side: "dialer",
      identity,
      limits,
      handler: {
        onOpen: (stream) => {
          stream.reset(new Uint8Array(0));
          stream.release();
        },
      },
    });
  }

  #join(accept: (transport: Transport) => void): Transport {
    if (this.#isClosed) throw new Error("the instance is gone");
    const [near, far] = memoryTransportPair(clock);
    this.#transports.add(near);
    accept(far);
    return near;
  }

  /** Ends everything; who talks to it is told. */
  close(): void {
    this.#isClosed = true;
    this.connection.close();
    this.#discovery.close();
    this.agent.close();
  }

  /** Cuts every connection without a word, as a loss of power does. */
  cut(): void {
    for (const transport of this.#transports) transport.destroy();
    this.connection.destroy();
    this.close();
  }
}
