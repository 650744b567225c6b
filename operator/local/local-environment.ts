/**
 * All of Lever for a folder of manifests on one machine: the operator's core fed by local processes, an agent for each
 * instance, and the instances themselves. `lever dev` adds a gateway; what it prints is its own.
 *
 * Local agents are hosted in this process and linked by loopback TCP, exactly as if they were sidecars, or run as
 * processes of their own (`agents: "process"`).
 */

import { type ChildProcess, fork } from "node:child_process";
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
import type { ManifestProblem } from "../api/manifest-problem.ts";
import type { ManifestSet } from "../api/manifest-reader.ts";
import { type LeverService, methodPolicies } from "../api/v1alpha1/lever-service.ts";
import { EndpointTables } from "../core/endpoint-table.ts";
import { type InstanceKey, ServiceRegistry } from "../core/service-registry.ts";
import { DiscoveryServer } from "../discovery/discovery-server.ts";
import { devCommand } from "./dev-command.ts";
import { LocalWorkload } from "./local-workload.ts";
import { ProcessSupervisor } from "./process-supervisor.ts";

const host = "127.0.0.1";

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

/** An instance's agent, hosted here or a process of its own. */
interface LocalAgent {
  readonly adminPort: number | undefined;
  readonly pid: number;
  close(): Promise<void>;
}

export class LocalEnvironment {
  /** `host:port` of the operator's discovery, for a gateway. */
  readonly operatorAddress: string;
  readonly registry: ServiceRegistry;
  readonly workloads: readonly LocalWorkload[];
  readonly #options: LocalEnvironmentOptions;
  readonly #supervisor: ProcessSupervisor;
  readonly #discovery: DiscoveryServer;
  readonly #listener: Listener;
  readonly #directory: string;
  readonly #agents = new Map<string, Promise<LocalAgent>>();

