import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { LeverError } from "../error/lever-error.ts";
import {
  clockRateError,
  leaderLeaseMs,
  leaseGapMs,
  leaseMsDefault,
  leaseMsMax,
  leaseMsMin,
  leaseTimes,
  newLeaderWaitMs,
  renewalAgeMsMax,
  renewalIntervalMs,
} from "./lease.ts";

const leases = fc.integer({ min: leaseMsMin, max: leaseMsMax });

test("a lease of 15 s ends as the rules have it", () => {
  expect(leaseTimes(leaseMsDefault)).toEqual({ leaseMs: 15_000, admitMs: 10_000, killMs: 13_000, gateMs: 14_300 });
});

describe("at any lease", () => {
  test("the holder ends in this order, with time for each", () => {
    fc.assert(
      fc.property(leases, (leaseMs) => {
        const { admitMs, killMs, gateMs } = leaseTimes(leaseMs);
        expect(admitMs).toBeGreaterThan(2 * (renewalIntervalMs + renewalAgeMsMax));
        expect(killMs).toBeGreaterThan(admitMs);
        expect(gateMs).toBeGreaterThan(killMs);
        expect(gateMs / (1 - clockRateError) + leaseGapMs).toBeLessThanOrEqual(leaseMs);
      }),
    );
  });

  test("the next holder begins after the last one is silent, whatever the clocks' rates, the age and the way", () => {
    const rate = fc.double({ min: 1 - clockRateError, max: 1 + clockRateError, noNaN: true });
    const ms = (max: number) => fc.double({ min: 0, max, noNaN: true });
    fc.assert(
      fc.property(leases, rate, rate, ms(renewalAgeMsMax), ms(60_000), (leaseMs, holderRate, leaderRate, age, way) => {
        // True time: the app's ping is sent at 0, the renewal when the holder's clock shows `age`, and it takes `way`.
        const processedAt = age / holderRate + way;
        const silentAt = leaseTimes(leaseMs).gateMs / holderRate;
        const nextAt = processedAt + leaderLeaseMs(leaseMs, Math.floor(age)) / leaderRate;
        expect(nextAt - silentAt).toBeGreaterThanOrEqual(leaseGapMs * 0.9);
      }),
    );
  });

  test("a new leader waits for any lease that the last one may have given", () => {
    fc.assert(
      fc.property(leases, (leaseMs) => {
        expect(newLeaderWaitMs(leaseMs)).toBeGreaterThanOrEqual(leaderLeaseMs(leaseMs, 0));
      }),
    );
  });
});

test.each([0, 14_999, 300_001, 15_000.5, Number.NaN, Number.POSITIVE_INFINITY])("%d ms is no lease", (leaseMs) => {
  expect(() => leaseTimes(leaseMs)).toThrow(LeverError);
});
