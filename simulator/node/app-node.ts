/** An app as a process of the world: the client library as users have it, but for its sockets. */

import { Client, type OwnConnection, ownConnection } from "../../clients/node/client.ts";
import { Connection } from "../../clients/node/connection.ts";
import { MethodServer } from "../../clients/node/method-server.ts";
import type { ResourceClass } from "../../clients/node/resources/resource-methods.ts";
import type { Machine } from "../world/machine.ts";
import type { Network } from "../world/network.ts";
import { SimProcess } from "../world/sim-process.ts";

export interface AppNodeOptions {
  readonly network: Network;
  readonly machine: Machine;
  readonly environment: string;
  readonly service?: string;
  readonly instance: string;
  /** Of its agent. */
  readonly socket: string;
  /** How many there were before it in this place. */
  readonly restarts: number;
}

/** As those of a connection with a local agent (`agent-connection.ts`). */
const localLimits = { pingIntervalMs: 0, silenceMs: 0, goAwayGraceMs: 3_700_000 };
const drainTimeoutMs = 25_000;

export class AppNode {
  readonly process: SimProcess;
  readonly connection: Connection;
  readonly client: Client;
  #server: MethodServer | undefined;
  readonly #instance: string;

  constructor({ network, machine, environment, service, instance, socket, restarts }: AppNodeOptions) {
    this.#instance = instance;
    this.process = new SimProcess(network.world, machine, `${instance}/app.${restarts}`);
    this.connection = new Connection({
      identity: { role: "app", environment, instance, ...(service !== undefined && { service }) },
      name: `the agent of ${instance}`,
      limits: localLimits,
      dial: () => network.dial(this.process, socket),
      clock: this.process.clock,
      leaseClock: this.process.leaseClock,
      random: network.world.random.next,
    });
    const own: OwnConnection = { [ownConnection]: this.connection };
    this.client = new Client(own);
  }

  /** Serves from now on. Errors of methods that are no MethodError are the test's business. */
  serve(methods: object, resource?: ResourceClass): void {
    const server = new MethodServer(this.connection.retain(), methods, {
      drainTimeoutMs,
      onError: () => {},
      instance: this.#instance,
      showsErrors: true,
      isHome: true,
      process: this.process.name,
      resource,
    });
    this.#server = server;
    this.process.run(() => void server.start(3_600_000).catch(() => {}));
  }

  /** As SIGTERM does; calls back when the process would exit. */
  end(onExit: () => void): void {
    this.process.run(() => {
      void this.#server?.end().then(onExit);
    });
  }

  kill(): void {
    this.process.kill();
  }
}
