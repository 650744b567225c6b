/**
 * All of Lever for a folder of manifests on one machine: the operator's core fed by local processes, an agent for each
 * instance, and the instances themselves. `lever dev` adds a gateway; what it prints is its own.
 *
 * Local agents are hosted in this process and linked by loopback TCP, exactly as if they were sidecars, or run as
 * processes of their own (`agents: "process"`).
 */

import { mkdtempSync, rmSync } from "node:fs";
import path from "node:path";
import type { Agent } from "@leveros/agent/core/agent.ts";
import { HostedAgent } from "@leveros/agent/host/hosted-agent.ts";
import type { Clock } from "@leveros/protocol/clock/clock.ts";
import { runtimeClock } from "@leveros/protocol/clock/runtime-clock.ts";
import { type InstanceState, operatorEnvironment } from "@leveros/protocol/control/discovery.ts";
import { handOverFetchMs } from "@leveros/protocol/control/lease.ts";
import type { Registration } from "@leveros/protocol/control/registration.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import {
  type AdminActions,
  AdminMethods,
  type AdminService,
  type AdminSource,
  type HeldCalls,
  type InstanceFacts,
} from "../admin/admin-methods.ts";
import type { AttachReport, GatewayReport, OperatorReport, SlotFacts } from "../admin/admin-report.ts";
import { slotFacts } from "../admin/slot-facts.ts";
import { resolveEnv } from "../api/container-env.ts";
import { changeProblems } from "../api/manifest-change.ts";
import { type ManifestProblem, problemAt } from "../api/manifest-problem.ts";
import type { ManifestSet } from "../api/manifest-reader.ts";
import { type LeverService, servicePolicy } from "../api/v1alpha1/lever-service.ts";
import type { InstanceProcess } from "../core/ownership/holder.ts";
import { MemorySlotStore } from "../core/ownership/slot-store.ts";
import type { InstanceKey, ServiceRegistry } from "../core/service-registry.ts";
import { operatorVersion } from "../version.ts";
import { probeAgent } from "./agent-probe.ts";
import { AgentProcess } from "./agent-process.ts";
import { devCommand } from "./dev-command.ts";
import { FolderWatch } from "./folder-watch.ts";
import { LocalOperator } from "./local-operator.ts";
import { type LocalProgram, LocalWorkload, replicasMax } from "./local-workload.ts";
import { ProcessSupervisor } from "./process-supervisor.ts";
import { commandLine } from "./shell-line.ts";
import { socketFolder } from "./socket-folder.ts";

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
  /** The gateway serves what `spec.access.gateway` exposes, as in a cluster. Unless set it serves everything. */
  readonly onlyExposed?: boolean;
  /** Lines for people. */
  onMessage(message: string): void;
  onRegistered?(instance: InstanceKey, registration: Registration): void;
  onState?(instance: InstanceKey, state: InstanceState): void;
}

/** A service that is run here. */
export interface LocalService {
  readonly environment: string;
  readonly service: string;
  readonly plan: ServicePlan;
  readonly workload: LocalWorkload;
  /** Wall-clock ms. */
  readonly declaredAt: number;
}

interface LocalAgent {
  readonly adminPort: number | undefined;
  /** Where it is hosted by this process. */
  readonly agent?: Agent;
  close(): void | Promise<void>;
}

/** A door from outside, with the agent core behind it. */
export interface LocalGateway extends GatewayReport {
  readonly agent: Agent;
}

interface Running {
  readonly starting: Promise<LocalAgent>;
  /** Once it has started. */
  agent: LocalAgent | undefined;
}

export class LocalEnvironment implements AdminSource, AdminActions {
  readonly #options: LocalEnvironmentOptions;
  #manifests: ManifestSet;
  readonly #clock: Clock;
  /** Outlives the operator. */
  readonly #slotStore = new MemorySlotStore();
  readonly #admin: AdminMethods;
  #operator: LocalOperator;
  readonly #supervisor: ProcessSupervisor;
  readonly #services = new Map<string, LocalService>();
  /** Of the agents' sockets. */
  readonly #directory: string;
  #socketCount = 0;
  /** By instance; of those that this process runs. */
  readonly #running = new Map<string, Running>();
  /** Instances that `lever run` runs, by id. */
  readonly #attached = new Map<string, InstanceKey>();
  readonly #gateways: LocalGateway[] = [];
  /** Agents that are about to end. */
  readonly #closing = new Set<Promise<void>>();
  readonly #watches = new Map<string, FolderWatch>();
  #isWatching = false;
  #stopped: Promise<void> | undefined;

