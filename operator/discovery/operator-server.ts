/**
 * Sessions with whoever dials the operator, and its methods, `lever://lever-system/operator/<method>`: which there are is
 * said by who makes one. It owns the sessions and nothing else; listening and identity are the host's.
 */

import type { Channel } from "@leveros/protocol/channel/channel.ts";
import type { Clock, TimerHandle } from "@leveros/protocol/clock/clock.ts";
import { operatorEnvironment, operatorService } from "@leveros/protocol/control/discovery.ts";
import { DeadlineWheel } from "@leveros/protocol/deadline/deadline-wheel.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { MethodError } from "@leveros/protocol/error/method-error.ts";
import { AssemblyBudget } from "@leveros/protocol/invocation/assembly.ts";
import { type Invocation, InvocationServer, type MethodHost } from "@leveros/protocol/invocation/invocation-server.ts";
import {
  defaultSessionLimits,
  operatorLinkTimes,
  type SessionLimits,
  sessionWindowBytesMin,
  streamsMaxMin,
} from "@leveros/protocol/session/limits.ts";
import { Places } from "@leveros/protocol/session/places.ts";
import { Session } from "@leveros/protocol/session/session.ts";
import type { Transport } from "@leveros/protocol/transport/transport.ts";
import { decodeArgs } from "@leveros/protocol/value/decode.ts";
import type { Encoded } from "@leveros/protocol/value/form.ts";

/**
 * A method. It checks the arguments itself; a LeverError with effect none, thrown or rejected with, is given to the
 * caller as it is.
 */
export type OperatorCall = (args: readonly unknown[], session?: Session) => unknown;
/** The same of a streaming one: checks the arguments, and gives what runs. `session` is the caller's. */
export type OperatorChannel = (args: readonly unknown[], session: Session) => RunChannel;
export type RunChannel = (channel: Channel) => Promise<void>;

export interface OperatorServerOptions {
  readonly clock: Clock;
  readonly calls?: Readonly<Record<string, OperatorCall>>;
  readonly channels?: Readonly<Record<string, OperatorChannel>>;
  /** One more is closed: OVERLOADED. */
  readonly sessionsMax: number;
  /**
   * Of one peer, where `accept` is told which it is; one more ends the oldest. So it is those of a peer that was cut off
   * that go, and never the one that it comes back with. No limit unless set.
   */
  readonly sessionsOfPeerMax?: number;
  /** A session is ended after this time. */
  readonly sessionMsMax?: number;
  readonly library?: string | undefined;
}

/** One for each agent, gateway and other replica, at a replica. */
export const agentSessionsMax = 20_000;
/**
 * Of them, those of one identity. An agent has two, for tables and for leases, and for a while those that were cut off and
 * are not known to be dead yet.
 */
export const agentSessionsOfPeerMax = 8;
/** Of people at a time, at a replica. */
export const peopleSessionsMax = 100;
/** Agents send little: what all of them together may have half sent, in bytes. */
const assemblyBytesMax = 16 * 1024 * 1024;

const sessionLimits: SessionLimits = {
  ...defaultSessionLimits,
  ...operatorLinkTimes,
  sessionWindowBytes: sessionWindowBytesMin,
  streamsMax: streamsMaxMin,
  targetsMax: 16,
};

export class OperatorServer {
  readonly #options: OperatorServerOptions;
  readonly #server: InvocationServer;
  readonly #sessions = new Set<Session>();
  readonly #ofPeers: Places<Session>;
  readonly #calls: ReadonlyMap<string, OperatorCall>;
  readonly #channels: ReadonlyMap<string, OperatorChannel>;
  #isClosed = false;

  constructor(options: OperatorServerOptions) {
    this.#options = options;
    const { clock, calls = {}, channels = {}, sessionsOfPeerMax = Number.POSITIVE_INFINITY } = options;
    this.#ofPeers = new Places({ ofKeyMax: sessionsOfPeerMax });
    this.#calls = new Map(Object.entries(calls));
    this.#channels = new Map(Object.entries(channels));
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

  /**
   * Begins a session with whoever dialled. The transport is the session's from here on. `peer` is whom the host takes it
   * for, an identity or an address: whose sessions it counts as.
   */
  accept(transport: Transport, peer?: string): Session {
    const { clock, library, sessionsMax, sessionMsMax } = this.#options;
    if (peer !== undefined) this.#makeRoom(peer);
    let timer: TimerHandle | undefined;
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
          this.#ofPeers.free(session);
          if (timer !== undefined) clock.clearTimer(timer);
        },
      },
    });
    this.#sessions.add(session);
    if (peer !== undefined) this.#ofPeers.take(peer, session);
    if (this.#isClosed) session.close(stopping());
    else if (this.#sessions.size > sessionsMax) {
      session.close(
        new LeverError("OVERLOADED", `${sessionsMax} sessions are open with the operator, the most that it takes`, {
          effect: "none",
          details: { limit: "sessionsMax", sessionsMax },
        }),
      );
    }
    if (sessionMsMax === undefined || session.isClosed) return session;
    timer = clock.setTimer(() => {
      session.close(new LeverError("CANCELLED", `sessions at this door are ended after ${sessionMsMax} ms`));
    }, sessionMsMax);
    return session;
  }

  /** Ends all sessions, and takes no more. */
  close(): void {
    this.#isClosed = true;
    for (const session of [...this.#sessions]) session.close(stopping());
  }

  #makeRoom(peer: string): void {
    const taken = this.#ofPeers.inTheWayOf(peer);
    if (taken === undefined) return;
    const { max: sessionsOfPeerMax, oldest } = taken;
    oldest.close(
      new LeverError(
        "OVERLOADED",
        `${peer} has opened more than ${sessionsOfPeerMax} sessions with the operator, the most that one may have; this ` +
          "was the oldest: end those that are not used",
        { effect: "none", details: { limit: "sessionsOfPeerMax", sessionsOfPeerMax } },
      ),
    );
  }

  #prepareCall(invocation: Invocation, args: Encoded): (() => unknown) | Promise<() => unknown> {
    const call = find(this.#calls, invocation);
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

  #prepareChannel(invocation: Invocation, args: Encoded): RunChannel {
    const open = find(this.#channels, invocation);
    const run = open(valuesOf(invocation, args), invocation.session);
    return async (channel) => {
      try {
        await run(channel);
      } catch (error) {
        throw channel.isEnded ? error : shown(error);
      }
    };
  }
}

function find<Method>(methods: ReadonlyMap<string, Method>, { target }: Invocation): Method {
  const { environment, service, method } = target;
  const isOperator = environment === operatorEnvironment && service === operatorService;
  const found = isOperator ? methods.get(method) : undefined;
  if (found !== undefined) return found;
  throw new LeverError("METHOD_NOT_FOUND", `the operator has no method ${target.text}`, { effect: "none" });
}

function valuesOf({ target }: Invocation, args: Encoded): readonly unknown[] {
  if (args.form === "value") return decodeArgs(args.bytes);
  throw new LeverError("ARGS_FORM", `${target.method} takes JSON values, got bytes`);
}

/** What the peer reads of an error that the operator raises once a method runs. */
function shown(error: unknown): unknown {
  return LeverError.is(error) ? new MethodError({ reason: error.reason, message: error.rawMessage }) : error;
}

function stopping(): LeverError {
  return new LeverError("DRAINING", "the operator stops", { effect: "none" });
}
