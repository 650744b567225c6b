import { catalogue, type Effect, isReason, type Reason } from "@leveros/protocol/error/catalogue.ts";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { RetryBudget } from "./retry-budget.ts";
import { attemptsMax, backoffMsMax, decideRetry, drainingRefusalsMax, type FailedAttempt } from "./retry-policy.ts";

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
    ["may have run, idempotent with token", "CONNECTION_LOST", { isIdempotent: true, hasToken: true }, yes],
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
