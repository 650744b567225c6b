/**
 * An agent core with its sockets: the app's Unix socket, the port for peers, the stream to the operator, the admin
 * port. The sidecar (`main.ts`) hosts one, `lever dev` one for each instance.
 */

import { runtimeClock } from "@leveros/protocol/clock/runtime-clock.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import type { Identity } from "@leveros/protocol/session/hello.ts";
import type { Transport } from "@leveros/protocol/transport/transport.ts";
import { Agent } from "../core/agent.ts";
import { DiscoveryClient } from "../core/discovery-client.ts";
import { type AdminServer, startAdminServer } from "./admin-server.ts";
import { AgentMetrics } from "./agent-metrics.ts";
import { hostLeaseClock } from "./host-lease-clock.ts";
import { addIdentityMetrics } from "./identity-metrics.ts";
import { operatorSessions } from "./operator-sessions.ts";
import { type IdentityFiles, PodIdentity } from "./pod-identity.ts";
import { dialTcp, hostPort, type Listener, listenTcp, listenUnix } from "./socket.ts";

export const agentVersion = "0.1.0";

const peerDialTimeoutMs = 2000;

export interface HostedAgentOptions {
  readonly environment: string;
  readonly service: string;
  readonly instance: string;
  readonly zone?: string | undefined;
  /** `host:port` of the operator; a name may have the addresses of several replicas. */
  readonly operator: string;
  /** Where the app connects. */
  readonly socketPath: string;
  /** What the port for peers is bound to; 0 gives a free port. */
  readonly host: string;
  readonly port: number;
  /** What peers are told to connect to; `host` unless given. */
  readonly advertisedHost?: string;
  /** Undefined: no admin port. */
  readonly adminPort?: number;
  /** Of 127.0.0.1, for people: who reaches it calls as the app does, and serves nothing. Undefined: no such port. */
  readonly forwardPort?: number;
  /** The admin port has `/drain/<token>`, which answers after `timeoutMs` at the latest. */
  readonly drainHook?: { readonly token: string; readonly timeoutMs: number };
  /** What the pod proves itself by: then peers and the operator are met over mutual TLS. Undefined: plainly. */
  readonly identityFiles?: IdentityFiles;
  readonly onLog?: (level: "info" | "warn", text: string) => void;
}

export class HostedAgent {
  readonly agent: Agent;
  readonly metrics: AgentMetrics;
  /** `host:port` that peers use. */
  readonly address: string;
  readonly adminPort: number | undefined;
  readonly socketPath: string;
  readonly #discovery: DiscoveryClient;
  readonly #listeners: Listener[];
  readonly #admin: AdminServer | undefined;
  readonly #podIdentity: PodIdentity | undefined;

  private constructor(
    agent: Agent,
    metrics: AgentMetrics,
    discovery: DiscoveryClient,
    listeners: Listener[],
    admin: AdminServer | undefined,
    podIdentity: PodIdentity | undefined,
    address: string,
    socketPath: string,
  ) {
    this.agent = agent;
    this.metrics = metrics;
    this.address = address;
    this.adminPort = admin?.port;
    this.socketPath = socketPath;
    this.#discovery = discovery;
    this.#listeners = listeners;
    this.#admin = admin;
    this.#podIdentity = podIdentity;
  }

