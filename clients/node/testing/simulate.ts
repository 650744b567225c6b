/**
 * A test on virtual time: operator, agents and the instances of services in one process, with the real cores and the real
 * client library, over a network that the test can break. What takes minutes takes milliseconds, and what chance decides
 * (delays, orders, the rates of clocks) follows from a seed.
 */

import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { isCallableName, isStreamingName } from "@leveros/protocol/target/lever-url.ts";
import { slotOf } from "@leveros/protocol/target/slot.ts";
import type { AppNode } from "@leveros/simulator/node/app-node.ts";
import { Cluster, environment, type Place, type ServiceNode } from "@leveros/simulator/node/cluster.ts";
import { Network } from "@leveros/simulator/world/network.ts";
import type { SimProcess } from "@leveros/simulator/world/sim-process.ts";
import { World } from "@leveros/simulator/world/world.ts";
import type { Client } from "../client.ts";
import { context } from "../context.ts";
import type { ResourceClass } from "../resources/resource-methods.ts";
import { validated, validatedChannel, validatedMethod } from "../validated.ts";
import { checkResource, checkServices, servicePolicy, type TestService } from "./test-service.ts";

export interface SimulateOptions {
  /** How many worlds, one after another: 1 to 1,000,000. 100 unless given. */
  readonly seeds?: number;
  /** The first one's; 1 unless given. The error of a world that failed says its seed. */
  readonly firstSeed?: number;
  readonly services: Readonly<Record<string, TestService>>;
  /** A test that takes longer, in virtual time, has failed: minutes, 60 unless given. */
  readonly virtualMinutesMax?: number;
}

/**
 * Runs `test` once for each seed, each time in a new world. Rejects with the first failure: what the test threw, or, for
 * two instances that both started calls of one resource, an error of its own; in both cases with the seed.
 *
 * In the test and in methods, time is `sim.sleep`, `context().signal` and calls: who awaits a timer of Node's awaits real
 * time, in which anything may happen in the world. An instance that is made anew has the same class and methods.
 */
export async function simulate(
  options: SimulateOptions,
  test: (sim: Simulation) => Promise<void> | void,
): Promise<void> {
  const { seeds = 100, firstSeed = 1, services, virtualMinutesMax = 60 } = options;
  checkServices(services);
  checkWhole("seeds", seeds, 1, 1_000_000);
  checkWhole("firstSeed", firstSeed, 0, Number.MAX_SAFE_INTEGER - 1_000_000);
  checkWhole("virtualMinutesMax", virtualMinutesMax, 1, 10_000);
  for (let seed = firstSeed; seed < firstSeed + seeds; seed++) {
    await new Simulation(seed, services).run(test, virtualMinutesMax * 60_000);
  }
}

/** How often it is looked who holds a resource, and whether instances serve. */
const lookMs = 10;
const warmUpMs = 500;
const startMsMax = 10_000;
const holderMsMax = 60_000;
/** When it is known that a process has ended. */
const provenAfterMs = 100;

/** One world. */
export class Simulation {
  readonly seed: number;
  /** Of a caller beside the instances. */
  readonly client: Client;
  readonly #world: World;
  readonly #cluster: Cluster;
  readonly #caller: SimProcess;
  readonly #exclusive = new Exclusiveness();
  readonly #services: readonly string[];
  /** What heals the instances that are cut off, by instance. */
  readonly #cuts = new Map<string, () => void>();
  readonly #paused = new Set<string>();

  /** For `simulate`. */
  constructor(seed: number, services: Readonly<Record<string, TestService>>) {
    this.seed = seed;
    this.#world = new World(seed);
    const nodes = Object.entries(services).map(([name, service]): ServiceNode => {
      const resource = service.resource === undefined ? undefined : this.#exclusive.watch(name, service.resource);
      return { name, policy: servicePolicy(service), serve: (app) => void this.#serve(app, service, resource) };
    });
    const observer = { stopped() {}, died() {}, madeAnew() {}, slowedWithin() {} };
    this.#cluster = new Cluster(new Network(this.#world), nodes, observer);
    this.#services = Object.keys(services);
    for (const [service, { instances = 1 }] of Object.entries(services)) {
      for (let i = 0; i < instances; i++) this.#cluster.addInstance(service);
    }
    const { app } = this.#cluster.addCaller("caller");
    this.client = app.client;
    this.#caller = app.process;
  }

  async #serve(app: AppNode, { methods = {} }: TestService, resource: ResourceClass | undefined): Promise<void> {
    const made = typeof methods === "function" ? await (methods as () => object | Promise<object>)() : methods;
    app.serve(made, resource);
  }

