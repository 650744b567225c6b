/**
 * An agent's side of discovery: one channel to the operator, the tables of the services that somebody here wants, and
 * what is reported of the own app.
 *
 * It takes subscriptions up where they were, and applies deltas. Invariant: a table is always one that the operator had,
 * whole; it is kept while the operator is away. Of the own reports only the latest counts and is sent (again) after each
 * connect, so that nothing queues up meanwhile. Connecting is `operator-channel.ts`'.
 */

import type { Channel } from "@leveros/protocol/channel/channel.ts";
import type { Clock, Random, TimerHandle } from "@leveros/protocol/clock/clock.ts";
import {
  type AgentMessage,
  type DeltaMessage,
  type DiscoveryIdentity,
  decodeOperatorMessage,
  defaultServicePolicy,
  discoveryMethod,
  type Instance,
  instancesPerServiceMax,
  type ServicePolicy,
  type ServiceTable,
  type SlotRow,
  slotsMax,
  subscriptionsMax,
  type TableMessage,
} from "@leveros/protocol/control/discovery.ts";
import type { Registration } from "@leveros/protocol/control/registration.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import type { Session } from "@leveros/protocol/session/session.ts";
import { defaultOperatorChannelLimits, OperatorChannel, type OperatorChannelLimits } from "./operator-channel.ts";

export interface DiscoveryClientLimits extends OperatorChannelLimits {
  /** Services subscribed to at a time. */
  readonly subscriptionsMax: number;
  /** How long a subscriber waits for its first table before it hears `onUnavailable`, and from then on again. */
  readonly tableWaitMs: number;
}

export const defaultDiscoveryClientLimits: DiscoveryClientLimits = {
  subscriptionsMax,
  tableWaitMs: 5000,
  ...defaultOperatorChannelLimits,
};

export interface DiscoveryClientOptions {
  /** Connects to any operator: a started session on the dialer's side, which belongs to this client from then on. */
  readonly dial: () => Promise<Session>;
  readonly clock: Clock;
  readonly random: Random;
  readonly identity: DiscoveryIdentity;
  readonly limits?: Partial<DiscoveryClientLimits>;
  /** The channel is open. Does not throw. */
  readonly onConnected?: () => void;
  /** A try to connect has failed, or the channel is over. Does not throw. */
  readonly onDisconnected?: (error: LeverError) => void;
}

/** Called with each new table. Must not throw. */
export type TableListener = (table: ServiceTable) => void;
/** Called while there is no table: DISCOVERY_UNAVAILABLE, saying what is wrong. Must not throw. */
export type UnavailableListener = (error: LeverError) => void;

interface Subscriber {
  readonly onTable: TableListener;
  readonly onUnavailable: UnavailableListener | undefined;
}

interface TableParts {
  readonly first: TableMessage;
  readonly instances: Map<string, Instance>;
  readonly slots: SlotRow[];
  next: number;
}

interface Subscription {
  readonly environment: string;
  readonly service: string;
  readonly subscribers: Set<Subscriber>;
  table: ServiceTable | undefined;
  /** Who gave the table's version. */
  origin: string | undefined;
  /** A delta was missed: nothing but a full table helps. */
  needsFull: boolean;
  /** The parts of a full table that are there. */
  parts: TableParts | undefined;
  waitTimer: TimerHandle | undefined;
}

const label = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;

/** Connects as soon as it is made, until it is closed. */
export class DiscoveryClient {
  readonly #options: DiscoveryClientOptions;
  readonly #clock: Clock;
  readonly #limits: DiscoveryClientLimits;
  readonly #connection: OperatorChannel;

  readonly #subscriptions = new Map<string, Subscription>();
  #registration: Registration | undefined;
  #isDraining = false;

  /** The open channel; undefined while there is none. */
  #channel: Channel<unknown, AgentMessage> | undefined;
  /** Keys of services whose subscription the operator does not know in its present state; in the order of changes. */
  readonly #unsaid = new Set<string>();
  /** Keys of services that the operator was asked for on this channel. */
  readonly #asked = new Set<string>();
  #isRegistrationUnsaid = false;
  #isDrainingUnsaid = false;
  #isSending = false;

  #lastError: LeverError | undefined;

