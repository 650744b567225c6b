import type { ClockReading, LeaseClock } from "@leveros/protocol/clock/lease-clock.ts";
import { leaseTimes } from "@leveros/protocol/control/lease.ts";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { AppPings, HolderLease, noLease } from "./lease.ts";

/** Clocks that are moved by hand. */
class HandClock implements LeaseClock {
  now = { monotonicMs: 100, bootMs: 5000, wallMs: 1_700_000_000_000 };

  read(): ClockReading {
    return { ...this.now };
  }

  pass(ms: number): void {
    this.now.monotonicMs += ms;
    this.now.bootMs += ms;
    this.now.wallMs += ms;
  }
}

const times = leaseTimes(15_000);

function begun(clock: HandClock): HolderLease {
  const lease = new HolderLease(clock, times);
  lease.renewed(lease.renew(clock.read()).n);
  return lease;
}

describe("AppPings", () => {
  it("knows when the newest ping was sent that the app has answered, while that is at most 1 s ago", () => {
    const clock = new HandClock();
    const pings = new AppPings(clock);
    expect(pings.fresh).toBeUndefined();
    const sentAt = clock.read();
    const n = pings.send() as number;
    expect(pings.fresh).toBeUndefined();
    clock.pass(400);
    expect(pings.answered(n)).toBe(true);
    expect(pings.fresh).toEqual(sentAt);
    clock.pass(600);
    expect(pings.fresh).toEqual(sentAt);
    clock.pass(1);
    expect(pings.fresh).toBeUndefined();
  });

  it("believes no answer to what was never sent, or was answered before", () => {
    const pings = new AppPings(new HandClock());
    const first = pings.send() as number;
    const second = pings.send() as number;
    expect(pings.answered(second + 1)).toBe(false);
    expect(pings.answered(second)).toBe(true);
    expect(pings.answered(second)).toBe(false);
    expect(pings.answered(first)).toBe(false);
    expect(pings.fresh).toBeDefined();
  });

  it("sends no more than 32 that are not answered", () => {
    const pings = new AppPings(new HandClock());
    const sent = Array.from({ length: 40 }, () => pings.send());
    expect(sent.filter((n) => n !== undefined)).toHaveLength(32);
    expect(pings.answered(3)).toBe(true);
    expect(pings.send()).toBe(33);
  });
});

