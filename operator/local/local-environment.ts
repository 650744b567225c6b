/**
 * All of Lever for a folder of manifests on one machine: the operator's core fed by local processes, an agent for each
 * instance, and the instances themselves. `lever dev` adds a gateway; what it prints is its own.
 *
 * Local agents are hosted in this process and linked by loopback TCP, exactly as if they were sidecars, or run as
 * processes of their own (`agents: "process"`).
 */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { HostedAgent } from "@leveros/agent/host/hosted-agent.ts";
import { type Listener, listenTcp } from "@leveros/agent/host/socket.ts";
import type { Clock } from "@leveros/protocol/clock/clock.ts";
import { runtimeClock } from "@leveros/protocol/clock/runtime-clock.ts";
import type { InstanceState } from "@leveros/protocol/control/discovery.ts";
import type { Registration } from "@leveros/protocol/control/registration.ts";
import { resolveEnv } from "../api/container-env.ts";
import { type ManifestProblem, problemAt } from "../api/manifest-problem.ts";
import type { ManifestSet } from "../api/manifest-reader.ts";
import { type LeverService, methodPolicies } from "../api/v1alpha1/lever-service.ts";
import { EndpointTables } from "../core/endpoint-table.ts";
import { type InstanceKey, ServiceRegistry } from "../core/service-registry.ts";
import { DiscoveryServer } from "../discovery/discovery-server.ts";
import { AgentProcess } from "./agent-process.ts";
import { devCommand } from "./dev-command.ts";
import { LocalWorkload, replicasMax } from "./local-workload.ts";
import { ProcessSupervisor } from "./process-supervisor.ts";

const host = "127.0.0.1";

/** What is run for a service. */
export interface ServicePlan {
  readonly service: LeverService;
  /** A line for `sh -c`. */
  readonly command: string;
  /** Absolute. */
  readonly directory: string;
}

export interface LocalEnvironmentOptions {
  /** Without problems. */
  readonly manifests: ManifestSet;
  /** `--env NAME=VALUE`, for all instances. */
  readonly env: Readonly<Record<string, string>>;
  readonly agents: "hosted" | "process";
  /** Lines for people. */
  onMessage(message: string): void;
  onRegistered?(instance: InstanceKey, registration: Registration): void;
  onState?(instance: InstanceKey, state: InstanceState): void;
}

interface LocalAgent {
  close(): void | Promise<void>;
}

export class LocalEnvironment {
  /** `host:port` of the operator's discovery, for a gateway. */
  readonly operatorAddress: string;
  readonly registry: ServiceRegistry;
  /** One for each plan, in their order. */
  readonly workloads: readonly LocalWorkload[];
  readonly #options: LocalEnvironmentOptions;
  readonly #plans: readonly ServicePlan[];
  readonly #clock: Clock;
  readonly #supervisor: ProcessSupervisor;
  readonly #discovery: DiscoveryServer;
  readonly #listener: Listener;
  /** Of the agents' sockets. */
  readonly #directory: string;
  #socketCount = 0;
  /** By instance. */
  readonly #agents = new Map<string, Promise<LocalAgent>>();
  /** Agents that are about to end. */
  readonly #closing = new Set<Promise<void>>();
  #stopped: Promise<void> | undefined;

