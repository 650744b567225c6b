/** Sessions with the operator's replicas, on the dialer's side. */

import { runtimeClock } from "@leveros/protocol/clock/runtime-clock.ts";
import type { Identity } from "@leveros/protocol/session/hello.ts";
import { defaultSessionLimits, operatorLinkTimes, type SessionLimits } from "@leveros/protocol/session/limits.ts";
import { Session } from "@leveros/protocol/session/session.ts";
import type { Transport } from "@leveros/protocol/transport/transport.ts";
import { OperatorDialer } from "./operator-dialer.ts";
import { dialTcp } from "./socket.ts";

export const operatorDialTimeoutMs = 3000;

/** How a connection to `host:port` is made; rejects after `timeoutMs`. */
export type DialTransport = (address: string, timeoutMs: number) => Promise<Transport>;

/** Sessions with the replicas behind `host:port`. */
export interface OperatorSessions {
  /** With any of them, for tables. */
  any(): Promise<Session>;
  /**
   * With the one at this address, or any if that cannot be reached soon, or there is none: for leases, whose holder has
   * to know in good time that the other end is dead.
   */
  leader(address: string | undefined): Promise<Session>;
}

export function operatorSessions(
  operator: string,
  identity: Identity,
  dial: DialTransport = dialTcp,
): OperatorSessions {
  const dialer = new OperatorDialer({ operator, timeoutMs: operatorDialTimeoutMs, random: Math.random, dial });
  return {
    any: async () => startOperatorSession(await dialer.any(), identity, operatorLinkTimes),
    leader: async (address) =>
      startOperatorSession(await (address === undefined ? dialer.any() : dialer.at(address)), identity),
  };
}

/** A session with the replica at this address. */
export async function dialOperator(
  address: string,
  identity: Identity,
  dial: DialTransport = dialTcp,
): Promise<Session> {
  return startOperatorSession(await dial(address, operatorDialTimeoutMs), identity);
}

export function startOperatorSession(
  transport: Transport,
  identity: Identity,
  times: Partial<SessionLimits> = {},
): Session {
  return new Session({
    transport,
    clock: runtimeClock(globalThis),
    side: "dialer",
    identity,
    limits: { ...defaultSessionLimits, ...times },
    handler: {},
  });
}
