/**
 * Serves `lever://lever-system/operator/discoveryChan`: one channel for each agent and gateway, over which tables go
 * out and reports of apps come in.
 *
 * It owns the connections and what each has been sent. Invariant: for a connection at most one message waits to be
 * sent; a subscriber that is slow gets, when it is ready, what has changed since its last message, in one. The tables
 * and the states are `operator/core`'s, listening and identity the host's.
 */

import type { Channel } from "@leveros/protocol/channel/channel.ts";
import type { Clock } from "@leveros/protocol/clock/clock.ts";
import {
  type AgentMessage,
  type DiscoveryIdentity,
  decodeAgentMessage,
  decodeDiscoveryIdentity,
  discoveryMethod,
  instancesPerMessageMax,
  type OperatorMessage,
  operatorEnvironment,
  operatorService,
  type SubscribeMessage,
  subscriptionsMax,
} from "@leveros/protocol/control/discovery.ts";
import { DeadlineWheel } from "@leveros/protocol/deadline/deadline-wheel.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { MethodError } from "@leveros/protocol/error/method-error.ts";
import { AssemblyBudget } from "@leveros/protocol/invocation/assembly.ts";
import { type Invocation, InvocationServer, type MethodHost } from "@leveros/protocol/invocation/invocation-server.ts";
import {
  defaultSessionLimits,
  type SessionLimits,
  sessionWindowBytesMin,
  streamsMaxMin,
} from "@leveros/protocol/session/limits.ts";
import { Session } from "@leveros/protocol/session/session.ts";
import type { Transport } from "@leveros/protocol/transport/transport.ts";
import { decodeArgs } from "@leveros/protocol/value/decode.ts";
import type { Encoded } from "@leveros/protocol/value/form.ts";
import type { EndpointTables } from "../core/endpoint-table.ts";
import type { AgentLink, ServiceRegistry } from "../core/service-registry.ts";

export interface DiscoveryServerOptions {
  readonly registry: ServiceRegistry;
  readonly clock: Clock;
  /** Sessions at a time, one for each agent or gateway; 20,000 unless set. One more is closed: OVERLOADED. */
  readonly sessionsMax?: number;
  /** Subscriptions of one connection; 10,000 unless set. */
  readonly subscriptionsMax?: number;
  /** Instances, and so changes, in one message; 1,000 unless set. */
  readonly instancesPerMessageMax?: number;
  readonly library?: string;
  /** For the log: a connection is there, or over; `error` if not cleanly. Does not throw. */
  readonly onConnected?: (identity: DiscoveryIdentity, peerName: string) => void;
  readonly onDisconnected?: (identity: DiscoveryIdentity, peerName: string, error: LeverError | undefined) => void;
}

/** For metrics. */
export interface DiscoveryCounters {
  tablesSent: number;
  deltasSent: number;
}

/** Agents send little: what all of them together may have half sent, in bytes. */
const assemblyBytesMax = 16 * 1024 * 1024;

const sessionLimits: SessionLimits = {
  ...defaultSessionLimits,
  sessionWindowBytes: sessionWindowBytesMin,
  streamsMax: streamsMaxMin,
  targetsMax: 16,
};

/**
 * Give it transports only when the source has declared all that it knows: an agent that asks for a service before that
 * would be told that it does not exist.
 */
export class DiscoveryServer {
  readonly counters: DiscoveryCounters = { tablesSent: 0, deltasSent: 0 };
  readonly #options: DiscoveryServerOptions;
  readonly #server: InvocationServer;
  readonly #sessions = new Set<Session>();
  readonly #connections = new Map<Session, Connection>();
  #isClosed = false;