  private constructor(options: LocalEnvironmentOptions, clock: Clock) {
    this.#options = options;
    this.#manifests = options.manifests;
    this.#clock = clock;
    this.#admin = new AdminMethods(this, Date.now, this);
    this.#operator = this.#newOperator();
    this.#supervisor = new ProcessSupervisor({ clock });
    this.#directory = mkdtempSync(path.join(socketFolder(), "lever-"));
  }

  /** The commands and variables of all services, or what is wrong with them; nothing is started. */
  static async plan(
    manifests: ManifestSet,
    env: Readonly<Record<string, string>>,
  ): Promise<{ plans: ServicePlan[]; problems: ManifestProblem[] }> {
    const plans: ServicePlan[] = [];
    const problems: ManifestProblem[] = [];
    for (const service of manifests.services) {
      const place = (...fields: string[]) => manifests.locate(service).place(fields);
      const { replicas } = service.spec;
      if (replicas > replicasMax) {
        const remedy = "One machine runs no more of them; lower the number.";
        const expected = `at most ${replicasMax} where services run locally`;
        const field = ["spec", "replicas"];
        problems.push(problemAt(place(...field), "local-replicas", field, String(replicas), expected, remedy));
      }
      const { namespace } = service.metadata;
      if (namespace === operatorEnvironment) {
        const field = ["metadata", "namespace"];
        const expected = "another environment: this one is Lever's own";
        problems.push(problemAt(place(...field), "own-namespace", field, namespace, expected, "Choose another name."));
      }
      problems.push(...resolveEnv(manifests, service, { instance: service.metadata.name, overrides: env }).problems);
      const found = await devCommand(manifests, service);
      if ("problem" in found) problems.push(found.problem);
      else plans.push({ service, command: shellLine(found.command), directory: found.command.directory });
    }
    return { plans, problems };
  }

  /** The operator's part, listening; no instance is started yet. */
  static async open(options: LocalEnvironmentOptions, plans: readonly ServicePlan[]): Promise<LocalEnvironment> {
    const environment = new LocalEnvironment(options, runtimeClock(globalThis));
    for (const plan of plans) environment.#declare(plan);
    await environment.#operator.listen();
    return environment;
  }

  /** `host:port` of the operator, for a gateway. */
  get operatorAddress(): string {
    return this.#operator.address;
  }

  get registry(): ServiceRegistry {
    return this.#operator.registry;
  }

