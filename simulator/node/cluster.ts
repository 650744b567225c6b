/**
 * One environment: the operator, instances (a machine with an agent and an app), callers, and what a source of instances
 * knows of them: which exist, and when the process of an app has ended.
 */

import type { ServicePolicy } from "@leveros/protocol/control/discovery.ts";
import { FencedStore } from "../app/fenced-store.ts";
import { RoomMethods } from "../app/room.ts";
import type { Observer } from "../check/history.ts";
import type { Machine } from "../world/machine.ts";
import type { Network } from "../world/network.ts";
import { AgentNode } from "./agent-node.ts";
import { ApiServer } from "./api-server.ts";
import { AppNode } from "./app-node.ts";
import { OperatorNode } from "./operator-node.ts";

export const environment = "dev";
export const service = "rooms";

/** A machine with one agent and one app. */
export class Place {
  readonly machine: Machine;
  readonly instance: string;
  readonly #network: Network;
  readonly #service: string | undefined;
  agent: AgentNode;
  app: AppNode;
  /** It is about to end as planned. */
  isDraining = false;
  /** For good. */
  isGone = false;
  #agents = 0;
  #apps = 0;

  constructor(network: Network, service: string | undefined, instance: string) {
    this.#network = network;
    this.#service = service;
    this.instance = instance;
    this.machine = network.world.machine(instance);
    this.agent = this.#makeAgent();
    this.app = this.#makeApp();
  }

  get #facts() {
    const { machine, instance } = this;
    const ofService = this.#service === undefined ? {} : { service: this.#service };
    return { network: this.#network, machine, environment, instance, socket: `unix:${instance}`, ...ofService };
  }

  #makeAgent(): AgentNode {
    return new AgentNode({ ...this.#facts, address: `${this.instance}:3837`, restarts: this.#agents++ });
  }

  #makeApp(): AppNode {
    return new AppNode({ ...this.#facts, restarts: this.#apps++ });
  }

  restartAgent(): void {
    if (!this.agent.process.isAlive) this.agent = this.#makeAgent();
  }

  restartApp(): AppNode {
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
  readonly observer: Observer;
  readonly apiServer: ApiServer;
  readonly operatorMachine: Machine;
  readonly callers: Place[] = [];
  operator: OperatorNode;
  readonly #store: FencedStore;
  readonly #policy: ServicePolicy;
  /** The instances of the service that are not known to be gone. */
  readonly places = new Map<string, Place>();
  #instances = 0;
  #operators = 0;
  #runs = 0;

  constructor(network: Network, observer: Observer, policy: ServicePolicy) {
    this.network = network;
    this.observer = observer;
    this.#policy = policy;
    this.#store = new FencedStore(network.world, observer);
    this.apiServer = new ApiServer(network.world);
    this.operatorMachine = network.world.machine("operator");
    this.operator = this.#makeOperator();
  }

  /** Instances that are there and do not drain. */
  get instances(): Place[] {
    return [...this.places.values()].filter(({ isGone, isDraining }) => !isGone && !isDraining);
  }

  // ---------------------------------------------------------------- the operator

  #makeOperator(): OperatorNode {
    const operator = new OperatorNode({
      network: this.network,
      machine: this.operatorMachine,
      apiServer: this.apiServer,
      restarts: this.#operators++,
    });
    operator.declare(environment, service, this.#policy);
    for (const { instance } of this.places.values()) operator.upsert({ environment, service, instance });
    return operator;
  }

  /** A new process, which gets to know what there is. */
  restartOperator(): void {
    if (!this.operator.process.isAlive) this.operator = this.#makeOperator();
  }

  #tellOperator(tell: (operator: OperatorNode) => void): void {
    const { operator } = this;
    operator.process.run(() => tell(operator));
  }

  // ---------------------------------------------------------------- instances

  addInstance(): Place {
    const instance = `rooms-${++this.#instances}`;
    const place = new Place(this.network, service, instance);
    this.places.set(instance, place);
    this.#tellOperator((operator) => operator.upsert({ environment, service, instance }));
    this.#serve(place);
    return place;
  }

  addCaller(name: string): Place {
    const place = new Place(this.network, undefined, name);
    this.callers.push(place);
    return place;
  }

  #serve(place: Place): void {
    const { app } = place;
    const { process } = app;
    app.serve(
      new RoomMethods({
        app: process.name,
        process,
        observer: this.observer,
        store: this.#store,
        nextRun: () => ++this.#runs,
      }),
    );
  }

  /** The app's process ends; that is known after a while. */
  killApp(place: Place, provenAfterMs: number): void {
    const { process } = place.app;
    process.kill();
    this.observer.died(process.name, this.network.world.now());
    this.#proveEnd(place, provenAfterMs);
  }

  /** A source has seen that the app's process has ended. */
  #proveEnd(place: Place, afterMs: number): void {
    void place;
    void afterMs;
  }

  restartApp(place: Place): void {
    if (place.isGone || place.app.process.isAlive) return;
    place.restartApp();
    this.#serve(place);
  }

  /** Ends it as a rollout does. */
  drain(place: Place): void {
    const { app } = place;
    place.isDraining = true;
    app.end(() => {
      // It has exited.
      this.killApp(place, 5);
      place.kill();
      this.remove(place);
    });
  }

  /** As a rollout: another one first. */
  replace(place: Place): void {
    const next = this.addInstance();
    // It takes a moment until it serves.
    this.network.world.after(this.network.world.random.between(500, 1500), () => {
      if (!place.isGone && next.app.process.isAlive) this.drain(place);
    });
  }

  evict(place: Place): void {
    void place;
  }

  powerOff(place: Place): void {
    this.network.powerOff(place.machine);
    const { process } = place.app;
    place.kill();
    this.observer.died(process.name, this.network.world.now());
  }

  /** It is known that the instance is no more. */
  remove(place: Place): void {
    const { instance } = place;
    this.places.delete(instance);
    this.#tellOperator((operator) => operator.remove({ environment, service, instance }));
  }
}
