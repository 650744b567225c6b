import { catalogue, type Effect, isReason, type Reason } from "@leveros/protocol/error/catalogue.ts";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { RetryBudget } from "./retry-budget.ts";
import {
  attemptsMax,
  backoffMsMax,
  decideHolderRetry,
  decideRetry,
  drainingRefusalsMax,
  type FailedAttempt,
  type FailedHolderAttempt,
  movedRefusalsMax,
} from "./retry-policy.ts";

const reasons = Object.keys(catalogue).filter(isReason);
const emptyBudget = () => new RetryBudget({ ratio: 0, floorPerSecond: 0 });

function failed(reason: Reason, change: Partial<FailedAttempt> = {}): FailedAttempt {
  return {
    attempt: 1,
    drainingRefusals: 0,
    effect: catalogue[reason].effect,
    kind: catalogue[reason].kind,
    reason,
    isIdempotent: false,
    hasToken: false,
    timeLeftMs: 30_000,
    now: 0,
    budget: new RetryBudget(),
    random: () => 0.5,
    ...change,
  };
}

describe("decideRetry", () => {
  const yes = { retry: true, elsewhere: true, delayMs: 5 };
  const same = { retry: true, elsewhere: false, delayMs: 5 };
  const no = { retry: false };
  const table: [string, Reason, Partial<FailedAttempt>, unknown][] = [
    ["did not run", "INSTANCE_UNREACHABLE", {}, yes],
    ["did not run, no budget", "INSTANCE_UNREACHABLE", { budget: emptyBudget() }, yes],
    ["did not run, overloaded", "OVERLOADED", {}, yes],
    ["did not run, overloaded, no budget", "OVERLOADED", { budget: emptyBudget() }, no],
    ["draining: at once", "DRAINING", {}, { retry: true, elsewhere: true, delayMs: 0 }],
    ["draining: no budget needed", "DRAINING", { budget: emptyBudget() }, { retry: true, elsewhere: true, delayMs: 0 }],
    [
      "draining: no attempt",
      "DRAINING",
      { attempt: 5, drainingRefusals: 7 },
      { retry: true, elsewhere: true, delayMs: 0 },
    ],
    ["draining without end", "DRAINING", { drainingRefusals: drainingRefusalsMax + 1 }, no],
    ["draining, but an earlier attempt may have run", "DRAINING", { effect: "unknown" }, no],
    ["draining, an earlier attempt may have run, token only", "DRAINING", { effect: "unknown", hasToken: true }, no],
    ["may have run", "CONNECTION_LOST", {}, no],
    ["lost before it left", "CONNECTION_LOST", { effect: "none" }, yes],
    ["may have run, idempotent", "CONNECTION_LOST", { isIdempotent: true }, yes],
    ["may have run, idempotent, no budget", "CONNECTION_LOST", { isIdempotent: true, budget: emptyBudget() }, no],
    ["may have run, token", "CONNECTION_LOST", { hasToken: true }, same],
    ["may have run, token, no budget", "CONNECTION_LOST", { hasToken: true, budget: emptyBudget() }, no],
    ["may have run, idempotent with token", "CONNECTION_LOST", { isIdempotent: true, hasToken: true }, same],
    ["did not run, token", "INSTANCE_UNREACHABLE", { hasToken: true }, yes],
    ["the token is forgotten", "TOKEN_MEMORY_LOST", { isIdempotent: true, hasToken: true }, no],
    ["from a hook and back", "HOOK_REENTRY", { isIdempotent: true }, no],
    ["ran, idempotent", "APP_GONE", { effect: "ran", isIdempotent: true }, yes],
    ["unreachable after it may have run", "INSTANCE_UNREACHABLE", { effect: "unknown" }, no],
    ["cancelled", "CANCELLED", { effect: "none", isIdempotent: true }, no],
    ["deadline", "DEADLINE_EXCEEDED", { effect: "none", isIdempotent: true }, no],
    ["method's error, idempotent", "METHOD_ERROR", { isIdempotent: true, hasToken: true }, no],
    ["method threw, idempotent", "METHOD_THREW", { isIdempotent: true, hasToken: true }, no],
    ["arguments", "INVALID_ARGUMENTS", { isIdempotent: true }, no],
    ["internal, idempotent", "INTERNAL", { isIdempotent: true }, yes],
    ["last attempt", "INSTANCE_UNREACHABLE", { attempt: attemptsMax }, no],
    ["fewer attempts set", "INSTANCE_UNREACHABLE", { attempt: 1, attemptsMax: 1 }, no],
    ["no time left", "INSTANCE_UNREACHABLE", { timeLeftMs: 0 }, no],
    ["no time left for the delay", "INSTANCE_UNREACHABLE", { timeLeftMs: 5 }, no],
    ["draining, no time left", "DRAINING", { timeLeftMs: -1 }, no],
  ];
  it.each(table)("%s", (_, reason, change, expected) => {
    expect(decideRetry(failed(reason, change))).toEqual(expected);
  });

  it("backs off exponentially with full jitter, up to 1 s", () => {
    const delays = (random: number) =>
      Array.from({ length: 12 }, (_, index) => {
        const decision = decideRetry(
          failed("OVERLOADED", { attempt: index + 1, attemptsMax: 100, random: () => random }),
        );
        return decision.retry ? decision.delayMs : undefined;
      });
    expect(delays(0)).toEqual(new Array(12).fill(0));
    expect(delays(0.5)).toEqual([5, 10, 20, 40, 80, 160, 320, 500, 500, 500, 500, 500]);
  });

  const attempt = fc.record({
    reason: fc.constantFrom(...reasons),
    effect: fc.constantFrom<Effect>("none", "unknown", "ran"),
    attempt: fc.nat(8),
    drainingRefusals: fc.nat(120),
    isIdempotent: fc.boolean(),
    hasToken: fc.boolean(),
    timeLeftMs: fc.double({ min: -10, max: 5_000, noNaN: true }),
    random: fc.double({ min: 0, max: 0.999999, noNaN: true }),
    budgeted: fc.boolean(),
  });

  it("never repeats elsewhere what may have run and is not idempotent, nor past the deadline, nor without end", () => {
    fc.assert(
      fc.property(attempt, ({ random, budgeted, ...given }) => {
        const budget = budgeted ? new RetryBudget() : emptyBudget();
        const before = budget.balance(0);
        const { reason } = given;
        const decision = decideRetry(failed(reason, { ...given, budget, random: () => random }));
        const spent = before - budget.balance(0);
        if (!decision.retry) {
          expect(spent).toBe(0);
          return;
        }
        const { kind } = catalogue[reason];
        expect(["arguments", "method"]).not.toContain(kind);
        if (decision.elsewhere) expect(given.effect === "none" || given.isIdempotent).toBe(true);
        else expect(given.hasToken).toBe(true);
        expect(decision.delayMs).toBeGreaterThanOrEqual(0);
        expect(decision.delayMs).toBeLessThanOrEqual(backoffMsMax);
        expect(decision.delayMs).toBeLessThan(given.timeLeftMs);
        if (reason === "DRAINING") {
          expect([decision.delayMs, spent]).toEqual([0, 0]);
          expect(given.drainingRefusals).toBeLessThanOrEqual(drainingRefusalsMax);
        } else {
          expect(given.attempt).toBeLessThan(attemptsMax);
          expect(spent).toBe(given.effect === "none" && reason !== "OVERLOADED" ? 0 : 1);
        }
      }),
      { numRuns: 2_000 },
    );
  });
});

