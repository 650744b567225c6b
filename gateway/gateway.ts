/**
 * The door from outside: an agent core with a public face. HTTP for everybody, the native port for client libraries.
 *
 * It owns its sockets and its stream to the operator. Routing, retries and limits are the core's, which sees the HTTP
 * door as one more client.
 */

import { Agent } from "@leveros/agent/core/agent.ts";
import { DiscoveryClient } from "@leveros/agent/core/discovery-client.ts";
import { type AdminServer, startAdminServer } from "@leveros/agent/host/admin-server.ts";
import { AgentMetrics } from "@leveros/agent/host/agent-metrics.ts";
import { agentVersion, dialOperator, listenProblem } from "@leveros/agent/host/hosted-agent.ts";
import { dialTcp, type Listener, listenTcp } from "@leveros/agent/host/socket.ts";
import { runtimeClock } from "@leveros/protocol/clock/runtime-clock.ts";
import type { Identity } from "@leveros/protocol/session/hello.ts";
import { type HttpDoor, startHttpDoor } from "./http/door.ts";

export interface GatewayOptions {
  /** `host:port` of the operator's discovery. */
  readonly operator: string;
  /** What all ports are bound to. */
  readonly host: string;
  /** 0 gives a free one, for all three. */
  readonly httpPort: number;
  readonly port: number;
  readonly adminPort: number;
  /** The environment of requests and clients that name none. */
  readonly defaultEnvironment?: string;
  /** Hosts of requests (`shop.example.org`, without a port) that stand for environments. */
  readonly environmentOfHost?: Readonly<Record<string, string>>;
  /** `?forceenv=` is honoured. */
  readonly allowForceEnv: boolean;
  /** Origins that browsers may call from; `*` is any. */
  readonly corsOrigins: readonly string[];
  /** The largest body of a request, bytes. */
  readonly bodyBytesMax?: number;
  readonly instance?: string;
  readonly zone?: string;
}

const peerDialTimeoutMs = 2000;

export class Gateway {
  readonly agent: Agent;
  readonly httpPort: number;
  readonly port: number;
  readonly adminPort: number;
  readonly #discovery: DiscoveryClient;
  readonly #native: Listener;
  readonly #admin: AdminServer;
  readonly #door: HttpDoor;

  private constructor(agent: Agent, discovery: DiscoveryClient, native: Listener, admin: AdminServer, door: HttpDoor) {
    this.agent = agent;
    this.httpPort = door.port;
    this.port = native.port;
    this.adminPort = admin.port;
    this.#discovery = discovery;
    this.#native = native;
    this.#admin = admin;
    this.#door = door;
  }

  /** Rejects with INVALID_OPTION, naming the flag, when a port cannot be had. */
  static async start(options: GatewayOptions): Promise<Gateway> {
    const clock = runtimeClock(globalThis);
    const identity: Identity = {
      role: "gateway",
      instance: options.instance ?? `gateway-${process.pid}`,
      library: `lever-gateway/${agentVersion}`,
    };
    const discovery = new DiscoveryClient({
      clock,
      random: Math.random,
      identity: { role: "gateway", ...(options.zone === undefined ? {} : { zone: options.zone }) },
      dial: () => dialOperator(options.operator, identity),
    });
    const metrics = new AgentMetrics("lever_gateway", agentVersion, () => agent);
    const agent: Agent = new Agent({
      clock,
      random: Math.random,
      identity,
      zone: options.zone,
      discovery,
      dial: (to) => dialTcp(to, peerDialTimeoutMs),
      observer: metrics,
      ...(options.defaultEnvironment === undefined ? {} : { defaultEnvironment: options.defaultEnvironment }),
    });
    const opened: { close(): void }[] = [agent, discovery];
    const open = async <Opened extends { close(): void }>(what: string, flag: string, start: Promise<Opened>) => {
      try {
        const started = await start;
        opened.push(started);
        return started;
      } catch (error) {
        for (const each of opened.reverse()) each.close();
        throw listenProblem(error, what, flag);
      }
    };
    const { host } = options;
    const native = await open(
      `${host}:${options.port} (clients)`,
      "--port",
      listenTcp(host, options.port, (transport) => agent.acceptClient(transport)),
    );
    const door = await open(
      `${host}:${options.httpPort} (HTTP)`,
      "--http-port",
      startHttpDoor({ ...options, agent, clock, port: options.httpPort, registry: metrics.registry }),
    );
    const admin = await open(
      `${host}:${options.adminPort} (admin)`,
      "--admin-port",
      startAdminServer({
        host,
        port: options.adminPort,
        registry: metrics.registry,
        whyNotReady: () => (discovery.isConnected ? undefined : "no connection to the operator"),
      }),
    );
    return new Gateway(agent, discovery, native, admin, door);
  }

  /** Takes no new requests and ends. */
  close(): void {
    this.#native.close();
    this.#door.close();
    this.#admin.close();
    this.#discovery.close();
    this.agent.close();
  }
}
