/**
 * One connection on `lever://lever-system/operator/discoveryChan`, of an agent or gateway: tables go out over it, and
 * reports of the agent's app come in.
 *
 * It owns what this connection was sent. Invariants: at most one message waits to be sent; a subscriber that is slow
 * gets, when it is ready, what has changed since its last message, in one; of a service of which it may call nothing it
 * is told no instance. The tables and the states are `operator/core`'s.
 */

import type { Channel } from "@leveros/protocol/channel/channel.ts";
import type { Clock } from "@leveros/protocol/clock/clock.ts";
import { allowedMethods, type CallerIdentity } from "@leveros/protocol/control/access.ts";
import {
  type AgentMessage,
  type DiscoveryIdentity,
  decodeAgentMessage,
  defaultServicePolicy,
  instancesPerMessageMax,
  type OperatorMessage,
  type SubscribeMessage,
  slotRowsPerMessageMax,
  subscriptionsMax,
} from "@leveros/protocol/control/discovery.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import type { EndpointTables, TableChanges } from "../core/endpoint-table.ts";
import type { AgentLink, ServiceRegistry } from "../core/service-registry.ts";
import type { AgentReports, ReportLine } from "./agent-reports.ts";

export interface DiscoveryConnectionOptions {
  readonly registry: ServiceRegistry;
  readonly clock: Clock;
  /** What agents say here, for other replicas. */
  readonly reports?: AgentReports;
  /** For metrics: a table's change has been sent to a subscriber, this long after it. Does not throw. */
  readonly onSent?: (lagMs: number) => void;
  /** Subscriptions of one connection; 10,000 unless set. */
  readonly subscriptionsMax?: number;
  /** Instances, and so changes, in one message; 1,000 unless set. */
  readonly instancesPerMessageMax?: number;
  /** Rows of slots in one message; 1,000 unless set. */
  readonly slotRowsPerMessageMax?: number;
}

/** For metrics. */
export interface DiscoveryCounters {
  tablesSent: number;
  deltasSent: number;
}

/**
 * How a subscriber sees a service: `open` as it is; `denied`, that it is there and may not be called; `hidden`, as if it
 * were not there. The latter two say nothing of instances, slots and policy.
 */
type Sight = "open" | "denied" | "hidden";

const blankOrigin = "blank";

interface Subscription {
  readonly environment: string;
  readonly service: string;
  /** As which the subscriber was last shown it here; undefined: not yet. */
  shown: Sight | undefined;
  /** What the subscriber has, once all that was sent has arrived; undefined: nothing. */
  version: number | undefined;
  /** When the oldest change that it was not sent was made, on the clock. */
  behindSince: number | undefined;
  readonly unwatch: () => void;
}

export class DiscoveryConnection {
  #link: AgentLink | undefined;
  #line: ReportLine | undefined;
  readonly #reports: AgentReports | undefined;
  readonly #onSent: ((lagMs: number) => void) | undefined;
  readonly #subscriber: CallerIdentity;
  readonly #registry: ServiceRegistry;
  readonly #tables: EndpointTables;
  readonly #clock: Clock;
  readonly #counters: DiscoveryCounters;
  readonly #subscriptionsMax: number;
  readonly #instancesPerMessageMax: number;
  readonly #slotRowsPerMessageMax: number;
  readonly #subscriptions = new Map<string, Subscription>();
  /** Subscriptions whose table has changed since what was sent; in turns, oldest first. */
  readonly #behind = new Set<Subscription>();
  #channel: Channel<unknown, OperatorMessage> | undefined;
  #isSending = false;

  /** `subscriber`: by the HELLO of the session. */
  constructor(options: DiscoveryConnectionOptions, counters: DiscoveryCounters, subscriber: CallerIdentity) {
    this.#subscriber = subscriber;
    this.#registry = options.registry;
    this.#tables = options.registry.tables;
    this.#clock = options.clock;
    this.#reports = options.reports;
    this.#onSent = options.onSent;
    this.#counters = counters;
    this.#subscriptionsMax = options.subscriptionsMax ?? subscriptionsMax;
    this.#instancesPerMessageMax = options.instancesPerMessageMax ?? instancesPerMessageMax;
    this.#slotRowsPerMessageMax = options.slotRowsPerMessageMax ?? slotRowsPerMessageMax;
  }

  /** What the agent says of its instance counts from here on. Throws OVERLOADED. */
  connect({ environment, service, instance, address, zone }: DiscoveryIdentity): void {
    if (environment === undefined || service === undefined || instance === undefined || address === undefined) return;
    const report = { environment, service, instance, address, ...(zone !== undefined && { zone }) };
    this.#link = this.#registry.connect(report, () => this.#replaced(instance));
    this.#line = this.#reports?.open(report);
  }

  async run(channel: Channel): Promise<void> {
    this.#channel = channel as Channel<unknown, OperatorMessage>;
    for await (const value of channel) {
      const message = decodeAgentMessage(value);
      if (message !== undefined) this.#onMessage(message);
    }
  }

