/**
 * One environment: the operator, instances (a machine with an agent and an app), callers, and what a source of instances
 * knows of them: which exist, and when the process of an app has ended.
 */

import type { InstanceProcess } from "@leveros/operator/core/ownership/holder.ts";
import type { ServicePolicy } from "@leveros/protocol/control/discovery.ts";
import { handOverFetchMs } from "@leveros/protocol/control/lease.ts";
import type { Machine } from "../world/machine.ts";
import type { Network } from "../world/network.ts";
import type { SimProcess } from "../world/sim-process.ts";
import { AgentNode } from "./agent-node.ts";
import { ApiServer } from "./api-server.ts";
import { AppNode } from "./app-node.ts";
import { OperatorNode } from "./operator-node.ts";

/** Learns what becomes of processes. */
export interface ProcessObserver {
  stopped(process: string, fromMs: number, toMs: number): void;
  died(process: string, atMs: number): void;
  /** Services were deleted, and are made anew: what they had kept is gone. */
  madeAnew(): void;
  /** What apps and agents of the machine say to each other is under way for long, now or later. */
  slowedWithin(machine: string): void;
}

export const environment = "dev";

/** A service of the environment. */
export interface ServiceNode {
  readonly name: string;
  readonly policy: ServicePolicy;
  /** Makes a new process of an app serve. */
  serve(app: AppNode): void;
}

/** A machine with one agent and one app. */
export class Place {
  readonly machine: Machine;
  readonly instance: string;
  readonly service: string | undefined;
  readonly #network: Network;
  agent: AgentNode;
  app: AppNode;
  /** It is about to end as planned. */
  isDraining = false;
  /** It is to hold nothing, for a while. */
  isEvicted = false;
  /** For good. */
  isGone = false;
  /** No process of its app is left, and that is known. */
  isAppEnded = false;
  /** The same of its agent. */
  isAgentEnded = false;
  /** By the machine's wall clock, in whole seconds: when the last process of the kind ended, and when the present began. */
  readonly finishedAt: Partial<Record<InstanceProcess, number>> = {};
  readonly #beganAt: Record<InstanceProcess, number>;
  #agents = 0;
  #apps = 0;

  constructor(network: Network, service: string | undefined, instance: string) {
    this.#network = network;
    this.service = service;
    this.instance = instance;
    this.machine = network.world.machine(instance);
    this.#beganAt = { app: this.wallSeconds, agent: this.wallSeconds };
    this.agent = this.#makeAgent();
    this.app = this.#makeApp();
  }

