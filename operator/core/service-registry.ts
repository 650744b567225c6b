/**
 * Which services and instances there are, and the state of each instance: the source (local processes, or Kubernetes)
 * says what exists, the instances' agents say what is served, and this file puts the two together into the tables.
 *
 * Invariant: an instance is in the tables if and only if the source knows it; it is Serving only while its app is
 * registered with an agent that was heard of within the grace, and its source has not found it not ready. What agents
 * say of instances that the source does not know yet is held, at most `unknownInstancesMax` of them, and counts as soon
 * as it does.
 */

import type { Clock, TimerHandle } from "@leveros/protocol/clock/clock.ts";
import type { InstanceState, ServicePolicy } from "@leveros/protocol/control/discovery.ts";
import type { Registration } from "@leveros/protocol/control/registration.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import type { EndpointTables } from "./endpoint-table.ts";
import type { OwnershipLeader } from "./ownership/leader.ts";

export interface InstanceKey {
  readonly environment: string;
  readonly service: string;
  readonly instance: string;
}

/** An instance as its source knows it. */
export interface SourceInstance extends InstanceKey {
  /** `host:port`; goes before what its agent says. */
  readonly address?: string;
  readonly zone?: string;
  /** It is being stopped. */
  readonly isDraining?: boolean;
  /** Who looks after it has found that it does not serve, whatever its agent says: it is Unreachable. */
  readonly isNotReady?: boolean;
  /**
   * It served when the operator last ran, and still seems to: it stays Serving (an address is needed for that) until
   * its agent reports, or `restoredGraceMs` have passed. Looked at when the instance is new here.
   */
  readonly wasServing?: boolean;
}

/** What a source can learn. Called after the tables have changed; callbacks do not throw. */
export interface RegistryObserver {
  /** The instance's app has registered, or registered something else than before. */
  onRegistered?(instance: InstanceKey, registration: Registration): void;
  /** The app is gone; its agent is not. */
  onUnregistered?(instance: InstanceKey): void;
  onState?(instance: InstanceKey, state: InstanceState): void;
}

export interface RegistryLimits {
  /** An agent whose connection is lost has this long to come back before its instance is Unreachable. */
  readonly reconnectGraceMs: number;
  /** How long `wasServing` is believed. */
  readonly restoredGraceMs: number;
  /** Instances that have an agent here and no source. An agent of one more is refused: OVERLOADED. */
  readonly unknownInstancesMax: number;
}

export const defaultRegistryLimits: RegistryLimits = {
  reconnectGraceMs: 2000,
  restoredGraceMs: 30_000,
  unknownInstancesMax: 1000,
};

export interface ServiceRegistryOptions {
  readonly tables: EndpointTables;
  readonly clock: Clock;
  readonly observer?: RegistryObserver;
  /** Hears of all services and instances that the source makes known; its `onSlots` is `tables.setSlots`. */
  readonly leader?: OwnershipLeader;
  readonly limits?: Partial<RegistryLimits>;
}

/** What an agent says when it connects. */
export interface AgentReport extends InstanceKey {
  readonly address: string;
  readonly zone?: string;
}

interface Known extends InstanceKey {
  source: SourceInstance | undefined;
  report: AgentReport | undefined;
  link: AgentLink | undefined;
  /** The app is registered; the registration itself is not known of an instance restored from before a restart. */
  isRegistered: boolean;
  registration: Registration | undefined;
  /** The registration that the observer was told of. */
  announced: Registration | undefined;
  isDraining: boolean;
  isLost: boolean;
  graceTimer: TimerHandle | undefined;
  state: InstanceState | undefined;
}

export class ServiceRegistry {
  readonly tables: EndpointTables;
  readonly #clock: Clock;
  readonly #observer: RegistryObserver;
  readonly #leader: OwnershipLeader | undefined;
  readonly limits: RegistryLimits;
  /** By service, then id. */
  readonly #services = new Map<string, Map<string, Known>>();
  #unknownCount = 0;

  constructor(options: ServiceRegistryOptions) {
    this.tables = options.tables;
    this.#clock = options.clock;
    this.#observer = options.observer ?? {};
    this.#leader = options.leader;
    this.limits = { ...defaultRegistryLimits, ...options.limits };
  }

  // ---------------------------------------------------------------- the source

