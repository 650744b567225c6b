/**
 * The operator's own service, `lever://lever-system/operator`: sessions with agents, gateways and tools, and which method
 * is served by what.
 *
 * Streaming methods: `discoveryChan` (`discovery-connection.ts`), `ownershipChan` where there is a leader
 * (`ownership-connection.ts`), and what the host adds, as are all calls. It owns the sessions and nothing else; listening
 * and identity are the host's. A connection that is slow or silent delays no other.
 */

import type { Channel } from "@leveros/protocol/channel/channel.ts";
import type { Clock, TimerHandle } from "@leveros/protocol/clock/clock.ts";
import {
  type DiscoveryIdentity,
  decodeDiscoveryIdentity,
  discoveryMethod,
  operatorEnvironment,
  operatorService,
} from "@leveros/protocol/control/discovery.ts";
import { decodeHolderIdentity, ownershipMethod } from "@leveros/protocol/control/ownership.ts";
import { DeadlineWheel } from "@leveros/protocol/deadline/deadline-wheel.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { MethodError } from "@leveros/protocol/error/method-error.ts";
import { AssemblyBudget } from "@leveros/protocol/invocation/assembly.ts";
import { type Invocation, InvocationServer, type MethodHost } from "@leveros/protocol/invocation/invocation-server.ts";
import { describeIdentity, type Identity } from "@leveros/protocol/session/hello.ts";
import {
  defaultSessionLimits,
  operatorLinkTimes,
  type SessionLimits,
  sessionWindowBytesMin,
  streamsMaxMin,
} from "@leveros/protocol/session/limits.ts";
import { Session } from "@leveros/protocol/session/session.ts";
import type { Transport } from "@leveros/protocol/transport/transport.ts";
import { decodeArgs } from "@leveros/protocol/value/decode.ts";
import type { Encoded } from "@leveros/protocol/value/form.ts";
import {
  DiscoveryConnection,
  type DiscoveryConnectionOptions,
  type DiscoveryCounters,
} from "./discovery-connection.ts";
import { type HolderDoor, OwnershipConnection } from "./ownership-connection.ts";

/**
 * A further method. It checks the arguments itself; a LeverError with effect none, thrown or rejected with, is given to
 * the caller as it is.
 */
export type OperatorCall = (args: readonly unknown[], session?: Session) => unknown;
/** The same of a streaming one: checks the arguments, and gives what runs. */
export type OperatorChannel = (args: readonly unknown[], session?: Session) => (channel: Channel) => Promise<void>;

export interface DiscoveryServerOptions extends DiscoveryConnectionOptions {
  readonly clock: Clock;
  /** Without one `ownershipChan` is not served. */
  readonly leader?: HolderDoor;
  /** Further methods, by name. */
  readonly calls?: Readonly<Record<string, OperatorCall>>;
  readonly channels?: Readonly<Record<string, OperatorChannel>>;
  /** Those of `calls` that are for who has proven nothing, on sessions that are short. */
  readonly anonymousCalls?: readonly string[];
  /** Sessions at a time, one for each agent or gateway; 20,000 unless set. One more is closed: OVERLOADED. */
  readonly sessionsMax?: number;
  /** Messages that wait for a slow agent on `ownershipChan`; 1,000 unless set. */
  readonly waitingMessagesMax?: number;
  readonly library?: string;
  /** For the log: a connection is there, or over; `error` if not cleanly. Does not throw. */
  readonly onConnected?: (identity: DiscoveryIdentity, peerName: string) => void;
  readonly onDisconnected?: (identity: DiscoveryIdentity, peerName: string, error: LeverError | undefined) => void;
}

/** Agents send little: what all of them together may have half sent, in bytes. */
const assemblyBytesMax = 16 * 1024 * 1024;

/** Of those who have proven nothing: a session is for one question. */
const anonymousMs = 20_000;
const anonymousMax = 2000;