  /** As containers' times are told. */
  get wallSeconds(): number {
    return Math.floor(this.machine.wallMs(this.#network.world.now()) / 1000) * 1000;
  }

  /** As the status of a pod proves it now (R11): processes that began before this time have ended. */
  endedBefore(process: InstanceProcess): number | undefined {
    const finishedAt = this.finishedAt[process];
    if (finishedAt === undefined) return undefined;
    const isRunning = !this.isGone && (process === "app" ? this.app : this.agent).process.isAlive;
    return Math.min(finishedAt - 1000, isRunning ? this.#beganAt[process] : Number.POSITIVE_INFINITY);
  }

  get address(): string {
    return `${this.instance}:3837`;
  }

  get #facts() {
    const { machine, instance } = this;
    const ofService = this.service === undefined ? {} : { service: this.service };
    return { network: this.#network, machine, environment, instance, socket: `unix:${instance}`, ...ofService };
  }

  #makeAgent(): AgentNode {
    return new AgentNode({ ...this.#facts, address: this.address, restarts: this.#agents++ });
  }

  #makeApp(): AppNode {
    return new AppNode({ ...this.#facts, restarts: this.#apps++ });
  }

  restartAgent(): void {
    if (this.agent.process.isAlive) return;
    this.isAgentEnded = false;
    this.#beganAt.agent = this.wallSeconds;
    this.agent = this.#makeAgent();
  }

  restartApp(): AppNode {
    this.#beganAt.app = this.wallSeconds;
    this.app = this.#makeApp();
    return this.app;
  }

  kill(): void {
    this.isGone = true;
    this.app.kill();
    this.agent.kill();
  }
}

export class Cluster {
  readonly network: Network;
  readonly apiServer: ApiServer;
  readonly provesByTime: boolean;
  readonly operatorMachine: Machine;
  readonly callers: Place[] = [];
  /** The instances that are not known to be gone. */
  readonly places = new Map<string, Place>();
  operator: OperatorNode;
  readonly #services: ReadonlyMap<string, ServiceNode>;
  readonly #observer: ProcessObserver;
  #isRemoved = false;
  readonly #counts = new Map<string, number>();
  #operators = 0;
  #operatorSinceMs = 0;

  /**
   * `provesByTime`: the ends of processes are told as Kubernetes tells them, late, by the time of the machine, and also
   * when others run already. Else in the order of events.
   */
  constructor(
    network: Network,
    services: readonly ServiceNode[],
    observer: ProcessObserver,
    { provesByTime = false } = {},
  ) {
    this.network = network;
    this.provesByTime = provesByTime;
    this.#services = new Map(services.map((service) => [service.name, service]));
    this.#observer = observer;
    this.apiServer = new ApiServer(network.world);
    this.operatorMachine = network.world.machine("operator");
    this.operator = this.#makeOperator();
  }

  get serviceNames(): string[] {
    return [...this.#services.keys()];
  }

  /** Instances that are there and do not drain. */
  get instances(): Place[] {
    return [...this.places.values()].filter((place) => !place.isGone && !place.isDraining && !place.isEvicted);
  }

  // ---------------------------------------------------------------- the operator

  /** When the present operator began. */
  get operatorSinceMs(): number {
    return this.#operatorSinceMs;
  }

  #makeOperator(): OperatorNode {
    this.#operatorSinceMs = this.network.world.now();
    const operator = new OperatorNode({
      network: this.network,
      machine: this.operatorMachine,
      apiServer: this.apiServer,
      restarts: this.#operators++,
    });
    if (!this.#isRemoved) this.#declare(operator);
    return operator;
  }

  #declare(operator: OperatorNode): void {
    for (const { name, policy } of this.#services.values()) operator.declare(environment, name, policy);
    for (const place of this.places.values()) {
      // As tables that outlive an operator say.
      const wasServing = place.app.process.isAlive && place.agent.process.isAlive;
      operator.upsert({ ...sourceOf(place), address: place.address, wasServing });
      if (this.provesByTime) {
        for (const kind of ["app", "agent"] as const) {
          const endedBefore = place.endedBefore(kind);
          if (endedBefore !== undefined) operator.processEnded(keyOf(place), kind, endedBefore);
        }
      }
      if (place.isAppEnded) operator.processEnded(keyOf(place), "app");
      if (place.isAgentEnded) operator.processEnded(keyOf(place), "agent");
    }
  }

  /** A new process, which gets to know what there is. */
  restartOperator(): void {
    if (!this.operator.process.isAlive) this.operator = this.#makeOperator();
  }

  /** Nobody wants them any more; their instances stay. False if that was so before. */
  removeService(): boolean {
    if (this.#isRemoved) return false;
    this.#isRemoved = true;
    this.#tellOperator((operator) => {
      for (const name of this.#services.keys()) operator.removeService(environment, name);
    });
    return true;
  }

  /** They are there again: for another operator than before, or for the same. */
  makeService(isForAnother: boolean): void {
    this.#isRemoved = false;
    this.#observer.madeAnew();
    if (!isForAnother) return this.#tellOperator((operator) => this.#declare(operator));
    this.operator.kill();
    this.restartOperator();
  }

  #tellOperator(tell: (operator: OperatorNode) => void): void {
    const { operator } = this;
    operator.process.run(() => tell(operator));
  }

  // ---------------------------------------------------------------- instances

  addInstance(service: string): Place {
    const number = (this.#counts.get(service) ?? 0) + 1;
    this.#counts.set(service, number);
    const place = new Place(this.network, service, `${service}-${number}`);
    this.places.set(place.instance, place);
    this.#tellOperator((operator) => operator.upsert(sourceOf(place)));
    this.#services.get(service)?.serve(place.app);
    return place;
  }

  addCaller(name: string): Place {
    const place = new Place(this.network, undefined, name);
    this.callers.push(place);
    return place;
  }

  /** The process does nothing until then. */
  wasStopped(process: SimProcess, fromMs: number, toMs: number): void {
    this.#observer.stopped(process.name, fromMs, toMs);
  }

  /** App and agent of a place hear each other late; 0 ends it. */
  slowWithin({ machine }: Place, extraMs: number): void {
    this.network.slow(machine, machine, extraMs);
    this.#observer.slowedWithin(machine.name);
  }

  /** The app's process ends; that is known after a while. */
  killApp(place: Place, provenAfterMs: number): void {
    const { process } = place.app;
    if (!process.isAlive) return;
    process.kill();
    this.#observer.died(process.name, this.network.world.now());
    if (this.provesByTime) return this.#proveByTime(place, "app", provenAfterMs);
    this.network.world.after(provenAfterMs, () => {
      // Proofs are in the order of events: once another process may have registered, there is none.
      if (place.app.process !== process) return;
      place.isAppEnded = true;
      this.#tellOperator((operator) => operator.processEnded(keyOf(place), "app"));
    });
  }

  /** The agent's process ends; that is known after a while. */
  killAgent(place: Place, provenAfterMs: number): void {
    const { process } = place.agent;
    process.kill();
    if (this.provesByTime) return this.#proveByTime(place, "agent", provenAfterMs);
    this.network.world.after(provenAfterMs, () => {
      if (place.agent.process !== process || place.isGone) return;
      place.isAgentEnded = true;
      this.#tellOperator((operator) => operator.processEnded(keyOf(place), "agent"));
    });
  }

  #proveByTime(place: Place, kind: InstanceProcess, provenAfterMs: number): void {
    const { world } = this.network;
    place.finishedAt[kind] = place.wallSeconds;
    world.after(provenAfterMs, () => {
      const endedBefore = place.endedBefore(kind);
      if (endedBefore === undefined || place.isGone) return;
      // On its way it may be overtaken by whatever is started meanwhile.
      world.after(world.random.between(1, 3000), () => {
        if (this.places.get(place.instance) !== place) return;
        this.#tellOperator((operator) => operator.processEnded(keyOf(place), kind, endedBefore));
      });
    });
  }

  restartApp(place: Place): void {
    if (place.isGone || place.app.process.isAlive) return;
    place.isAppEnded = false;
    this.#services.get(place.service ?? "")?.serve(place.restartApp());
  }

  /** Ends it as a rollout does. */
  drain(place: Place): void {
    const { app } = place;
    place.isDraining = true;
    app.end(() => {
      // It has exited. Its agent goes when what it keeps for the next holders is fetched, or will not be.
      this.killApp(place, 5);
      this.network.world.after(handOverFetchMs, () => {
        place.kill();
        this.remove(place);
      });
    });
  }

  /** As a rollout: another one first. */
  replace(place: Place): void {
    const next = this.addInstance(place.service as string);
    // It takes a moment until it serves.
    this.network.world.after(this.network.world.random.between(500, 1500), () => {
      if (!place.isGone && next.app.process.isAlive) this.drain(place);
    });
  }

  /** It is to hold nothing, and goes on otherwise. */
  evict(place: Place, isEvicted: boolean): void {
    if (!this.places.has(place.instance)) return;
    place.isEvicted = isEvicted;
    this.#tellOperator((operator) => operator.upsert(sourceOf(place)));
  }

  /** The machine is gone, with all that it knew; who talked to it hears nothing. */
  powerOff(place: Place): void {
    this.network.powerOff(place.machine);
    const { process } = place.app;
    place.kill();
    this.#observer.died(process.name, this.network.world.now());
  }

  /** It is known that the instance is no more. */
  remove(place: Place): void {
    this.places.delete(place.instance);
    this.#tellOperator((operator) => operator.remove(keyOf(place)));
  }
}

function sourceOf(place: Place) {
  return { ...keyOf(place), isDraining: place.isEvicted };
}

function keyOf({ service = "", instance }: Place) {
  return { environment, service, instance };
}