  private constructor(
    options: LocalEnvironmentOptions,
    plans: readonly ServicePlan[],
    clock: Clock,
    registry: ServiceRegistry,
    discovery: DiscoveryServer,
    listener: Listener,
  ) {
    this.#options = options;
    this.registry = registry;
    this.#discovery = discovery;
    this.#listener = listener;
    this.operatorAddress = listener.address;
    this.#supervisor = new ProcessSupervisor({ clock });
    this.#directory = mkdtempSync(path.join(tmpdir(), "lever-"));
    this.workloads = plans.map((plan) => this.#workload(plan, clock));
  }

  /** The commands and variables of all services, or what is wrong with them; nothing is started. */
  static async plan(
    manifests: ManifestSet,
    env: Readonly<Record<string, string>>,
  ): Promise<{ plans: ServicePlan[]; problems: ManifestProblem[] }> {
    const plans: ServicePlan[] = [];
    const problems: ManifestProblem[] = [];
    for (const service of manifests.services) {
      const command = await devCommand(manifests, service);
      if ("problem" in command) problems.push(command.problem);
      problems.push(...resolveEnv(manifests, service, { instance: service.metadata.name, overrides: env }).problems);
      if (!("problem" in command)) {
        plans.push({ service, command: commandLine(command.command), directory: command.command.directory });
      }
    }
    return { plans, problems };
  }

  /** Starts everything; resolves when the instances have been started, not when they serve. */
  static async start(options: LocalEnvironmentOptions, plans: readonly ServicePlan[]): Promise<LocalEnvironment> {
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
    const environment = new LocalEnvironment(options, plans, clock, registry, discovery, listener);
    for (const [index, workload] of environment.workloads.entries()) {
      await workload.scale((plans[index] as ServicePlan).service.spec.replicas);
    }
    return environment;
  }

  #workload(plan: ServicePlan, clock: Clock): LocalWorkload {
    const { service } = plan;
    const { namespace: environment, name } = service.metadata;
    const grace = service.spec.template.spec.terminationGracePeriodSeconds;
    return new LocalWorkload({
      service: name,
      environment,
      command: plan.command,
      directory: plan.directory,
      env: {},
      ...(typeof grace === "number" ? { gracePeriodMs: grace * 1000 } : {}),
      supervisor: this.#supervisor,
      clock,
      random: Math.random,
      prepareInstance: async (id) => {
        const { env } = resolveEnv(this.#options.manifests, service, { instance: id, overrides: this.#options.env });
        const key: InstanceKey = { environment, service: name, instance: id };
        this.registry.upsertInstance(key);
        const socketPath = path.join(this.#directory, `${id}.sock`);
        const agent = this.#startAgent(key, socketPath);
        this.#agents.set(id, agent);
        await agent;
        return { ...env, LEVER_AGENT: `unix://${socketPath}`, LEVER_SHOW_ERRORS: "1" };
      },
      onExit: (id) => {
        this.registry.removeInstance({ environment, service: name, instance: id });
        const agent = this.#agents.get(id);
        this.#agents.delete(id);
        agent?.then((started) => started.close()).catch(() => {});
      },
      onMessage: this.#options.onMessage,
    });
  }

  async #startAgent(key: InstanceKey, socketPath: string): Promise<LocalAgent> {
    const { environment, service, instance } = key;
    if (this.#options.agents === "process") return startAgentProcess(key, socketPath, this.operatorAddress);
    const hosted = await HostedAgent.start({
      environment,
      service,
      instance,
      operator: this.operatorAddress,
      socketPath,
      host,
      port: 0,
      adminPort: 0,
    });
    return {
      adminPort: hosted.adminPort,
      pid: process.pid,
      close: async () => hosted.close(),
    };
  }

  /** Ends all instances gracefully, then their agents. Resolves when no process is left. */
  async stop(): Promise<void> {
    await Promise.all(this.workloads.map((workload) => workload.stop()));
    await this.#supervisor.stopAll();
    await this.#end();
  }

  /** Ends all instances at once. May follow on `stop`. */
  async kill(): Promise<void> {
    await this.#supervisor.killAll();
  }

  async #end(): Promise<void> {
    const agents = await Promise.allSettled(this.#agents.values());
    await Promise.all(agents.map((agent) => (agent.status === "fulfilled" ? agent.value.close() : undefined)));
    this.#discovery.close();
    this.#listener.close();
    this.registry.close();
    rmSync(this.#directory, { recursive: true, force: true });
  }
}

/** What is run for a service. */
export interface ServicePlan {
  readonly service: LeverService;
  readonly command: string;
  readonly directory: string;
}

/** `sh -c LINE` is the line itself; any other program and its arguments are quoted for the shell. */
function commandLine({ program, args }: { readonly program: string; readonly args: readonly string[] }): string {
  if (program === "sh" && args[0] === "-c" && args.length === 2) return args[1] as string;
  return [program, ...args].map((word) => `'${word.replaceAll("'", "'\\''")}'`).join(" ");
}

const agentStartMs = 10_000;

function startAgentProcess(key: InstanceKey, socketPath: string, operator: string): Promise<LocalAgent> {
  const child: ChildProcess = fork(new URL(import.meta.resolve("@leveros/agent/main.ts")).pathname, {
    stdio: ["ignore", "inherit", "inherit", "ipc"],
    // Ctrl-C is for this process, which ends the agents after their apps.
    detached: true,
    env: {
      ...process.env,
      LEVER_AGENT: `unix://${socketPath}`,
      LEVER_ENVIRONMENT: key.environment,
      LEVER_SERVICE: key.service,
      LEVER_INSTANCE: key.instance,
      LEVER_OPERATOR: operator,
      LEVER_HOST: host,
      LEVER_PORT: "0",
      LEVER_ADMIN_PORT: "0",
    },
  });
  const exited = new Promise<void>((resolve) => child.once("exit", () => resolve()));
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => {
      child.kill("SIGKILL");
      reject(new Error(`its agent did not start within ${agentStartMs} ms`));
    }, agentStartMs);
    child.once("exit", (code) => {
      clearTimeout(timer);
      reject(new Error(`its agent ended with exit code ${code} at its start`));
    });
    child.once("message", (message: { adminPort?: number }) => {
      clearTimeout(timer);
      resolve({
        adminPort: message.adminPort,
        pid: child.pid as number,
        close: async () => {
          child.kill("SIGTERM");
          const late = setTimeout(() => child.kill("SIGKILL"), 5000);
          await exited;
          clearTimeout(late);
        },
      });
    });
  });
}