const sessionLimits: SessionLimits = {
  ...defaultSessionLimits,
  ...operatorLinkTimes,
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
  /** Those with a discovery channel. */
  readonly #discovering = new Set<Session>();
  readonly #channels: Map<string, (invocation: Invocation, args: readonly unknown[]) => RunChannel>;
  readonly #calls: ReadonlyMap<string, OperatorCall>;
  readonly #anonymous = new Set<Session>();
  #isClosed = false;

  constructor(options: DiscoveryServerOptions) {
    this.#options = options;
    const { clock, leader, calls = {}, channels = {} } = options;
    this.#calls = new Map(Object.entries(calls));
    this.#channels = new Map(
      Object.entries(channels).map(([name, open]) => [name, ({ session }, args) => open(args, session)]),
    );
    this.#channels.set(discoveryMethod, ({ session }, args) => this.#discover(session, args));
    if (leader !== undefined)
      this.#channels.set(ownershipMethod, ({ session }, args) => this.#hold(leader, session, args));
    const host: MethodHost = {
      prepare: (invocation, args) => this.#prepareCall(invocation, args),
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

  /** Agents and gateways that have opened `discoveryChan`. */
  get connectionCount(): number {
    return this.#discovering.size;
  }

  /**
   * Begins a session with who dialled and has proven nothing, where others have: `anonymousCalls` are all that it may
   * make, and it is ended soon.
   */
  acceptAnonymous(transport: Transport): void {
    const { clock } = this.#options;
    let timer: TimerHandle | undefined;
    const session = this.accept(transport, (closed) => {
      if (timer !== undefined) clock.clearTimer(timer);
      this.#anonymous.delete(closed);
    });
    if (session.isClosed) return;
    timer = clock.setTimer(
      () => session.close(new LeverError("UNAUTHENTICATED", "sessions without a certificate are short")),
      anonymousMs,
    );
    this.#anonymous.add(session);
    if (this.#anonymous.size <= anonymousMax) return;
    session.close(
      new LeverError("OVERLOADED", `${anonymousMax} ask for certificates, the most at a time`, { effect: "none" }),
    );
  }

  /** Begins a session with whoever dialled. The transport is the session's from here on. */
  accept(transport: Transport, onClose?: (session: Session) => void): Session {
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
        onClose: () => {
          this.#sessions.delete(session);
          onClose?.(session);
        },
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

  // ---------------------------------------------------------------- calls

  #prepareCall(invocation: Invocation, args: Encoded): (() => unknown) | Promise<() => unknown> {
    const call = this.#find(this.#calls, invocation);
    // Within `prepare`, so that what it is refused with reaches the caller as it is.
    const result = call(valuesOf(invocation, args), invocation.session);
    if (!(result instanceof Promise)) return () => result;
    return result.then(
      (value) => () => value,
      (error: unknown) => {
        if (LeverError.is(error) && error.effect === "none") throw error;
        return () => {
          throw shown(error);
        };
      },
    );
  }

  // ---------------------------------------------------------------- channels

  #prepareChannel(invocation: Invocation, args: Encoded): RunChannel {
    const open = this.#find(this.#channels, invocation);
    const run = open(invocation, valuesOf(invocation, args));
    return async (channel) => {
      try {
        await run(channel);
      } catch (error) {
        throw channel.isEnded ? error : shown(error);
      }
    };
  }

  #discover(session: Session, args: readonly unknown[]): RunChannel {
    if (this.#discovering.has(session)) {
      throw new LeverError("OVERLOADED", "this session has a discovery channel already; one is the most that it may", {
        effect: "none",
      });
    }
    const identity = decodeDiscoveryIdentity(args);
    const { provenIdentity: proven } = session;
    // A replica asks as one that serves nothing.
    const asWho = proven?.role === "operator" ? { role: "gateway" as const } : proven;
    if (asWho !== undefined) checkClaim(asWho, identity);
    const connection = new DiscoveryConnection(this.#options, this.counters);
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
    const connection = new OwnershipConnection(this.#options.waitingMessagesMax);
    const identity = decodeHolderIdentity(args);
    if (session.provenIdentity !== undefined) checkClaim(session.provenIdentity, { ...identity, role: "agent" });
    connection.connect(leader, identity);
    return async (channel) => {
      try {
        await connection.run(channel);
      } finally {
        connection.end();
      }
    };
  }

  #find<Method>(methods: ReadonlyMap<string, Method>, { target, session }: Invocation): Method {
    const { environment, service, method } = target;
    if (this.#anonymous.has(session) && this.#options.anonymousCalls?.includes(method) !== true) {
      throw new LeverError("UNAUTHENTICATED", `${target.text} takes a certificate, and the session has none`, {
        effect: "none",
      });
    }
    const isOperator = environment === operatorEnvironment && service === operatorService;
    const found = isOperator ? methods.get(method) : undefined;
    if (found !== undefined) return found;
    throw new LeverError("METHOD_NOT_FOUND", `the operator has no method ${target.text}`, { effect: "none" });
  }
}

type RunChannel = (channel: Channel) => Promise<void>;

function valuesOf({ target }: Invocation, args: Encoded): readonly unknown[] {
  if (args.form === "value") return decodeArgs(args.bytes);
  throw new LeverError("ARGS_FORM", `${target.method} takes JSON values, got bytes`);
}

/** What the peer reads of an error that the operator raises once a method runs. */
function shown(error: unknown): unknown {
  return LeverError.is(error) ? new MethodError({ reason: error.reason, message: error.rawMessage }) : error;
}

/** Throws IDENTITY_DENIED if `claimed` is another than is proven. */
function checkClaim(proven: Identity, claimed: Partial<Identity> & Pick<Identity, "role">): void {
  const { role, environment, service, instance } = proven;
  const isSame =
    claimed.role === role &&
    claimed.environment === environment &&
    claimed.service === service &&
    (role !== "agent" || claimed.instance === instance);
  if (isSame) return;
  throw new LeverError("IDENTITY_DENIED", `${describeIdentity(proven)} asks as ${describeIdentity(claimed)}`, {
    effect: "none",
  });
}

/** What is for the operator's replicas alone. Throws IDENTITY_DENIED for others, where it is known who they are. */
export function checkReplica(session: Session | undefined): void {
  const proven = session?.provenIdentity;
  if (proven === undefined || proven.role === "operator") return;
  throw new LeverError("IDENTITY_DENIED", `${describeIdentity(proven)} is no replica of the operator`, {
    effect: "none",
  });
}

function stopping(): LeverError {
  return new LeverError("DRAINING", "the operator stops", { effect: "none" });
}