  constructor(options: DiscoveryClientOptions) {
    this.#options = options;
    this.#clock = options.clock;
    this.#limits = { ...defaultDiscoveryClientLimits, ...options.limits };
    this.#connection = new OperatorChannel({
      clock: options.clock,
      random: options.random,
      limits: this.#limits,
      method: discoveryMethod,
      dial: options.dial,
      argument: () => options.identity,
      onOpen: (channel) => this.#opened(channel as Channel<unknown, AgentMessage>),
      onMessage: (message) => this.#onMessage(message),
      onEnd: () => {
        this.#channel = undefined;
      },
      onDisconnected: (error) => {
        this.#lastError = error;
        options.onDisconnected?.(error);
      },
    });
  }

  /** The channel to the operator is open. */
  get isConnected(): boolean {
    return this.#channel !== undefined;
  }

  /** Services subscribed to. */
  get subscriptionCount(): number {
    return this.#subscriptions.size;
  }

  // ---------------------------------------------------------------- tables

  /**
   * Keeps the table of a service up to date until the returned function is called. `onTable` is called at once if the
   * table is known here, and with each new one; a table with `exists: false` says that there is no such service.
   * `onUnavailable` is called every `tableWaitMs` while there is no table.
   *
   * Throws OVERLOADED above `subscriptionsMax` services.
   */
  subscribe(
    environment: string,
    service: string,
    onTable: TableListener,
    onUnavailable?: UnavailableListener,
  ): () => void {
    if (!label.test(environment) || !label.test(service)) {
      // The operator would take the question for a broken peer's. No service can have such a name.
      onTable({ environment, service, version: 0, exists: false, instances: [], policy: defaultServicePolicy });
      return () => {};
    }
    const key = `${environment}/${service}`;
    let subscription = this.#subscriptions.get(key);
    if (subscription === undefined) {
      if (this.#subscriptions.size >= this.#limits.subscriptionsMax) {
        throw new LeverError(
          "OVERLOADED",
          `${this.#limits.subscriptionsMax} services are subscribed to by this agent, the most that may be`,
          { effect: "none", details: { limit: "subscriptionsMax", subscriptionsMax: this.#limits.subscriptionsMax } },
        );
      }
      subscription = {
        environment,
        service,
        subscribers: new Set(),
        table: undefined,
        origin: undefined,
        needsFull: false,
        parts: undefined,
        waitTimer: undefined,
      };
      this.#subscriptions.set(key, subscription);
      this.#awaitTable(subscription);
      this.#say(key);
    }
    const subscriber: Subscriber = { onTable, onUnavailable };
    subscription.subscribers.add(subscriber);
    if (subscription.table !== undefined) onTable(subscription.table);
    const { subscribers } = subscription;
    const subscribed = subscription;
    return () => {
      if (subscribers.delete(subscriber) && subscribers.size === 0) this.#drop(key, subscribed);
    };
  }

  /** The table that is known here; undefined if the service is not subscribed to, or no table has come yet. */
  tableOf(environment: string, service: string): ServiceTable | undefined {
    return this.#subscriptions.get(`${environment}/${service}`)?.table;
  }

  #drop(key: string, subscription: Subscription): void {
    this.#stopWaiting(subscription);
    this.#subscriptions.delete(key);
    if (this.#asked.has(key)) this.#say(key);
    else this.#unsaid.delete(key);
  }

  #awaitTable(subscription: Subscription): void {
    subscription.waitTimer = this.#clock.setTimer(() => {
      this.#awaitTable(subscription);
      // One that makes no sense was sent: not to be asked for at once, since it may well come again.
      if (subscription.needsFull) this.#say(`${subscription.environment}/${subscription.service}`);
      const error = this.#unavailable(subscription);
      for (const subscriber of [...subscription.subscribers]) {
        if (subscription.subscribers.has(subscriber)) subscriber.onUnavailable?.(error);
      }
    }, this.#limits.tableWaitMs);
  }

  #stopWaiting(subscription: Subscription): void {
    if (subscription.waitTimer !== undefined) this.#clock.clearTimer(subscription.waitTimer);
    subscription.waitTimer = undefined;
  }

  #unavailable({ environment, service, needsFull }: Subscription): LeverError {
    const what = this.isConnected
      ? needsFull
        ? "the operator has sent one without a row for each slot"
        : "the operator is connected and has not sent it yet"
      : `the operator cannot be reached${this.#lastError === undefined ? "" : ` (${this.#lastError.message})`}`;
    return new LeverError(
      "DISCOVERY_UNAVAILABLE",
      `no table of ${environment}/${service} came within ${this.#limits.tableWaitMs} ms: ${what}`,
      { effect: "none", cause: this.#lastError },
    );
  }

  // ---------------------------------------------------------------- reports

  /**
   * The instance's app serves this; again after each connect, until `unregister`. Ends a draining: the app was stopped
   * for a restart in its pod, and is there again.
   */
  register(registration: Registration): void {
    this.#checkInstance("register");
    this.#registration = registration;
    this.#isDraining = false;
    this.#isDrainingUnsaid = false;
    this.#isRegistrationUnsaid = true;
    this.#send();
  }

  /** The instance's app is gone. */
  unregister(): void {
    this.#checkInstance("unregister");
    this.#registration = undefined;
    this.#isRegistrationUnsaid = true;
    this.#send();
  }

  /** The instance takes no new calls, until an app registers again. */
  draining(): void {
    this.#checkInstance("draining");
    this.#isDraining = true;
    this.#isDrainingUnsaid = true;
    this.#isRegistrationUnsaid = false;
    this.#send();
  }

  #checkInstance(what: string): void {
    if (this.#options.identity.instance !== undefined) return;
    throw new LeverError("INVALID_OPTION", `${what}: this agent is of no instance; set identity.instance`, {
      details: { field: "identity.instance" },
    });
  }

  /** Ends the channel and stops dialling. Tables stay as they are; no listener is called any more. */
  close(): void {
    for (const subscription of this.#subscriptions.values()) {
      this.#stopWaiting(subscription);
      subscription.subscribers.clear();
    }
    this.#connection.close();
  }

  // ---------------------------------------------------------------- sending

  #say(key: string): void {
    this.#unsaid.add(key);
    this.#send();
  }

  #send(): void {
    const channel = this.#channel;
    if (channel === undefined || this.#isSending) return;
    this.#isSending = true;
    void this.#sendUnsaid(channel);
  }

  /** One message at a time, each made when its turn comes: a stalled operator makes nothing queue up here. */
  async #sendUnsaid(channel: Channel<unknown, AgentMessage>): Promise<void> {
    try {
      while (channel === this.#channel) {
        const message = this.#nextMessage();
        if (message === undefined) break;
        await channel.send(message);
      }
    } catch {
      // The channel has ended: whoever reads it learns of it too.
    }
    if (channel === this.#channel) this.#isSending = false;
  }

  #nextMessage(): AgentMessage | undefined {
    if (this.#isDrainingUnsaid) {
      this.#isDrainingUnsaid = false;
      return { type: "draining" };
    }
    if (this.#isRegistrationUnsaid) {
      this.#isRegistrationUnsaid = false;
      return this.#registration === undefined ? { type: "unregister" } : { type: "register", ...this.#registration };
    }
    for (const key of this.#unsaid) {
      this.#unsaid.delete(key);
      const subscription = this.#subscriptions.get(key);
      if (subscription === undefined) {
        this.#asked.delete(key);
        const slash = key.indexOf("/");
        return { type: "unsubscribe", environment: key.slice(0, slash), service: key.slice(slash + 1) };
      }
      this.#asked.add(key);
      const { environment, service, table, origin, needsFull } = subscription;
      if (table === undefined || origin === undefined || needsFull) return { type: "subscribe", environment, service };
      return { type: "subscribe", environment, service, version: table.version, origin };
    }
    return undefined;
  }

  // ---------------------------------------------------------------- receiving

  #onMessage(value: unknown): void {
    const message = decodeOperatorMessage(value);
    if (message === undefined) return;
    const key = `${message.environment}/${message.service}`;
    const subscription = this.#subscriptions.get(key);
    // Unsubscribed while it was under way.
    if (subscription === undefined) return;
    if (message.type === "table") this.#onTable(subscription, message);
    else this.#onDelta(key, subscription, message);
  }

  #onTable(subscription: Subscription, message: TableMessage): void {
    if (message.part === 0) subscription.parts = { first: message, instances: new Map(), slots: [], next: 0 };
    const { parts } = subscription;
    // The rest of a table that was asked for by a subscription before this one: the whole one follows.
    if (parts === undefined || parts.next !== message.part || parts.first.version !== message.version) return;
    parts.next++;
    for (const instance of message.instances) parts.instances.set(instance.id, instance);
    if (parts.instances.size > instancesPerServiceMax) throw tooMany(subscription, instancesPerServiceMax, "instances");
    parts.slots.push(...(message.slots ?? []));
    if (parts.slots.length > slotsMax) throw tooMany(subscription, slotsMax, "slots");
    if (message.more) return;
    const { environment, service, version, exists, policy, origin } = parts.first;
    subscription.parts = undefined;
    const slots = slotsOf(policy, undefined, parts.slots);
    subscription.needsFull = slots === "incomplete";
    if (slots === "incomplete") {
      if (subscription.waitTimer === undefined) this.#awaitTable(subscription);
      return;
    }
    subscription.origin = origin;
    this.#publish(subscription, {
      environment,
      service,
      version,
      exists,
      instances: [...parts.instances.values()],
      policy,
      ...(slots !== undefined && { slots }),
    });
  }

  #onDelta(key: string, subscription: Subscription, delta: DeltaMessage): void {
    const { table, needsFull } = subscription;
    if (table === undefined || needsFull) return;
    const policy = delta.policy ?? table.policy;
    const slots = slotsOf(policy, table.slots, delta.slots ?? []);
    if (delta.from !== table.version || !table.exists || slots === "incomplete") {
      subscription.needsFull = true;
      return this.#say(key);
    }
    const instances = new Map(table.instances.map((instance) => [instance.id, instance]));
    for (const id of delta.removed) instances.delete(id);
    for (const instance of delta.changed) instances.set(instance.id, instance);
    if (instances.size > instancesPerServiceMax) throw tooMany(subscription, instancesPerServiceMax, "instances");
    this.#publish(subscription, {
      environment: table.environment,
      service: table.service,
      version: delta.version,
      exists: true,
      instances: [...instances.values()],
      policy,
      ...(slots !== undefined && { slots }),
    });
  }

  #publish(subscription: Subscription, table: ServiceTable): void {
    this.#stopWaiting(subscription);
    subscription.table = table;
    for (const subscriber of [...subscription.subscribers]) {
      // One of those before it may have unsubscribed it.
      if (subscription.subscribers.has(subscriber)) subscriber.onTable(table);
    }
  }

  // ---------------------------------------------------------------- the connection

  #opened(channel: Channel<unknown, AgentMessage>): void {
    this.#channel = channel;
    this.#isSending = false;
    this.#asked.clear();
    this.#unsaid.clear();
    for (const [key, subscription] of this.#subscriptions) {
      subscription.parts = undefined;
      this.#unsaid.add(key);
    }
    this.#isDrainingUnsaid = this.#isDraining;
    // One that drains is not announced as one that serves, not even for a moment.
    this.#isRegistrationUnsaid = !this.#isDraining && this.#options.identity.instance !== undefined;
    this.#options.onConnected?.();
    this.#send();
  }
}

/** The rows of a table: `changed` in place of those before; undefined for a service that holds no resources. */
function slotsOf(
  { ownership }: ServicePolicy,
  before: readonly SlotRow[] | undefined,
  changed: readonly SlotRow[],
): readonly SlotRow[] | undefined | "incomplete" {
  if (ownership === undefined) return undefined;
  const isBase = before !== undefined && before.length === ownership.slots;
  if (isBase && changed.length === 0) return before;
  const rows = isBase ? [...before] : new Array<SlotRow | undefined>(ownership.slots).fill(undefined);
  for (const row of changed) {
    if (row.slot >= rows.length) return "incomplete";
    rows[row.slot] = row;
  }
  // Of a whole table each row once, of a delta none that was not there.
  const isWhole = isBase || changed.length === rows.length;
  return isWhole && rows.every((row) => row !== undefined) ? rows : "incomplete";
}

function tooMany({ environment, service }: Subscription, max: number, what: "instances" | "slots"): LeverError {
  return new LeverError(
    "PROTOCOL_VIOLATION",
    `the operator's table of ${environment}/${service} has more than ${max} ${what}`,
  );
}