  /** For `simulate`. */
  async run(test: (sim: Simulation) => Promise<void> | void, virtualMsMax: number): Promise<void> {
    const world = this.#world;
    let outcome: { readonly error?: unknown } | undefined;
    const fail = (error: unknown) => {
      outcome ??= { error };
    };
    world.onUncaught = fail;
    this.#exclusive.onBroken = fail;
    const play = async () => {
      await this.#whenServing();
      await test(this);
    };
    this.#caller.run(() => {
      play().then(() => {
        outcome ??= {};
      }, fail);
    });
    await world.run(virtualMsMax, () => outcome !== undefined);
    outcome ??= {
      error: new Error(
        `the test did not end within ${virtualMsMax / 60_000} virtual minutes; does it await real time?`,
      ),
    };
    if ("error" in outcome) throw this.#failure(outcome.error);
  }

  #failure(error: unknown): Error {
    const text = error instanceof Error ? error.message : String(error);
    return new Error(`seed ${this.seed}, after ${(this.nowMs / 1000).toFixed(3)} virtual s: ${text}`, { cause: error });
  }

  /** Until agents and apps have found each other, and all slots have holders. */
  async #whenServing(): Promise<void> {
    const isHeld = (service: string) =>
      this.#cluster.operator.leader.slotsOf(environment, service)?.every(({ holder }) => holder !== "") ?? true;
    const services = this.#services.filter((service) => this.instances(service).length > 0);
    for (
      let waitedMs = 0;
      waitedMs < warmUpMs || (waitedMs < startMsMax && !services.every(isHeld));
      waitedMs += lookMs
    ) {
      await this.sleep(lookMs);
    }
  }

  /** Virtual, since the world began. */
  get nowMs(): number {
    return this.#world.now();
  }

  /** Virtual time. */
  sleep(ms: number): Promise<void> {
    return new Promise((resolve) => this.#caller.clock.setTimer(resolve, ms));
  }

  /** The ids of a service's instances that were not killed. Throws INVALID_OPTION. */
  instances(service: string): string[] {
    this.#checkService(service);
    return this.#cluster.instances.filter((place) => place.service === service).map(({ instance }) => instance);
  }

  /**
   * The instance that holds a resource, as callers see it; if nobody does, the first one that will. Rejects with
   * INVALID_OPTION, NO_RESOURCES, and RESOURCE_UNAVAILABLE if nobody does for a virtual minute.
   */
  async holderOf(service: string, resource: string): Promise<string> {
    this.#checkService(service);
    checkResource(resource);
    for (let waitedMs = 0; waitedMs < holderMsMax; waitedMs += lookMs) {
      const rows = this.#cluster.operator.leader.slotsOf(environment, service);
      if (rows === undefined) throw new LeverError("NO_RESOURCES", `${service} was started without a resource`);
      const holder = rows[slotOf(resource, rows.length)]?.holder ?? "";
      if (holder !== "") return holder;
      await this.sleep(lookMs);
    }
    throw new LeverError("RESOURCE_UNAVAILABLE", `nobody has held ${JSON.stringify(resource)} of ${service} for 60 s`);
  }

  /**
   * The instance's connections with the rest of the world break, and until `heal` nothing that the two send each other
   * arrives. Throws INVALID_OPTION.
   */
  cutOff(instance: string): void {
    const place = this.#place(instance);
    if (this.#cuts.has(instance)) return;
    const { network, operatorMachine, places, callers } = this.#cluster;
    const others = [...places.values(), ...callers]
      .map(({ machine }) => machine)
      .filter((each) => each !== place.machine);
    const silence = (isSilent: boolean) => {
      for (const other of [...others, operatorMachine]) {
        network.silence(place.machine, other, isSilent);
        network.silence(other, place.machine, isSilent);
      }
    };
    for (const other of [...others, operatorMachine]) network.cut(place.machine, other);
    silence(true);
    this.#cuts.set(instance, () => silence(false));
  }

  /** Ends what `cutOff` did to the instance; without one, to all. */
  heal(instance?: string): void {
    for (const [cut, heal] of this.#cuts) {
      if (instance !== undefined && instance !== cut) continue;
      heal();
      this.#cuts.delete(cut);
    }
  }

  /** The instance's app stands still, as by SIGSTOP, until `resume`. Throws INVALID_OPTION. */
  pause(instance: string): void {
    const place = this.#place(instance);
    if (this.#paused.has(instance)) return;
    this.#paused.add(instance);
    place.app.process.stop();
  }

  /** Throws INVALID_OPTION. */
  resume(instance: string): void {
    const place = this.#place(instance);
    if (this.#paused.delete(instance)) place.app.process.go();
  }

  /**
   * The instance ends, with its agent, as by a crash of its machine: what was in it is gone. That its process has ended
   * is known after 0.1 s. Throws INVALID_OPTION.
   */
  kill(instance: string): void {
    const place = this.#place(instance);
    this.heal(instance);
    this.#cluster.killApp(place, provenAfterMs);
    place.kill();
    this.#world.after(provenAfterMs, () => this.#cluster.remove(place));
  }

  #place(instance: string): Place {
    const place = this.#cluster.places.get(instance);
    if (place !== undefined && !place.isGone) return place;
    throw new LeverError(
      "INVALID_OPTION",
      `the simulation has no instance ${JSON.stringify(instance)}; it has ` +
        this.#cluster.instances.map((each) => each.instance).join(", "),
    );
  }

  #checkService(service: string): void {
    if (this.#services.includes(service)) return;
    throw new LeverError(
      "INVALID_OPTION",
      `the simulation has no service ${JSON.stringify(service)}; it has ${this.#services.join(", ")}`,
    );
  }
}

/** Sees which instance starts calls of which resource: none may once a later holder has. */
class Exclusiveness {
  onBroken: (error: Error) => void = () => {};
  readonly #latest = new Map<string, { readonly epoch: number; readonly instance: string }>();
  readonly #begun = new WeakSet<object>();

  /** The class, with methods that say when they are called. */
  watch(service: string, resource: ResourceClass): ResourceClass {
    const watched = class extends (resource as new (...args: unknown[]) => object) {};
    for (let owner = resource.prototype as object; owner !== Object.prototype; owner = Object.getPrototypeOf(owner)) {
      for (const name of Object.getOwnPropertyNames(owner)) {
        const value: unknown = Object.getOwnPropertyDescriptor(owner, name)?.value;
        if (typeof value !== "function" || !isCallableName(name) || Object.hasOwn(watched.prototype, name)) continue;
        Object.defineProperty(watched.prototype, name, { value: this.#telling(service, name, value) });
      }
    }
    return watched as unknown as ResourceClass;
  }

  #telling(service: string, name: string, method: object): unknown {
    const started = () => this.#started(service);
    const checked = validatedMethod(method);
    const run = (checked?.method ?? method) as (...args: unknown[]) => unknown;
    const telling = function telling(this: unknown, ...args: unknown[]): unknown {
      started();
      return run.apply(this, args);
    };
    if (checked === undefined) return telling;
    return isStreamingName(name) ? validatedChannel(checked.schemas, telling) : validated(checked.schemas, telling);
  }

  #started(service: string): void {
    const call = context();
    const { resource, epoch, instance } = call;
    // A method that calls another one of its own object begins nothing; without an epoch nobody promises anything.
    if (resource === undefined || epoch === 0 || this.#begun.has(call)) return;
    this.#begun.add(call);
    const key = `${service}/${resource}`;
    const latest = this.#latest.get(key);
    if (latest === undefined || latest.epoch < epoch) {
      this.#latest.set(key, { epoch, instance });
    } else if (latest.epoch > epoch || latest.instance !== instance) {
      this.onBroken(
        new Error(
          `${instance} starts a call of ${key} under epoch ${epoch}, after ${latest.instance} has under ${latest.epoch}`,
        ),
      );
    }
  }
}

function checkWhole(option: string, value: number, min: number, max: number): void {
  if (Number.isInteger(value) && value >= min && value <= max) return;
  throw new LeverError(
    "INVALID_OPTION",
    `${option} is ${String(value)}, expected a whole number from ${min} to ${max}`,
  );
}
