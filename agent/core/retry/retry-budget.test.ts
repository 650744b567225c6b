import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { RetryBudget } from "./retry-budget.ts";

function drain(budget: RetryBudget, now: number): number {
  let taken = 0;
  while (budget.withdraw(now)) taken++;
  return taken;
}

describe("RetryBudget", () => {
  it("allows a fifth of the calls of the last 10 s and 10 a second", () => {
    const budget = new RetryBudget();
    expect(drain(budget, 50_000)).toBe(100);
    expect(budget.withdraw(50_000)).toBe(false);
    for (let call = 0; call < 1_000; call++) budget.deposit(50_500);
    expect(drain(budget, 50_500)).toBe(200);
    expect(budget.balance(50_500)).toBe(0);
  });

  it("forgets calls and retries after the window, whatever the pause", () => {
    const budget = new RetryBudget({ floorPerSecond: 0 });
    for (let call = 0; call < 100; call++) budget.deposit(0);
    expect(drain(budget, 9_999)).toBe(20);
    expect(budget.balance(10_000)).toBe(0);
    for (let call = 0; call < 100; call++) budget.deposit(10_000);
    // The retries of 9,999 ms are still in the window.
    expect(budget.balance(10_000)).toBe(0);
    expect(budget.balance(19_000)).toBe(20);
    expect(budget.balance(1e9)).toBe(0);
    budget.deposit(1e9);
    expect(budget.balance(1e9)).toBeCloseTo(0.2, 9);
  });

  it("takes nothing when it refuses", () => {
    const budget = new RetryBudget({ ratio: 1, floorPerSecond: 0 });
    for (let time = 0; time < 10; time++) expect(budget.withdraw(0)).toBe(false);
    budget.deposit(0);
    expect(budget.withdraw(0)).toBe(true);
    expect(budget.withdraw(0)).toBe(false);
  });

  it("never allows more than its share in any 9 s, and counts as the plain sum over whole buckets does", () => {
    fc.assert(
      fc.property(
        fc.array(fc.record({ kind: fc.constantFrom("call", "call", "retry", "retry"), ms: fc.nat(3_000) }), {
          maxLength: 300,
        }),
        (events) => {
          const budget = new RetryBudget({ ratio: 0.2, floorPerSecond: 0.3 });
          const calls: number[] = [];
          const retries: number[] = [];
          let now = 1_234;
          for (const { kind, ms } of events) {
            now += ms < 1_500 ? 0 : ms;
            const from = (Math.floor(now / 1_000) - 9) * 1_000;
            const inWindow = (times: number[]) => times.filter((time) => time >= from).length;
            const expected = 0.2 * inWindow(calls) + 3 - inWindow(retries);
            expect(budget.balance(now)).toBeCloseTo(Math.max(0, expected), 9);
            if (kind === "call") {
              budget.deposit(now);
              calls.push(now);
            } else if (budget.withdraw(now)) retries.push(now);
            const recent = (times: number[], windowMs: number) => times.filter((time) => time > now - windowMs).length;
            expect(recent(retries, 9_000)).toBeLessThanOrEqual(0.2 * recent(calls, 18_000) + 3 + 1e-9);
          }
        },
      ),
    );
  });

  it("keeps the load of a dead service near 1.2 instead of 5 times its calls", () => {
    const budget = new RetryBudget();
    let retries = 0;
    // 1,000 calls a second for a minute, each of which would like 4 retries.
    for (let call = 0; call < 60_000; call++) {
      budget.deposit(call);
      for (let retry = 0; retry < 4 && budget.withdraw(call); retry++) retries++;
    }
    expect(retries / 60_000).toBeGreaterThan(0.18);
    expect(retries / 60_000).toBeLessThan(0.22);
  });
});