describe("decideHolderRetry", () => {
  const failedAtHolder = (reason: Reason, change: Partial<FailedHolderAttempt> = {}): FailedHolderAttempt => ({
    ...failed(reason, change),
    attemptEffect: catalogue[reason].effect,
    onUncertain: "Wait",
    movedRefusals: reason === "MOVED" ? 1 : 0,
    ...change,
  });
  const again = { retry: true, elsewhere: false, delayMs: 5 };
  const elsewhere = { retry: true, elsewhere: true, delayMs: 5 };
  const inTurn = { retry: "inTurn", moved: false };
  const moved = { retry: "inTurn", moved: true };
  const no = { retry: false };
  const budget = emptyBudget();
  const table: [string, Reason, Partial<FailedHolderAttempt>, unknown][] = [
    ["moved", "MOVED", {}, moved],
    ["moved: no attempt, no budget", "MOVED", { attempt: 9, budget, random: () => 0.99 }, moved],
    ["moved, the service is to fail", "MOVED", { onUncertain: "Fail" }, moved],
    ["moved, the service is to serve", "MOVED", { onUncertain: "Serve" }, moved],
    ["moved, the last time that counts", "MOVED", { movedRefusals: movedRefusalsMax }, moved],
    ["moved without end", "MOVED", { movedRefusals: movedRefusalsMax + 1 }, no],
    ["moved, no time left", "MOVED", { timeLeftMs: 0 }, no],
    ["moved, but an earlier attempt may have run", "MOVED", { effect: "unknown" }, no],
    ["moved, an earlier attempt may have run, token", "MOVED", { effect: "unknown", hasToken: true }, moved],
    ["not reached", "INSTANCE_UNREACHABLE", { attempt: 9, budget }, inTurn],
    ["not reached, to fail", "INSTANCE_UNREACHABLE", { onUncertain: "Fail" }, no],
    ["not reached, to serve", "INSTANCE_UNREACHABLE", { onUncertain: "Serve" }, elsewhere],
    ["not reached, to serve, last attempt", "INSTANCE_UNREACHABLE", { onUncertain: "Serve", attempt: attemptsMax }, no],
    ["no app", "NO_INSTANCES", {}, inTurn],
    ["draining", "DRAINING", {}, inTurn],
    ["lapsed before it left", "LEASE_LAPSED", { effect: "none", attemptEffect: "none" }, inTurn],
    ["overloaded", "OVERLOADED", {}, again],
    ["overloaded, to serve", "OVERLOADED", { onUncertain: "Serve" }, again],
    ["overloaded, no budget", "OVERLOADED", { budget }, no],
    ["it does not understand", "VERSION_UNSUPPORTED", { effect: "none", attemptEffect: "none" }, again],
    ["its hook failed", "HOOK_FAILED", {}, again],
    ["its hook failed, last attempt", "HOOK_FAILED", { attempt: attemptsMax }, no],
    ["may have run", "CONNECTION_LOST", {}, no],
    ["may have run, idempotent", "CONNECTION_LOST", { isIdempotent: true }, again],
    ["may have run, token", "CONNECTION_LOST", { hasToken: true }, again],
    ["may have run, token, no budget", "CONNECTION_LOST", { hasToken: true, budget }, no],
    ["lapsed, idempotent", "LEASE_LAPSED", { isIdempotent: true }, again],
    ["lapsed", "LEASE_LAPSED", {}, no],
    ["not reached after it may have run", "INSTANCE_UNREACHABLE", { effect: "unknown" }, no],
    ["not reached after it may have run, token", "INSTANCE_UNREACHABLE", { effect: "unknown", hasToken: true }, inTurn],
    ["the token is forgotten", "TOKEN_MEMORY_LOST", { hasToken: true, isIdempotent: true }, no],
    ["arguments", "INVALID_ARGUMENTS", {}, no],
    ["method", "METHOD_NOT_FOUND", {}, no],
    ["cancelled", "CANCELLED", { effect: "none", attemptEffect: "none" }, no],
  ];
  it.each(table)("%s", (_, reason, change, expected) => {
    expect(decideHolderRetry(failedAtHolder(reason, change))).toEqual(expected);
  });
});