  constructor(options: DiscoveryServerOptions) {
    this.#options = options;
    const { clock } = options;
    const host: MethodHost = {
      prepare: (invocation) => notFound(invocation),
      prepareChannel: (invocation, args) => this.#prepareChannel(invocation, args),
      describeThrown: (_invocation, thrown) => LeverError.from(thrown).message,
    };
    this.#server = new InvocationServer({
      host,
      wheel: new DeadlineWheel(clock),
      budget: new AssemblyBudget(assemblyBytesMax),
      now: () => clock.now(),
    });
  }

  get sessionCount(): number {
    return this.#sessions.size;
  }

  /** Agents and gateways that have opened the channel. */
  get connectionCount(): number {
    return this.#connections.size;
  }

  /** Begins a session with whoever dialled. The transport is the session's from here on. */
  accept(transport: Transport): Session {
    const { clock, library, sessionsMax = 20_000 } = this.#options;
    const session: Session = new Session({
      transport,
      clock,
      side: "acceptor",
      identity: {
        role: "operator",
        environment: operatorEnvironment,
        service: operatorService,
        ...(library !== undefined && { library }),
      },
      limits: sessionLimits,
      handler: {
        onOpen: (stream, open) => this.#server.onOpen(stream, open),
        onClose: () => this.#sessions.delete(session),
      },
    });
    this.#sessions.add(session);
    if (this.#isClosed) session.close(stopping());
    else if (this.#sessions.size > sessionsMax) {
      session.close(
        new LeverError("OVERLOADED", `${sessionsMax} sessions are open with the operator, the most that it takes`, {
          effect: "none",
          details: { limit: "sessionsMax", sessionsMax },
        }),
      );
    }
    return session;
  }

  /** Ends all sessions, and takes no more. Agents go on with the tables that they have, and dial again. */
  close(): void {
    this.#isClosed = true;
    for (const session of [...this.#sessions]) session.close(stopping());
  }

  #prepareChannel(invocation: Invocation, args: Encoded): (channel: Channel) => unknown {
    const { environment, service, method } = invocation.target;
    if (environment !== operatorEnvironment || service !== operatorService || method !== discoveryMethod) {
      return notFound(invocation);
    }
    const { session } = invocation;
    if (this.#connections.has(session)) {
      throw new LeverError("OVERLOADED", "this session has a discovery channel already; one is the most that it may", {
        effect: "none",
      });
    }
    if (args.form === "bytes") {
      throw new LeverError("ARGS_FORM", `${discoveryMethod} takes one JSON value, got bytes`);
    }
    const identity = decodeDiscoveryIdentity(decodeArgs(args.bytes));
    const { registry } = this.#options;
    const connection = new Connection(this.#options, this.counters);
    const { environment: ofEnvironment, service: ofService, instance, address, zone } = identity;
    if (ofEnvironment !== undefined && ofService !== undefined && instance !== undefined && address !== undefined) {
      const report = {
        environment: ofEnvironment,
        service: ofService,
        instance,
        address,
        ...(zone !== undefined && { zone }),
      };
      connection.link = registry.connect(report, () => connection.replaced(instance));
    }
    this.#connections.set(session, connection);
    return async (channel) => {
      this.#options.onConnected?.(identity, session.peerName);
      let error: unknown;
      try {
        await connection.run(channel);
      } catch (thrown) {
        error = thrown;
        throw LeverError.is(thrown) && !channel.isEnded
          ? new MethodError({ reason: thrown.reason, message: thrown.rawMessage })
          : thrown;
      } finally {
        connection.end();
        this.#connections.delete(session);
        this.#options.onDisconnected?.(
          identity,
          session.peerName,
          error === undefined ? undefined : LeverError.from(error),
        );
      }
    };
  }
}

interface Subscription {
  readonly environment: string;
  readonly service: string;
  /** What the subscriber has, once all that was sent has arrived; undefined: nothing. */
  version: number | undefined;
  readonly unwatch: () => void;
}

class Connection {
  link: AgentLink | undefined;
  readonly #tables: EndpointTables;
  readonly #clock: Clock;
  readonly #counters: DiscoveryCounters;
  readonly #subscriptionsMax: number;
  readonly #instancesPerMessageMax: number;
  readonly #subscriptions = new Map<string, Subscription>();
  /** Subscriptions whose table has changed since what was sent; in turns, oldest first. */
  readonly #behind = new Set<Subscription>();
  #channel: Channel<unknown, OperatorMessage> | undefined;
  #isSending = false;

  constructor(options: DiscoveryServerOptions, counters: DiscoveryCounters) {
    this.#tables = options.registry.tables;
    this.#clock = options.clock;
    this.#counters = counters;
    this.#subscriptionsMax = options.subscriptionsMax ?? subscriptionsMax;
    this.#instancesPerMessageMax = options.instancesPerMessageMax ?? instancesPerMessageMax;
  }

  async run(channel: Channel): Promise<void> {
    this.#channel = channel as Channel<unknown, OperatorMessage>;
    for await (const value of channel) {
      const message = decodeAgentMessage(value);
      if (message !== undefined) this.#onMessage(message);
    }
  }

  /** Another connection of the same instance has come. */
  replaced(instance: string): void {
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
    this.link?.lost();
  }

  #onMessage(message: AgentMessage): void {
    switch (message.type) {
      case "subscribe":
        return this.#subscribe(message);
      case "unsubscribe":
        return this.#unsubscribe(message.environment, message.service);
      case "register": {
        const { type: _, ...registration } = message;
        return this.#ofInstance(message.type).registered(registration);
      }
      case "unregister":
        return this.#ofInstance(message.type).unregistered();
      case "draining":
        return this.#ofInstance(message.type).draining();
    }
  }

  #ofInstance(type: string): AgentLink {
    if (this.link !== undefined) return this.link;
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
      version: origin === this.#tables.origin ? version : undefined,
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
        await this.#bringUp(subscription);
      }
    } catch {
      // The channel has ended: `run` learns of it too, and says why.
    } finally {
      this.#isSending = false;
    }
  }

  async #bringUp(subscription: Subscription): Promise<void> {
    const { environment, service, version } = subscription;
    const changes = version === undefined ? undefined : this.#tables.changesSince(environment, service, version);
    const countMax = this.#instancesPerMessageMax;
    if (changes !== undefined && changes.changed.length + changes.removed.length <= countMax) {
      if (changes.version === version) return;
      subscription.version = changes.version;
      this.#counters.deltasSent++;
      return this.#send({ type: "delta", environment, service, ...changes });
    }
    const table = this.#tables.table(environment, service);
    subscription.version = table.version;
    this.#counters.tablesSent++;
    for (let part = 0, at = 0; part === 0 || at < table.instances.length; part++, at += countMax) {
      // Unsubscribed meanwhile.
      if (this.#subscriptions.get(`${environment}/${service}`) !== subscription) return;
      await this.#send({
        type: "table",
        origin: this.#tables.origin,
        ...table,
        instances: table.instances.slice(at, at + countMax),
        part,
        more: at + countMax < table.instances.length,
      });
    }
  }

  async #send(message: OperatorMessage): Promise<void> {
    await this.#channel?.send(message);
  }
}

function notFound(invocation: Invocation): never {
  throw new LeverError("METHOD_NOT_FOUND", `the operator has no method ${invocation.target.text}`, { effect: "none" });
}

function stopping(): LeverError {
  return new LeverError("DRAINING", "the operator stops", { effect: "none" });
}