  /** In the order of their declaration. */
  get localServices(): readonly LocalService[] {
    return [...this.#services.values()];
  }

  service(environment: string, service: string): LocalService | undefined {
    return this.#services.get(`${environment}/${service}`);
  }

  /** Starts the instances of all services. */
  run(): void {
    for (const { workload, plan } of this.#services.values()) workload.scale(plan.service.spec.replicas);
  }

  /** From now on an instance is replaced when something in its service's folder changes; manifests do not count. */
  watch(): void {
    this.#isWatching = true;
    for (const service of this.#services.values()) this.#watch(service);
  }

  /**
   * What cannot become of the services that run, as the manifests say it now: none of the changes is to be applied then.
   */
  problemsOfChange(manifests: ManifestSet): ManifestProblem[] {
    return manifests.services.flatMap((after) => {
      const before = this.service(after.metadata.namespace, after.metadata.name)?.plan.service;
      return before === undefined ? [] : changeProblems(manifests, before, after);
    });
  }

  /**
   * Makes what runs what the manifests say now: services are added, removed and scaled, their instances replaced where
   * what is to run has changed. `plans` are those of `manifests`, without problems. Resolves when all is under way and
   * removed services have ended.
   */
  async apply(manifests: ManifestSet, plans: readonly ServicePlan[]): Promise<void> {
    const { onMessage } = this.#options;
    const formerManifests = this.#manifests;
    this.#manifests = manifests;
    const names = new Set(plans.map(nameOf));
    const ended = this.localServices.filter(({ plan }) => !names.has(nameOf(plan)));
    for (const { plan } of ended) onMessage(`${nameOf(plan)} is gone from the manifests: its instances end.`);
    const endings = ended.map((service) => this.#remove(service));
    for (const plan of plans) {
      const name = nameOf(plan);
      const former = this.#services.get(name);
      if (former === undefined) {
        onMessage(`${name} is new: ${counted(plan.service.spec.replicas, "instance")}.`);
        this.#declare(plan).workload.scale(plan.service.spec.replicas);
      } else if ((former.plan.service.spec.ownership === undefined) !== (plan.service.spec.ownership === undefined)) {
        // No instance could tell what of its resources is known elsewhere.
        onMessage(
          `${name} ${plan.service.spec.ownership === undefined ? "no longer holds" : "now holds"} resources: it begins anew.`,
        );
        endings.push(
          this.#remove(former).then(() => {
            if (this.#stopped === undefined) this.#declare(plan).workload.scale(plan.service.spec.replicas);
          }),
        );
      } else this.#change(former, plan, formerManifests);
    }
    await Promise.all(endings);
  }

  /** From now on it is listed, and asked for the calls that it holds. */
  addGateway(gateway: LocalGateway): void {
    this.#gateways.push(gateway);
  }

  /** Ends the operator, and begins another one at the same port that finds what is there; instances run on. */
  async restartOperator(): Promise<void> {
    const { port } = this.#operator;
    this.#operator.close();
    this.#operator = this.#newOperator();
    for (const { environment, service, plan, workload } of this.#services.values()) {
      this.#tell(plan);
      for (const { id, state } of workload.status()) {
        if (!this.#running.has(id)) continue;
        this.registry.upsertInstance({ environment, service, instance: id, isDraining: state === "Stopping" });
      }
    }
    for (const key of this.#attached.values()) this.registry.upsertInstance(key);
    await this.#operator.listen(port);
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
    for (const watch of this.#watches.values()) watch.close();
    await Promise.all(this.localServices.map(({ workload }) => workload.stop()));
    await this.#supervisor.stopAll();
    // Each instance has ended, and taken its agent with it.
    await Promise.all(this.#closing);
    this.#operator.close();
    rmSync(this.#directory, { recursive: true, force: true });
  }

  // ---------------------------------------------------------------- for AdminMethods

  operator(): OperatorReport {
    const gateways = this.#gateways.map(({ agent: _, ...ports }) => ports);
    const address = this.operatorAddress;
    return {
      version: operatorVersion,
      address,
      pid: process.pid,
      replica: null,
      leader: null,
      otherReplicas: 0,
      gateways,
    };
  }

  services(): AdminService[] {
    return this.localServices.map(({ environment, service, workload, declaredAt }) => ({
      environment,
      service,
      desired: workload.replicas + this.#attachedTo(environment, service).length,
      waiting: workload.status().filter(({ state }) => state === "BackOff").length,
      declaredAt,
    }));
  }

  factsOf({ environment, service, instance }: InstanceKey): InstanceFacts {
    const status = this.service(environment, service)
      ?.workload.status()
      .find(({ id }) => id === instance);
    return {
      pid: status?.pid ?? null,
      restarts: status?.restarts ?? 0,
      adminPort: this.#running.get(instance)?.agent?.adminPort ?? null,
      isAttached: this.#attached.has(instance),
      node: null,
      podUid: null,
      problem: null,
    };
  }

  slotFacts(environment: string, service: string, slot: number): SlotFacts | undefined {
    const explanation = this.#operator.leader.explain(environment, service, slot);
    return explanation === undefined ? undefined : slotFacts(explanation);
  }

  heldCalls(environment: string, service: string, slot: number): HeldCalls {
    const asked: [string, Agent][] = this.#gateways.map(({ agent }) => ["gateway", agent]);
    let agentsNotAsked = this.#attached.size;
    for (const [instance, { agent }] of this.#running) {
      if (agent?.agent !== undefined) asked.push([instance, agent.agent]);
      else agentsNotAsked++;
    }
    const byAgent = asked.map(([name, agent]) => ({
      agent: name,
      calls: agent.heldBySlot(environment, service).get(slot) ?? 0,
    }));
    return { byAgent: byAgent.filter(({ calls }) => calls > 0), agentsNotAsked };
  }

  probeAgent(address: string): Promise<string> {
    return probeAgent(address, this.#clock);
  }

  async evict({ environment, service, instance }: InstanceKey): Promise<string> {
    if (this.#attached.has(instance)) {
      throw new LeverError("INVALID_ARGUMENTS", `${instance} is run by \`lever run\`; end it there`);
    }
    const { workload } = this.#serviceOf(environment, service);
    return (await workload.replace(instance)).id;
  }

  scale(environment: string, service: string, replicas: number): number {
    const { workload } = this.#serviceOf(environment, service);
    const before = workload.replicas;
    workload.scale(replicas);
    return before;
  }

  attach(environment: string, service: string): AttachReport {
    const instance = this.#serviceOf(environment, service).workload.attach();
    const key = { environment, service, instance };
    this.#attached.set(instance, key);
    this.registry.upsertInstance(key);
    this.#options.onMessage(`${instance} is attached by \`lever run\`.`);
    return { ...key, operator: this.operatorAddress };
  }

  detach(key: InstanceKey, hasExited: boolean): void {
    this.#attached.delete(key.instance);
    this.service(key.environment, key.service)?.workload.detach(key.instance);
    this.#gone(key, hasExited);
    this.#options.onMessage(`${key.instance} is attached no more.`);
  }

  #attachedTo(environment: string, service: string): InstanceKey[] {
    return [...this.#attached.values()].filter((key) => key.environment === environment && key.service === service);
  }

  #serviceOf(environment: string, service: string): LocalService {
    const found = this.service(environment, service);
    if (found === undefined) throw new LeverError("SERVICE_NOT_FOUND", `${environment}/${service} is not run here`);
    return found;
  }

  // ---------------------------------------------------------------- inside

  #newOperator(): LocalOperator {
    const { onRegistered, onState } = this.#options;
    return new LocalOperator({
      clock: this.#clock,
      store: this.#slotStore,
      admin: this.#admin,
      observer: {
        ...(onRegistered === undefined ? {} : { onRegistered }),
        onState: (key, state) => {
          if (state === "Serving") this.service(key.environment, key.service)?.workload.serving(key.instance);
          onState?.(key, state);
        },
      },
    });
  }

  /** The source knows the instance no more; `hasExited`: nothing of its process is left, which is proof of what it has. */
  #gone(key: InstanceKey, hasExited: boolean): void {
    this.registry.removeInstance(key);
    if (hasExited) this.#processEnded(key, "app");
  }

  #processEnded(key: InstanceKey, process: InstanceProcess): void {
    this.#operator.leader.processEnded(key, process);
  }

  #declare(plan: ServicePlan): LocalService {
    const { namespace: environment, name } = plan.service.metadata;
    this.#tell(plan);
    const service = { environment, service: name, plan, workload: this.#workload(plan), declaredAt: Date.now() };
    this.#services.set(nameOf(plan), service);
    if (this.#isWatching) this.#watch(service);
    return service;
  }

  /** Tells agents of the service, with the one exception that is made on a developer's machine. */
  #tell({ service }: ServicePlan): void {
    const { namespace, name } = service.metadata;
    const policy = servicePolicy(service);
    const gateway = this.#options.onlyExposed === true ? policy.access.gateway : { expose: "Public" as const };
    this.#operator.admit(namespace);
    this.registry.declareService(namespace, name, { ...policy, access: { ...policy.access, gateway } });
  }

  async #remove({ environment, service, plan, workload }: LocalService): Promise<void> {
    this.#watches.get(nameOf(plan))?.close();
    this.#watches.delete(nameOf(plan));
    await workload.stop();
    this.#services.delete(nameOf(plan));
    this.registry.removeService(environment, service);
  }

  #change(former: LocalService, plan: ServicePlan, formerManifests: ManifestSet): void {
    const { workload } = former;
    const changed: LocalService = { ...former, plan };
    this.#services.set(nameOf(plan), changed);
    this.#tell(plan);
    const { onMessage } = this.#options;
    const { replicas } = plan.service.spec;
    // Otherwise it stays at what `lever scale` has made of it.
    if (replicas !== former.plan.service.spec.replicas) {
      onMessage(`${nameOf(plan)} has ${counted(replicas, "instance")} from now on.`);
      workload.scale(replicas);
    }
    if (this.#programText(former.plan, formerManifests) === this.#programText(plan, this.#manifests)) return;
    workload.changeProgram(programOf(plan));
    if (this.#isWatching && former.plan.directory !== plan.directory) this.#watch(changed);
    this.#restart(changed, "its manifest has changed");
  }

  /** All that a manifest says of what an instance is. */
  #programText(plan: ServicePlan, manifests: ManifestSet): string {
    const { service } = plan;
    const { env } = resolveEnv(manifests, service, { instance: "", overrides: this.#options.env });
    return JSON.stringify([programOf(plan), env]);
  }

  #restart({ plan, workload }: LocalService, why: string): void {
    if (workload.replicas === 0) return;
    this.#options.onMessage(`${nameOf(plan)}: ${why}: its instances are replaced, one after the other.`);
    void workload.restart();
  }

  #watch(service: LocalService): void {
    const name = nameOf(service.plan);
    this.#watches.get(name)?.close();
    const { directory } = service.plan;
    const watch = new FolderWatch({
      directory,
      clock: this.#clock,
      counts: (file) => !this.#isManifest(file),
      onChange: (file) => {
        const current = this.#services.get(name);
        if (current !== undefined) this.#restart(current, `${path.relative(directory, file)} has changed`);
      },
      onProblem: (text) => this.#options.onMessage(`${name}: ${text}.`),
    });
    this.#watches.set(name, watch);
  }

  #isManifest(file: string): boolean {
    return this.#manifests.files.some((name) => path.resolve(name) === file);
  }

  #workload(plan: ServicePlan): LocalWorkload {
    const { namespace: environment, name } = plan.service.metadata;
    return new LocalWorkload({
      ...programOf(plan),
      service: name,
      environment,
      env: {},
      supervisor: this.#supervisor,
      clock: this.#clock,
      random: Math.random,
      prepareInstance: (id) => this.#prepare({ environment, service: name, instance: id }),
      onStopping: (id) => this.registry.upsertInstance({ environment, service: name, instance: id, isDraining: true }),
      onExit: (id, { survivorsOf }) =>
        this.#exited({ environment, service: name, instance: id }, survivorsOf === undefined),
      onMessage: this.#options.onMessage,
    });
  }

  async #prepare(key: InstanceKey): Promise<Record<string, string>> {
    const plan = this.service(key.environment, key.service)?.plan;
    if (plan === undefined) throw new LeverError("INTERNAL", `${key.service} is not run here any more`);
    const { env } = resolveEnv(this.#manifests, plan.service, {
      instance: key.instance,
      overrides: this.#options.env,
    });
    this.registry.upsertInstance(key);
    const socketPath = path.join(this.#directory, `${++this.#socketCount}.sock`);
    const running: Running = { starting: this.#startAgent(key, socketPath), agent: undefined };
    this.#running.set(key.instance, running);
    running.agent = await running.starting;
    return { ...env, LEVER_AGENT: `unix://${socketPath}`, LEVER_SHOW_ERRORS: "1" };
  }

  #exited(key: InstanceKey, isProven: boolean): void {
    this.#gone(key, isProven);
    const running = this.#running.get(key.instance);
    if (running === undefined) return;
    this.#running.delete(key.instance);
    // One that did not start has nothing to end.
    const isLast = this.#stopped !== undefined;
    const closed = running.starting
      // What the instance left is for the next holders, if there are any.
      .then((agent) => (agent instanceof HostedAgent && !isLast ? agent.drain(handOverFetchMs) : agent.close()))
      .catch(() => {});
    this.#closing.add(closed);
    void closed.then(() => {
      this.#closing.delete(closed);
      this.#processEnded(key, "agent");
    });
  }

  async #startAgent(key: InstanceKey, socketPath: string): Promise<LocalAgent> {
    const operator = this.operatorAddress;
    if (this.#options.agents === "hosted") {
      return HostedAgent.start({ ...key, operator, socketPath, host, port: 0, adminPort: 0 });
    }
    const { onMessage } = this.#options;
    const agent = new AgentProcess({
      instance: key,
      socketPath,
      operator,
      host,
      clock: this.#clock,
      onMessage,
      onExit: () => this.#processEnded(key, "agent"),
    });
    await agent.start();
    return agent;
  }
}

function nameOf({ service: { metadata } }: ServicePlan): string {
  return `${metadata.namespace}/${metadata.name}`;
}

function programOf({ service, command, directory }: ServicePlan): LocalProgram {
  const grace = service.spec.template.spec.terminationGracePeriodSeconds;
  return { command, directory, ...(typeof grace === "number" ? { gracePeriodMs: grace * 1000 } : {}) };
}

function counted(count: number, noun: string): string {
  return count === 0 ? `no ${noun}s` : `${count} ${noun}${count === 1 ? "" : "s"}`;
}

/** `sh -c LINE` is the line itself. */
function shellLine({ program, args }: { readonly program: string; readonly args: readonly string[] }): string {
  if (program === "sh" && args[0] === "-c" && args.length === 2) return args[1] as string;
  return commandLine([program, ...args]);
}
