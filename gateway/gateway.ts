/**
 * The door from outside: an agent core with a public face. HTTP for everybody, the native port for client libraries.
 *
 * It owns its sockets and its stream to the operator. Routing, retries and limits are the core's, which sees the HTTP
 * door as one more client.
 */

import { hostname } from "node:os";
import { Agent } from "@leveros/agent/core/agent.ts";
import { DiscoveryClient } from "@leveros/agent/core/discovery-client.ts";
import { type AdminServer, startAdminServer } from "@leveros/agent/host/admin-server.ts";
import { AgentMetrics } from "@leveros/agent/host/agent-metrics.ts";
import { agentVersion, listenProblem } from "@leveros/agent/host/hosted-agent.ts";
import { addIdentityMetrics } from "@leveros/agent/host/identity-metrics.ts";
import { operatorSessions } from "@leveros/agent/host/operator-sessions.ts";
import { type IdentityFiles, PodIdentity } from "@leveros/agent/host/pod-identity.ts";
import { dialTcp, type Listener, listenTcp } from "@leveros/agent/host/socket.ts";
import { runtimeClock } from "@leveros/protocol/clock/runtime-clock.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import type { Identity } from "@leveros/protocol/session/hello.ts";
import type { Session } from "@leveros/protocol/session/session.ts";
import type { Transport } from "@leveros/protocol/transport/transport.ts";
import { type DoorLimits, HttpDoor } from "./http/door.ts";

export interface GatewayOptions {
  /** `host:port` of the operator; a name may have the addresses of several replicas. */
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
  /** Origins that browsers may read answers from; `*` is any. */
  readonly corsOrigins: readonly string[];
  /** The largest body of a call, and the longest line of a channel over HTTP, bytes; 512 KiB unless set. */
  readonly bodyBytesMax?: number;
  readonly httpLimits?: Partial<DoorLimits>;
  /** What errors call the settings of the ports; the flags of `lever dev` unless set. */
  readonly portNames?: { readonly http: string; readonly native: string; readonly admin: string };
  readonly instance?: string;
  readonly zone?: string;
  /** What the pod proves itself by: then instances and the operator are met over mutual TLS. Undefined: plainly. */
  readonly identityFiles?: IdentityFiles;
  readonly onLog?: (level: "info" | "warn", text: string) => void;
}

const peerDialTimeoutMs = 2000;
const flagNames = { http: "--http-port", native: "--port", admin: "--admin-port" };
/** What was cut off at the end of a drain gets its errors written within this time. */
const lastAnswersMs = 200;

interface Parts {
  readonly agent: Agent;
  readonly discovery: DiscoveryClient;
  readonly native: Listener;
  readonly door: HttpDoor;
  readonly admin: AdminServer;
  readonly clients: NativeClients;
  readonly podIdentity: PodIdentity | undefined;
}

export class Gateway {
  readonly agent: Agent;
  readonly httpPort: number;
  readonly port: number;
  readonly adminPort: number;
  readonly #parts: Parts;

  private constructor(parts: Parts) {
    this.agent = parts.agent;
    this.httpPort = parts.door.port;
    this.port = parts.native.port;
    this.adminPort = parts.admin.port;
    this.#parts = parts;
  }