  private constructor(
    options: LocalEnvironmentOptions,
    plans: readonly ServicePlan[],
    clock: Clock,
    registry: ServiceRegistry,
    discovery: DiscoveryServer,
    listener: Listener,
  ) {
    this.#options = options;
    this.#plans = plans;
    this.#clock = clock;
    this.registry = registry;
    this.#discovery = discovery;
    this.#listener = listener;
    this.operatorAddress = listener.address;
    this.#supervisor = new ProcessSupervisor({ clock });
    this.#directory = mkdtempSync(path.join(socketFolder(), "lever-"));
    this.workloads = plans.map((plan) => this.#workload(plan));
  }

  /** The commands and variables of all services, or what is wrong with them; nothing is started. */
  static async plan(
    manifests: ManifestSet,
    env: Readonly<Record<string, string>>,
  ): Promise<{ plans: ServicePlan[]; problems: ManifestProblem[] }> {
    const plans: ServicePlan[] = [];
    const problems: ManifestProblem[] = [];
    for (const service of manifests.services) {
      const { replicas } = service.spec;
      if (replicas > replicasMax) {
        const place = manifests.locate(service).place(["spec", "replicas"]);
        const remedy = "One machine runs no more of them; lower the number.";
        const expected = `at most ${replicasMax} where services run locally`;
        problems.push(problemAt(place, "local-replicas", ["spec", "replicas"], String(replicas), expected, remedy));
      }
      problems.push(...resolveEnv(manifests, service, { instance: service.metadata.name, overrides: env }).problems);
      const found = await devCommand(manifests, service);
      if ("problem" in found) problems.push(found.problem);
      else plans.push({ service, command: commandLine(found.command), directory: found.command.directory });
    }
    return { plans, problems };
  }

  /** The operator's part, listening; no instance is started yet. */
  static async open(options: LocalEnvironmentOptions, plans: readonly ServicePlan[]): Promise<LocalEnvironment> {
    const clock = runtimeClock(globalThis);
    const now = Date.now();
    const tables = new EndpointTables({ startVersion: now, origin: `local-${process.pid}-${now}` });
    const registry = new ServiceRegistry({
      tables,
      clock,
      observer: {
        ...(options.onRegistered === undefined ? {} : { onRegistered: options.onRegistered }),
        ...(options.onState === undefined ? {} : { onState: options.onState }),
      },
    });
    for (const { service } of plans) {
      registry.declareService(service.metadata.namespace, service.metadata.name, {
        methods: methodPolicies(service),
        limits: service.spec.limits,
      });
    }
    const discovery = new DiscoveryServer({ registry, clock });
    const listener = await listenTcp(host, 0, (transport) => discovery.accept(transport));
    return new LocalEnvironment(options, plans, clock, registry, discovery, listener);
  }

  /** Starts the instances of all services. */
  run(): void {
    for (const [index, workload] of this.workloads.entries()) {
      workload.scale((this.#plans[index] as ServicePlan).service.spec.replicas);
    }
  }

  /** Ends all instances gracefully, then their agents. Resolves when no process is left. Repeating it changes nothing. */
  stop(): Promise<void> {
    this.#stopped ??= this.#stop();
    return this.#stopped;
  }

  /** As `stop`, with SIGKILL for all instances at once. May follow on it. */
  kill(): Promise<void> {
    const stopped = this.stop();
    void this.#supervisor.killAll();
    return stopped;
  }

  async #stop(): Promise<void> {
    await Promise.all(this.workloads.map((workload) => workload.stop()));
    await this.#supervisor.stopAll();
    // Each instance has ended, and taken its agent with it.
    await Promise.all(this.#closing);
    this.#discovery.close();
    this.#listener.close();
    this.registry.close();
    rmSync(this.#directory, { recursive: true, force: true });
  }

  #workload({ service, command, directory }: ServicePlan): LocalWorkload {
    const { namespace: environment, name } = service.metadata;
    const grace = service.spec.template.spec.terminationGracePeriodSeconds;
    return new LocalWorkload({
      service: name,
      environment,
      command,
      directory,
      env: {},
      ...(typeof grace === "number" ? { gracePeriodMs: grace * 1000 } : {}),
      supervisor: this.#supervisor,
      clock: this.#clock,
      random: Math.random,
      prepareInstance: async (id) => {
        const { env } = resolveEnv(this.#options.manifests, service, { instance: id, overrides: this.#options.env });
        const key: InstanceKey = { environment, service: name, instance: id };
        this.registry.upsertInstance(key);
        const socketPath = path.join(this.#directory, `${++this.#socketCount}.sock`);
        const agent = this.#startAgent(key, socketPath);
        this.#agents.set(id, agent);
        await agent;
        return { ...env, LEVER_AGENT: `unix://${socketPath}`, LEVER_SHOW_ERRORS: "1" };
      },
      onExit: (id) => {
        this.registry.removeInstance({ environment, service: name, instance: id });
        const agent = this.#agents.get(id);
        if (agent === undefined) return;
        this.#agents.delete(id);
        // One that did not start has nothing to end.
        const closed = agent.then((started) => started.close()).catch(() => {});
        this.#closing.add(closed);
        void closed.then(() => this.#closing.delete(closed));
      },
      onMessage: this.#options.onMessage,
    });
  }

  async #startAgent(key: InstanceKey, socketPath: string): Promise<LocalAgent> {
    const operator = this.operatorAddress;
    if (this.#options.agents === "hosted") {
      return HostedAgent.start({ ...key, operator, socketPath, host, port: 0, adminPort: 0 });
    }
    const { onMessage } = this.#options;
    const agent = new AgentProcess({ instance: key, socketPath, operator, host, clock: this.#clock, onMessage });
    await agent.start();
    return agent;
  }
}

/** The system takes no socket whose path has more than about 100 characters. */
function socketFolder(): string {
  const folder = tmpdir();
  return folder.length <= 70 ? folder : "/tmp";
}

/** `sh -c LINE` is the line itself; any other program and its arguments are quoted for the shell. */
function commandLine({ program, args }: { readonly program: string; readonly args: readonly string[] }): string {
  if (program === "sh" && args[0] === "-c" && args.length === 2) return args[1] as string;
  return [program, ...args].map((word) => `'${word.replaceAll("'", "'\\''")}'`).join(" ");
}
