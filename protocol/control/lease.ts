/**
 * The times of a lease: at which the holder of slots ends what, on its own clock, so that the next holder cannot have
 * begun. Derived from the length of the lease; nobody else writes such a number.
 *
 * Source: leases with bounded clock rates (Gray and Cheriton, "Leases", SOSP 1989), with the rate's error on both sides:
 * the holder counts from before the leader could know, the leader from after.
 *
 * Invariant, at any lease that `leaseTimes` takes: gateMs/(1−ε) + δ ≤ lease.
 */

import { LeverError } from "../error/lever-error.ts";

/** ε: how far the rates of two clocks may differ from true time, each. */
export const clockRateError = 0.01;
/** δ: between the moment when the old holder falls silent and the one when the next may begin, at the least, ms. */
export const leaseGapMs = 500;
export const leaseMsDefault = 15_000;
/** Below it a renewal that fails once or twice, or a new leader, would cost leases. */
export const leaseMsMin = 15_000;
export const leaseMsMax = 300_000;
/** How often an agent asks its app whether it still serves. */
export const appPingIntervalMs = 1000;
/** How often a holder renews. */
export const renewalIntervalMs = 2000;
/** An answer of the app that is older than this when the renewal leaves is not reported: the next one is waited for. */
export const renewalAgeMsMax = 1000;
/** How long a drain for a rebalance may take until it is called off. */
export const rebalanceDrainMs = 10_000;
/** How long a hook of a resource may take. */
export const hookTimeoutMs = 5000;
/** How long the next holder tries to fetch what the last one left. */
export const handOverFetchMs = 2000;
/** How long the last holder keeps it. */
export const handOverKeepMs = 10_000;
export const resourceStateBytesMax = 1024 * 1024;
export const handOverBytesMax = 64 * 1024 * 1024;

/** What methods have to come to an end between their abort and the gate, and a process to die. */
const abortedForMs = 4300;
const killedForMs = 1300;

export interface LeaseTimes {
  readonly leaseMs: number;
  /** From the lease's start on the holder's clock: nothing is admitted any more, and methods are aborted. */
  readonly admitMs: number;
  /** With `onLapse: Kill` the process ends if a method of the slots still runs. */
  readonly killMs: number;
  /** Nothing goes out any more. */
  readonly gateMs: number;
}

/** Throws INVALID_OPTION outside of 15 s to 300 s. */
export function leaseTimes(leaseMs: number): LeaseTimes {
  if (!Number.isInteger(leaseMs) || leaseMs < leaseMsMin || leaseMs > leaseMsMax) {
    throw new LeverError(
      "INVALID_OPTION",
      `the lease is ${leaseMs} ms, expected a whole number from ${leaseMsMin} to ${leaseMsMax}`,
    );
  }
  const gateMs = Math.floor(((leaseMs - leaseGapMs) * (1 - clockRateError)) / 100) * 100;
  return { leaseMs, admitMs: gateMs - abortedForMs, killMs: gateMs - killedForMs, gateMs };
}

/**
 * For how long after it has processed a renewal the leader takes the incarnation for a holder, on its own clock: the
 * lease began `ageMs` (on the holder's clock) before the renewal was sent.
 */
export function leaderLeaseMs(leaseMs: number, ageMs: number): number {
  return leaseMs * (1 + clockRateError) - ageMs * (1 - 2 * clockRateError);
}

/** What a new leader waits before it takes the lease of an incarnation that it never heard of for ended. */
export function newLeaderWaitMs(leaseMs: number): number {
  return leaseMs * (1 + clockRateError);
}