  /** Another connection of the same instance has come. */
  #replaced(instance: string): void {
    this.#channel?.fail({
      reason: "CANCELLED",
      message: `a newer connection of the instance ${instance} took the place of this one`,
    });
  }

  end(): void {
    this.#channel = undefined;
    for (const subscription of this.#subscriptions.values()) subscription.unwatch();
    this.#subscriptions.clear();
    this.#behind.clear();
    this.#link?.lost();
    this.#line?.end();
  }

  #onMessage(message: AgentMessage): void {
    switch (message.type) {
      case "subscribe":
        return this.#subscribe(message);
      case "unsubscribe":
        return this.#unsubscribe(message.environment, message.service);
      case "register": {
        const { type: _, ...registration } = message;
        this.#ofInstance(message.type).registered(registration);
        return this.#line?.say({ says: "register", registration });
      }
      case "unregister":
        this.#ofInstance(message.type).unregistered();
        return this.#line?.say({ says: "unregister" });
      case "draining":
        this.#ofInstance(message.type).draining();
        return this.#line?.say({ says: "draining" });
    }
  }

  #ofInstance(type: string): AgentLink {
    if (this.#link !== undefined) return this.#link;
    throw new LeverError("PROTOCOL_VIOLATION", `${type} came from a peer that opened the channel without an instance`, {
      details: { field: "message.type" },
    });
  }

  #subscribe({ environment, service, version, origin }: SubscribeMessage): void {
    // Whoever asks again has lost what it had, or has something else now.
    this.#unsubscribe(environment, service);
    if (this.#subscriptions.size >= this.#subscriptionsMax) {
      throw new LeverError(
        "OVERLOADED",
        `${this.#subscriptionsMax} services are subscribed to on this channel, the most that may be`,
        { details: { limit: "subscriptionsMax", subscriptionsMax: this.#subscriptionsMax } },
      );
    }
    const subscription: Subscription = {
      environment,
      service,
      shown: undefined,
      version: origin === this.#tables.origin ? version : undefined,
      behindSince: undefined,
      unwatch: this.#tables.watch(environment, service, () => this.#isBehind(subscription)),
    };
    this.#subscriptions.set(`${environment}/${service}`, subscription);
    this.#isBehind(subscription);
  }

  #unsubscribe(environment: string, service: string): void {
    const key = `${environment}/${service}`;
    const subscription = this.#subscriptions.get(key);
    if (subscription === undefined) return;
    subscription.unwatch();
    this.#subscriptions.delete(key);
    this.#behind.delete(subscription);
  }

  #isBehind(subscription: Subscription): void {
    subscription.behindSince ??= this.#clock.now();
    this.#behind.add(subscription);
    if (this.#isSending) return;
    this.#isSending = true;
    // Later: the changes of one turn go out together.
    this.#clock.defer(() => void this.#sendBehind());
  }

  async #sendBehind(): Promise<void> {
    try {
      for (const subscription of this.#behind) {
        this.#behind.delete(subscription);
        const since = subscription.behindSince ?? this.#clock.now();
        subscription.behindSince = undefined;
        if (await this.#bringUp(subscription)) this.#onSent?.(this.#clock.now() - since);
      }
    } catch {
      // The channel has ended: `run` learns of it too, and says why.
    } finally {
      this.#isSending = false;
    }
  }

  #sightOf({ environment, service }: Subscription): Sight {
    const { role } = this.#subscriber;
    const policy = this.#tables.policyOf(environment, service);
    // The replicas of the operator are one.
    if (policy === undefined || role === "operator") return "open";
    if (allowedMethods(policy.access, environment, this.#subscriber) !== "none") return "open";
    return role === "agent" ? "denied" : "hidden";
  }

  /** False if it has all that it may have. */
  async #bringUp(subscription: Subscription): Promise<boolean> {
    const sight = this.#sightOf(subscription);
    const isNew = subscription.shown !== sight;
    if (isNew && subscription.shown !== undefined) subscription.version = undefined;
    subscription.shown = sight;
    if (sight !== "open") {
      if (isNew) await this.#sendBlank(subscription, sight === "denied");
      return isNew;
    }
    const { environment, service, version } = subscription;
    const changes = version === undefined ? undefined : this.#tables.changesSince(environment, service, version);
    if (changes !== undefined && this.#fits(changes)) {
      if (changes.version === version) return false;
      subscription.version = changes.version;
      this.#counters.deltasSent++;
      await this.#send({ type: "delta", environment, service, ...changes });
      return true;
    }
    const { instances, slots, ...table } = this.#tables.table(environment, service);
    subscription.version = table.version;
    this.#counters.tablesSent++;
    for (let part = 0, more = true; more; part++) {
      // Unsubscribed meanwhile.
      if (this.#subscriptions.get(`${environment}/${service}`) !== subscription) return false;
      const instancesEnd = (part + 1) * this.#instancesPerMessageMax;
      const slotsEnd = (part + 1) * this.#slotRowsPerMessageMax;
      more = instancesEnd < instances.length || slotsEnd < (slots?.length ?? 0);
      await this.#send({
        type: "table",
        origin: this.#tables.origin,
        ...table,
        instances: instances.slice(instancesEnd - this.#instancesPerMessageMax, instancesEnd),
        ...(slots !== undefined && { slots: slots.slice(slotsEnd - this.#slotRowsPerMessageMax, slotsEnd) }),
        part,
        more,
      });
    }
    return true;
  }

  /** Its version has an origin of its own: no change of the table can follow on it. */
  #sendBlank({ environment, service }: Subscription, exists: boolean): Promise<void> {
    this.#counters.tablesSent++;
    return this.#send({
      type: "table",
      origin: blankOrigin,
      environment,
      service,
      version: this.#tables.version,
      exists,
      instances: [],
      policy: defaultServicePolicy,
      part: 0,
      more: false,
    });
  }

  /** In one message. */
  #fits({ changed, removed, slots }: TableChanges): boolean {
    return (
      changed.length + removed.length <= this.#instancesPerMessageMax &&
      (slots?.length ?? 0) <= this.#slotRowsPerMessageMax
    );
  }

  async #send(message: OperatorMessage): Promise<void> {
    await this.#channel?.send(message);
  }
}