  /** Rejects with the system's error when a socket cannot be had. */
  static async start(options: HostedAgentOptions): Promise<HostedAgent> {
    const clock = runtimeClock(globalThis);
    const random = Math.random;
    const identity: Identity = {
      role: "agent",
      environment: options.environment,
      service: options.service,
      instance: options.instance,
      library: `lever-agent/${agentVersion}`,
    };
    let agent: Agent | undefined;
    const metrics = new AgentMetrics("lever_agent", agentVersion, () => agent);
    const { identityFiles, onLog } = options;
    const podIdentity =
      identityFiles && new PodIdentity({ operator: options.operator, identity, ...identityFiles, onLog });
    const acceptPeer = (transport: Transport) => agent?.acceptPeer(transport);
    const listen = podIdentity === undefined ? listenTcp : podIdentity.listen.bind(podIdentity);
    const peers = await listen(options.host, options.port, acceptPeer).catch((error: unknown) => {
      podIdentity?.close();
      throw error;
    });
    const address = hostPort(options.advertisedHost ?? options.host, peers.port);
    const operator = operatorSessions(options.operator, identity, podIdentity?.dialOperator.bind(podIdentity));
    if (podIdentity !== undefined) {
      const { keeper, refusals } = podIdentity;
      const notAfterMs = () => keeper.current?.notAfterMs;
      addIdentityMetrics({ registry: metrics.registry, prefix: "lever_agent", refusals, notAfterMs });
    }
    const discovery = new DiscoveryClient({
      clock,
      random,
      identity: {
        role: "agent",
        environment: options.environment,
        service: options.service,
        instance: options.instance,
        address,
        ...(options.zone === undefined ? {} : { zone: options.zone }),
      },
      dial: () => operator.any(),
    });
    agent = new Agent({
      clock,
      random,
      identity,
      zone: options.zone,
      discovery,
      dial: (to) =>
        podIdentity === undefined ? dialTcp(to, peerDialTimeoutMs) : podIdentity.dialInstance(to, peerDialTimeoutMs),
      observer: metrics,
      ownership: {
        leaseClock: hostLeaseClock(),
        address,
        dialLeader: (leader) => operator.leader(leader),
      },
    });
    const started = agent;
    const listeners = [peers];
    try {
      listeners.push(await listenUnix(options.socketPath, (transport) => started.acceptApp(transport)));
      if (options.forwardPort !== undefined) {
        const listener = await listenTcp("127.0.0.1", options.forwardPort, (transport) =>
          started.acceptCaller(transport),
        );
        listeners.push(listener);
      }
      const admin =
        options.adminPort === undefined
          ? undefined
          : await startAdminServer({
              host: options.host,
              port: options.adminPort,
              registry: metrics.registry,
              ...(options.drainHook && {
                drainHook: {
                  token: options.drainHook.token,
                  drain: () => before(started.drainApp(), (options.drainHook as { timeoutMs: number }).timeoutMs),
                },
              }),
              whyNotReady: () => {
                const noIdentity = podIdentity?.keeper.whyNotReady();
                if (noIdentity !== undefined || started.isReady) return noIdentity;
                return started.isDraining ? "draining" : "the app has not registered its methods";
              },
            });
      return new HostedAgent(started, metrics, discovery, listeners, admin, podIdentity, address, options.socketPath);
    } catch (error) {
      for (const listener of listeners) listener.close();
      podIdentity?.close();
      discovery.close();
      started.close();
      throw error;
    }
  }

  /** Takes no new calls, waits for those that run, at most `timeoutMs`; then ends. */
  async drain(timeoutMs: number): Promise<void> {
    await before(this.agent.drain(), timeoutMs);
    this.close();
  }

  close(): void {
    for (const listener of this.#listeners) listener.close();
    this.#admin?.close();
    this.#podIdentity?.close();
    this.#discovery.close();
    this.agent.close();
  }
}

/** When it is done, or after `timeoutMs`. */
async function before(done: Promise<void>, timeoutMs: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, timeoutMs);
  });
  await Promise.race([done, late]);
  clearTimeout(timer);
}

/** For messages: what a system's error at listening means. */
export function listenProblem(error: unknown, what: string, flag: string): LeverError {
  const code = (error as { code?: unknown }).code;
  const why =
    code === "EADDRINUSE"
      ? "it is in use; end the other process or choose another with"
      : code === "EACCES"
        ? "it may not be used by this user; choose another with"
        : `${error instanceof Error ? error.message : String(error)}; see`;
  return new LeverError("INVALID_OPTION", `cannot listen on ${what}: ${why} ${flag}`, { cause: error });
}
