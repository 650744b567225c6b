/**
 * The operator's own service, `lever://lever-system/operator`, for agents and gateways: `discoveryChan`
 * (`discovery-connection.ts`), `ownershipChan` where there is a leader (`ownership-connection.ts`), and what the host
 * adds. A connection that is slow or silent delays no other.
 */

import type { Clock } from "@leveros/protocol/clock/clock.ts";
import {
  type DiscoveryIdentity,
  decodeDiscoveryIdentity,
  discoveryMethod,
} from "@leveros/protocol/control/discovery.ts";
import { decodeHolderIdentity, ownershipMethod } from "@leveros/protocol/control/ownership.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import type { Identity } from "@leveros/protocol/session/hello.ts";
import type { Session } from "@leveros/protocol/session/session.ts";
import type { Transport } from "@leveros/protocol/transport/transport.ts";
import {
  DiscoveryConnection,
  type DiscoveryConnectionOptions,
  type DiscoveryCounters,
} from "./discovery-connection.ts";
import {
  agentSessionsMax,
  agentSessionsOfPeerMax,
  type OperatorCall,
  type OperatorChannel,
  OperatorServer,
  type RunChannel,
} from "./operator-server.ts";
import { type HolderDoor, OwnershipConnection } from "./ownership-connection.ts";

export interface DiscoveryServerOptions extends DiscoveryConnectionOptions {
  readonly clock: Clock;
  /** Without one `ownershipChan` is not served. */
  readonly leader?: HolderDoor;
  /** Further methods, by name. */
  readonly calls?: Readonly<Record<string, OperatorCall>>;
  readonly channels?: Readonly<Record<string, OperatorChannel>>;
  /** The same, for the operator's other replicas alone. */
  readonly replicaChannels?: Readonly<Record<string, OperatorChannel>>;
  /** Sessions at a time, one for each agent or gateway; 20,000 unless set. One more is closed: OVERLOADED. */
  readonly sessionsMax?: number;
  /** Messages that wait for a slow agent on `ownershipChan`; 1,000 unless set. */
  readonly waitingMessagesMax?: number;
  readonly library?: string;
  /** For the log: a connection is there, or over; `error` if not cleanly. Does not throw. */
  readonly onConnected?: (identity: DiscoveryIdentity, peerName: string) => void;
  readonly onDisconnected?: (identity: DiscoveryIdentity, peerName: string, error: LeverError | undefined) => void;
}

/**
 * Give it transports only when the source has declared all that it knows: an agent that asks for a service before that
 * would be told that it does not exist.
 */
export class DiscoveryServer {
  readonly counters: DiscoveryCounters = { tablesSent: 0, deltasSent: 0 };
  readonly #options: DiscoveryServerOptions;
  readonly #server: OperatorServer;
  /** Those with a discovery channel. */
  readonly #discovering = new Set<Session>();

  constructor(options: DiscoveryServerOptions) {
    this.#options = options;
    const { clock, leader, calls = {}, channels = {}, replicaChannels = {}, library } = options;
    const { sessionsMax = agentSessionsMax } = options;
    const forReplicas = Object.entries(replicaChannels).map(([method, open]): [string, OperatorChannel] => [
      method,
      (args, session) => {
        checkReplica(method, helloOf(session));
        return open(args, session);
      },
    ]);
    this.#server = new OperatorServer({
      clock,
      calls,
      channels: {
        ...channels,
        ...Object.fromEntries(forReplicas),
        [discoveryMethod]: (args, session) => this.#discover(session, args),
        ...(leader !== undefined && {
          [ownershipMethod]: (args: readonly unknown[], session: Session) => this.#hold(leader, session, args),
        }),
      },
      sessionsMax,
      sessionsOfPeerMax: agentSessionsOfPeerMax,
      library,
    });
  }

  get sessionCount(): number {
    return this.#server.sessionCount;
  }

  /** Agents and gateways that have opened `discoveryChan`. */
  get connectionCount(): number {
    return this.#discovering.size;
  }

  /**
   * Begins a session with whoever dialled. The transport is the session's from here on. Of one `peer`, if it is known
   * who it is, 8 are open at a time: one more ends the oldest.
   */
  accept(transport: Transport, peer?: string): Session {
    return this.#server.accept(transport, peer);
  }

  /** Ends all sessions, and takes no more. Agents go on with the tables that they have, and dial again. */
  close(): void {
    this.#server.close();
  }

  #discover(session: Session, args: readonly unknown[]): RunChannel {
    if (this.#discovering.has(session)) {
      throw new LeverError("OVERLOADED", "this session has a discovery channel already; one is the most that it may", {
        effect: "none",
      });
    }
    const identity = decodeDiscoveryIdentity(args);
    const hello = helloOf(session);
    if (identity.instance !== undefined) checkInstance(identity, hello);
    const connection = new DiscoveryConnection(this.#options, this.counters, hello);
    connection.connect(identity);
    this.#discovering.add(session);
    return async (channel) => {
      this.#options.onConnected?.(identity, session.peerName);
      let error: unknown;
      try {
        await connection.run(channel);
      } catch (thrown) {
        error = thrown;
        throw thrown;
      } finally {
        connection.end();
        this.#discovering.delete(session);
        const reported = error === undefined ? undefined : LeverError.from(error);
        this.#options.onDisconnected?.(identity, session.peerName, reported);
      }
    };
  }

  #hold(leader: HolderDoor, session: Session, args: readonly unknown[]): RunChannel {
    const identity = decodeHolderIdentity(args);
    checkInstance(identity, helloOf(session));
    const connection = new OwnershipConnection(this.#options.waitingMessagesMax);
    connection.connect(leader, identity);
    return async (channel) => {
      try {
        await connection.run(channel);
      } finally {
        connection.end();
      }
    };
  }
}

/** Calls come after HELLO only. */
function helloOf({ hello }: Session): Identity {
  if (hello === undefined) throw new TypeError("a call on a session without HELLO");
  return hello;
}

/** Throws IDENTITY_DENIED. */
function checkReplica(method: string, { role }: Identity): void {
  if (role === "operator") return;
  throw new LeverError("IDENTITY_DENIED", `${method} is for the operator's own replicas, not for the role ${role}`, {
    effect: "none",
  });
}

/** An agent speaks for its own instance alone. Throws IDENTITY_DENIED. */
function checkInstance(
  said: Pick<DiscoveryIdentity, "environment" | "service" | "instance">,
  { role, environment = "-", service = "-", instance = "-" }: Identity,
): void {
  const isOwn = said.environment === environment && said.service === service && said.instance === instance;
  if (role === "agent" && isOwn) return;
  throw new LeverError(
    "IDENTITY_DENIED",
    `the ${role} ${environment}/${service}/${instance} speaks for ` +
      `${said.environment}/${said.service}/${said.instance}; an agent may for its own instance alone`,
    { effect: "none" },
  );
}