describe("HolderLease", () => {
  it("has not begun before a renewal was answered", () => {
    const clock = new HandClock();
    const lease = new HolderLease(clock, times);
    lease.renew(clock.read());
    expect([lease.hasBegun, lease.isAdmitting, lease.isOpen, lease.hasLapsed, lease.isOver]).toEqual(
      Array(5).fill(false),
    );
    expect(lease.left()).toEqual(noLease);
    lease.renewed(7);
    expect(lease.hasBegun).toBe(false);
  });

  it("runs from the sending of the ping that the renewal reported", () => {
    const clock = new HandClock();
    const lease = new HolderLease(clock, times);
    const pingedAt = clock.read();
    clock.pass(900);
    const { n } = lease.renew(pingedAt);
    clock.pass(3000);
    lease.renewed(n);
    expect(lease.left()).toEqual({ admitMs: 6100, killMs: 9100, gateMs: 10_400 });
    clock.pass(6099);
    expect([lease.isAdmitting, lease.isOpen]).toEqual([true, true]);
    clock.pass(1);
    expect([lease.isAdmitting, lease.hasLapsed, lease.isOpen, lease.isOver]).toEqual([false, true, true, false]);
    clock.pass(4299);
    expect(lease.isOpen).toBe(true);
    clock.pass(1);
    expect([lease.isOpen, lease.isOver]).toEqual([false, true]);
  });

  it("reports the age of the answer in whole ms, rounded down", () => {
    const clock = new HandClock();
    const lease = new HolderLease(clock, times);
    const pingedAt = clock.read();
    clock.pass(412.9);
    expect(lease.renew(pingedAt)).toEqual({ type: "renew", n: 1, ageMs: 412 });
  });

  it("says what is left rounded down", () => {
    const clock = new HandClock();
    const lease = begun(clock);
    clock.pass(0.3);
    expect(lease.left()).toEqual({ admitMs: 9999, killMs: 12_999, gateMs: 14_299 });
  });

  it("is not renewed any more once it has lapsed, however late the answer comes", () => {
    const clock = new HandClock();
    const lease = begun(clock);
    clock.pass(9000);
    const { n } = lease.renew(clock.read());
    clock.pass(1000);
    lease.renewed(n);
    expect([lease.isAdmitting, lease.isOpen]).toEqual([false, true]);
    clock.pass(4300);
    expect(lease.isOpen).toBe(false);
  });

  it("takes an answer that is late, for what it is worth", () => {
    const clock = new HandClock();
    const lease = begun(clock);
    clock.pass(2000);
    const { n } = lease.renew(clock.read());
    clock.pass(7000);
    lease.renewed(n);
    expect(lease.left().admitMs).toBe(3000);
  });

  it("does not go back for an answer to an earlier renewal", () => {
    const clock = new HandClock();
    const lease = new HolderLease(clock, times);
    const first = lease.renew(clock.read()).n;
    clock.pass(2000);
    const second = lease.renew(clock.read()).n;
    lease.renewed(second);
    lease.renewed(first);
    expect(lease.left().admitMs).toBe(10_000);
  });

  it("forgets the oldest of more than 16 renewals that are not answered", () => {
    const clock = new HandClock();
    const lease = new HolderLease(clock, times);
    for (let i = 0; i < 17; i++) lease.renew(clock.read());
    lease.renewed(1);
    expect(lease.hasBegun).toBe(false);
    lease.renewed(2);
    expect(lease.hasBegun).toBe(true);
  });

  it("ends in a suspend, though the monotonic clock stands still", () => {
    const clock = new HandClock();
    const lease = begun(clock);
    clock.now.bootMs += 14_300;
    expect([lease.isAdmitting, lease.isOpen]).toEqual([false, false]);
  });

  it("ends where only the wall clock tells, and stays over when that is set back", () => {
    const clock = new HandClock();
    const lease = begun(clock);
    clock.now.wallMs += 20_000;
    expect(lease.isOpen).toBe(false);
    clock.now.wallMs -= 20_000;
    expect([lease.isOpen, lease.isAdmitting]).toEqual([false, false]);
  });

  it("a wall clock that is set back prolongs nothing", () => {
    const clock = new HandClock();
    const lease = begun(clock);
    clock.now.wallMs -= 3_600_000;
    clock.pass(10_000);
    expect(lease.isAdmitting).toBe(false);
  });

  it("whatever happens, admits within 10 s and is heard within 14.3 s of a ping that was answered", () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.oneof(
            fc.record({ what: fc.constant("pass" as const), ms: fc.integer({ min: 0, max: 6000 }) }),
            fc.record({ what: fc.constant("suspend" as const), ms: fc.integer({ min: 0, max: 6000 }) }),
            fc.record({
              what: fc.constantFrom("ping", "pong", "renew", "renewed"),
              ms: fc.integer({ min: 0, max: 3 }),
            }),
          ),
          { maxLength: 60 },
        ),
        (steps) => {
          const clock = new HandClock();
          const pings = new AppPings(clock);
          const lease = new HolderLease(clock, times);
          const truth = { pings: [] as number[], renewals: [] as number[], begunAt: Number.NEGATIVE_INFINITY };
          let lastAnswered = Number.NaN;
          for (const { what, ms } of steps) {
            if (what === "pass") clock.pass(ms);
            else if (what === "suspend") clock.now.bootMs += ms;
            else if (what === "ping") {
              const n = pings.send();
              if (n !== undefined) truth.pings[n] = clock.now.bootMs;
            } else if (what === "pong") {
              const n = Math.max(truth.pings.length - 1 - ms, 1);
              if (pings.answered(n)) lastAnswered = truth.pings[n] as number;
            } else if (what === "renew") {
              const pingedAt = pings.fresh;
              if (pingedAt === undefined) continue;
              const { n, ageMs } = lease.renew(pingedAt);
              truth.renewals[n] = lastAnswered;
              expect(ageMs).toBe(clock.now.bootMs - lastAnswered);
              expect(ageMs).toBeLessThanOrEqual(1000);
            } else {
              const n = truth.renewals.length - 1 - ms;
              const sentAt = truth.renewals[n];
              if (sentAt === undefined) continue;
              lease.renewed(n);
              truth.begunAt = Math.max(truth.begunAt, sentAt);
            }
            const elapsed = clock.now.bootMs - truth.begunAt;
            if (lease.isAdmitting) expect(elapsed).toBeLessThan(10_000);
            if (lease.isOpen) expect(elapsed).toBeLessThan(14_300);
          }
        },
      ),
    );
  });
});