  /**
   * The service exists, with this policy. Instances come after their service. Throws INVALID_OPTION for another number
   * of slots than before.
   */
  declareService(environment: string, service: string, policy: ServicePolicy): void {
    // Before the agents: nobody goes by a lease that is longer than the leader knows.
    if (policy.ownership === undefined) this.#leader?.removeService(environment, service);
    else {
      this.#leader?.declareService(environment, service, policy.ownership);
      for (const { source } of this.#services.get(`${environment}/${service}`)?.values() ?? []) {
        if (source !== undefined) this.#leader?.upsertInstance(source, source.isDraining);
      }
    }
    this.tables.declare(environment, service, policy);
  }

  /** The service and its instances exist no more. */
  removeService(environment: string, service: string): void {
    const instances = [...(this.#services.get(`${environment}/${service}`)?.values() ?? [])];
    for (const known of instances) if (known.source !== undefined) this.#forgetSource(known);
    this.#leader?.removeService(environment, service);
    this.tables.remove(environment, service);
  }

  /**
   * The instance exists, or what is known of it has changed. False, and nothing happens, if its service is not
   * declared. Throws OVERLOADED above 10,000 instances of a service.
   */
  upsertInstance(source: SourceInstance): boolean {
    if (!this.tables.table(source.environment, source.service).exists) return false;
    const known = this.#get(source) ?? this.#add(source);
    if (known.source === undefined) {
      this.#unknownCount--;
      if (source.wasServing === true && source.address !== undefined && known.link === undefined) {
        known.isRegistered = true;
        this.#startGrace(known, this.limits.restoredGraceMs);
      }
    }
    known.source = source;
    try {
      this.#publish(known);
    } catch (error) {
      this.#forgetSource(known);
      throw error;
    }
    this.#leader?.upsertInstance(source, source.isDraining);
    return true;
  }

  /** The instance exists no more. */
  removeInstance(key: InstanceKey): void {
    const known = this.#get(key);
    if (known?.source !== undefined) this.#forgetSource(known);
  }

  /** What the instance's app serves, as last registered; undefined without an app. */
  registrationOf(key: InstanceKey): Registration | undefined {
    return this.#get(key)?.registration;
  }

  /** Instances that have an agent here and no source. */
  get unknownCount(): number {
    return this.#unknownCount;
  }

  /** Stops all timers; nothing changes by itself any more. */
  close(): void {
    for (const instances of this.#services.values()) for (const known of instances.values()) this.#stopGrace(known);
  }

  // ---------------------------------------------------------------- agents

  /**
   * The instance's agent has connected; `onReplaced` is called if another connection of the same instance comes after
   * it. Until the agent says more, what is known of the instance stands for the grace. Throws OVERLOADED.
   */
  connect(report: AgentReport, onReplaced: () => void): AgentLink {
    let known = this.#get(report);
    if (known === undefined) {
      if (this.#unknownCount >= this.limits.unknownInstancesMax) {
        throw new LeverError(
          "OVERLOADED",
          `the operator knows no instance ${report.instance} of ${report.environment}/${report.service}, and ` +
            `${this.limits.unknownInstancesMax} unknown ones wait already, the most that may`,
          { effect: "none", details: { limit: "unknownInstances", unknownMax: this.limits.unknownInstancesMax } },
        );
      }
      known = this.#add(report);
    }
    const former = known.link;
    const link = new AgentLink(this, known, onReplaced);
    known.link = link;
    known.report = report;
    if (known.isRegistered && known.graceTimer === undefined && !known.isLost) {
      this.#startGrace(known, this.limits.reconnectGraceMs);
    }
    this.#publish(known);
    former?.onReplaced();
    return link;
  }

  /** For AgentLink. */
  heard(link: AgentLink, apply: (known: Known) => void): void {
    const { known } = link;
    if (known.link !== link) return;
    this.#stopGrace(known);
    known.isLost = false;
    apply(known);
    this.#publish(known);
  }

  /** For AgentLink. */
  lost(link: AgentLink, graceMs = this.limits.reconnectGraceMs): void {
    const { known } = link;
    if (known.link !== link) return;
    known.link = undefined;
    if (known.source === undefined) this.#drop(known);
    else if (known.graceTimer === undefined && !known.isLost) this.#startGrace(known, graceMs);
  }

  // ---------------------------------------------------------------- inside

  #get(key: InstanceKey): Known | undefined {
    return this.#services.get(`${key.environment}/${key.service}`)?.get(key.instance);
  }

  /** Not known to the source, for now. */
  #add({ environment, service, instance }: InstanceKey): Known {
    const known: Known = {
      environment,
      service,
      instance,
      source: undefined,
      report: undefined,
      link: undefined,
      isRegistered: false,
      registration: undefined,
      announced: undefined,
      isDraining: false,
      isLost: false,
      graceTimer: undefined,
      state: undefined,
    };
    const name = `${environment}/${service}`;
    let instances = this.#services.get(name);
    if (instances === undefined) {
      instances = new Map();
      this.#services.set(name, instances);
    }
    instances.set(instance, known);
    this.#unknownCount++;
    return known;
  }

  /** Its agent may still be there: then the instance is held, as if the source had never known it. */
  #forgetSource(known: Known): void {
    this.tables.removeInstance(known.environment, known.service, known.instance);
    this.#leader?.removeInstance(known);
    known.source = undefined;
    known.state = undefined;
    known.announced = undefined;
    this.#unknownCount++;
    if (known.link === undefined) this.#drop(known);
  }