  /** Rejects with INVALID_OPTION, naming the setting, when a port cannot be had. */
  static async start(options: GatewayOptions): Promise<Gateway> {
    const clock = runtimeClock(globalThis);
    const identity: Identity = {
      role: "gateway",
      // Of a pod it is proven, and its host's name is the pod's.
      instance: options.instance ?? (options.identityFiles === undefined ? `gateway-${process.pid}` : hostname()),
      library: `lever-gateway/${agentVersion}`,
    };
    const { identityFiles, onLog } = options;
    const podIdentity =
      identityFiles && new PodIdentity({ operator: options.operator, identity, ...identityFiles, onLog });
    const operator = operatorSessions(options.operator, identity, podIdentity?.dialOperator.bind(podIdentity));
    const discovery = new DiscoveryClient({
      clock,
      random: Math.random,
      identity: { role: "gateway", ...(options.zone === undefined ? {} : { zone: options.zone }) },
      dial: () => operator.any(),
    });
    const metrics = new AgentMetrics("lever_gateway", agentVersion, () => agent);
    const agent: Agent = new Agent({
      clock,
      random: Math.random,
      identity,
      zone: options.zone,
      discovery,
      dial: (to) =>
        podIdentity === undefined ? dialTcp(to, peerDialTimeoutMs) : podIdentity.dialInstance(to, peerDialTimeoutMs),
      observer: metrics,
      ...(options.defaultEnvironment === undefined ? {} : { defaultEnvironment: options.defaultEnvironment }),
    });
    if (podIdentity !== undefined) {
      const { keeper, refusals } = podIdentity;
      const notAfterMs = () => keeper.current?.notAfterMs;
      addIdentityMetrics({ registry: metrics.registry, prefix: "lever_gateway", refusals, notAfterMs });
    }
    const opened: { close(): void }[] = [agent, discovery, ...(podIdentity === undefined ? [] : [podIdentity])];
    const open = async <Opened extends { close(): void }>(what: string, setting: string, start: Promise<Opened>) => {
      try {
        const started = await start;
        opened.push(started);
        return started;
      } catch (error) {
        for (const each of opened.reverse()) each.close();
        throw listenProblem(error, what, setting);
      }
    };
    const { host, portNames = flagNames } = options;
    const { registry } = metrics;
    const clients = new NativeClients(agent);
    const native = await open(
      `${host}:${options.port} (clients)`,
      portNames.native,
      listenTcp(host, options.port, (transport) => clients.accept(transport)),
    );
    const door = await open(
      `${host}:${options.httpPort} (HTTP)`,
      portNames.http,
      HttpDoor.start({
        ...options,
        agent,
        clock,
        port: options.httpPort,
        registry,
        ...(options.httpLimits === undefined ? {} : { limits: options.httpLimits }),
      }),
    );
    const admin = await open(
      `${host}:${options.adminPort} (admin)`,
      portNames.admin,
      startAdminServer({
        host,
        port: options.adminPort,
        registry,
        whyNotReady: () =>
          clients.isDraining
            ? "draining"
            : (podIdentity?.keeper.whyNotReady() ??
              (discovery.isConnected ? undefined : "no connection to the operator")),
      }),
    );
    return new Gateway({ agent, discovery, native, door, admin, clients, podIdentity });
  }

  /**
   * Takes no new connections, tells clients to go elsewhere, waits for the requests, calls and channels that run, at
   * most `timeoutMs`; then ends. What still runs then gets an error, of which its caller learns.
   */
  async drain(timeoutMs: number): Promise<void> {
    const { agent, native, door, clients } = this.#parts;
    native.close();
    const doorIsIdle = door.drain();
    await within(timeoutMs, Promise.all([doorIsIdle, clients.drain()]));
    agent.close();
    await within(lastAnswersMs, doorIsIdle);
    this.close();
  }

  /** Ends everything now. */
  close(): void {
    const { agent, discovery, native, door, admin, podIdentity } = this.#parts;
    podIdentity?.close();
    native.close();
    door.close();
    admin.close();
    discovery.close();
    agent.close();
  }
}

/** The sessions at the native port. */
class NativeClients {
  isDraining = false;
  readonly #agent: Agent;
  readonly #sessions = new Set<Session>();
  #whenNone: (() => void)[] = [];

  constructor(agent: Agent) {
    this.#agent = agent;
  }

  accept(transport: Transport): void {
    const session: Session | undefined = this.#agent.acceptClient(transport, {
      onClose: () => {
        if (session !== undefined) this.#closed(session);
      },
    });
    if (session === undefined) return;
    this.#sessions.add(session);
    if (this.isDraining) this.#goAway(session);
  }

  /** Resolves when the last session has ended; each ends with its last call or channel. */
  drain(): Promise<void> {
    this.isDraining = true;
    for (const session of [...this.#sessions]) this.#goAway(session);
    if (this.#sessions.size === 0) return Promise.resolve();
    return new Promise((resolve) => this.#whenNone.push(resolve));
  }

  #goAway(session: Session): void {
    session.goAway(new LeverError("DRAINING", "the gateway is about to stop", { effect: "none" }));
  }

  #closed(session: Session): void {
    this.#sessions.delete(session);
    if (this.#sessions.size > 0) return;
    const waiting = this.#whenNone;
    this.#whenNone = [];
    for (const resolve of waiting) resolve();
  }
}

async function within(ms: number, done: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  await Promise.race([done, late]);
  clearTimeout(timer);
}