  /** Neither a source nor an agent. */
  #drop(known: Known): void {
    this.#stopGrace(known);
    this.#unknownCount--;
    const name = `${known.environment}/${known.service}`;
    const instances = this.#services.get(name);
    instances?.delete(known.instance);
    if (instances?.size === 0) this.#services.delete(name);
  }

  #startGrace(known: Known, graceMs: number): void {
    known.graceTimer = this.#clock.setTimer(() => {
      known.graceTimer = undefined;
      known.isLost = true;
      this.#publish(known);
    }, graceMs);
  }

  #stopGrace(known: Known): void {
    if (known.graceTimer !== undefined) this.#clock.clearTimer(known.graceTimer);
    known.graceTimer = undefined;
  }

  #publish(known: Known): void {
    const { source, report } = known;
    if (source === undefined) return;
    const zone = source.zone ?? report?.zone;
    const address = source.address ?? report?.address ?? "";
    const state = stateOf(known);
    this.tables.upsertInstance(known.environment, known.service, {
      id: known.instance,
      address,
      ...(zone !== undefined && { zone }),
      state,
    });
    const key: InstanceKey = {
      environment: known.environment,
      service: known.service,
      instance: known.instance,
    };
    if (known.state !== state) {
      known.state = state;
      this.#observer.onState?.(key, state);
    }
    if (known.announced !== known.registration) {
      const isNew = !isSameRegistration(known.announced, known.registration);
      known.announced = known.registration;
      if (!isNew) return;
      if (known.registration === undefined) this.#observer.onUnregistered?.(key);
      else this.#observer.onRegistered?.(key, known.registration);
    }
  }
}

/** One connection of an instance's agent. After another one has replaced it, it says nothing any more. */
export class AgentLink {
  readonly known: Known;
  readonly onReplaced: () => void;
  readonly #registry: ServiceRegistry;

  constructor(registry: ServiceRegistry, known: Known, onReplaced: () => void) {
    this.#registry = registry;
    this.known = known;
    this.onReplaced = onReplaced;
  }

  /** The app has registered, perhaps again after a draining: then it takes calls once more. */
  registered(registration: Registration): void {
    this.#registry.heard(this, (known) => {
      known.isDraining = false;
      known.isRegistered = true;
      known.registration = registration;
    });
  }

  /** There is no app, or none any more. */
  unregistered(): void {
    this.#registry.heard(this, (known) => {
      known.isRegistered = false;
      known.registration = undefined;
    });
  }

  /** The instance takes no new calls, until an app registers. */
  draining(): void {
    this.#registry.heard(this, (known) => {
      known.isDraining = true;
    });
  }

  /** The connection is over. */
  lost(): void {
    this.#registry.lost(this);
  }

  /** The replica that the agent was connected to is not heard of any more: the agent comes back elsewhere. */
  lostWithReplica(): void {
    this.#registry.lost(this, this.#registry.limits.restoredGraceMs);
  }
}

function stateOf(known: Known): InstanceState {
  if (known.isLost) return "Unreachable";
  if (known.isDraining || known.source?.isDraining === true) return "Draining";
  if (known.isRegistered && known.source?.isNotReady === true) return "Unreachable";
  return known.isRegistered ? "Serving" : "Starting";
}

function isSameRegistration(a: Registration | undefined, b: Registration | undefined): boolean {
  if (a === undefined || b === undefined) return a === b;
  return (
    a.resources === b.resources &&
    a.library === b.library &&
    a.version === b.version &&
    a.methods.length === b.methods.length &&
    a.methods.every((method, index) => method.name === b.methods[index]?.name)
  );
}
