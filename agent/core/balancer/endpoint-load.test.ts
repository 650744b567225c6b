import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  channelWeightForCall,
  channelWeightForChannel,
  EndpointLoad,
  latencyFloorMs,
  latencyMsMax,
  reportedLoad,
  slowStartMs,
} from "./endpoint-load.ts";

const cost = (load: EndpointLoad, now: number) => load.cost(now, channelWeightForCall);

/** One call of `latencyMs` that ends at `endsAt`. */
function call(
  load: EndpointLoad,
  endsAt: number,
  latencyMs: number,
  end: "succeeded" | "failed" | "ended" = "succeeded",
) {
  load.begin(endsAt - latencyMs);
  load[end](endsAt, endsAt - latencyMs);
}

describe("EndpointLoad", () => {
  it("takes the first answer for its latency, rises to a peak at once, and comes down in steps", () => {
    const load = new EndpointLoad(0, 400);
    expect(load.isKnown).toBe(false);
    expect(load.latency(0)).toBe(400);
    call(load, 10, 10);
    expect(load.isKnown).toBe(true);
    expect(load.latency(10)).toBe(10);
    call(load, 300, 250);
    expect(load.latency(300)).toBe(250);
    call(load, 301, 10);
    expect(load.latency(301)).toBeCloseTo(250 - 240 / 8, 6);
    for (let at = 302; at < 360; at++) call(load, at, 10);
    expect(load.latency(360)).toBeLessThan(10.5);
  });

  it("fades to a third in 10 s without calls, so that a slow instance is tried again", () => {
    const load = new EndpointLoad(0);
    call(load, 500, 500);
    expect(load.latency(10_500)).toBeCloseTo(500 / Math.E, 6);
    expect(cost(load, 60_500)).toBeLessThan(latencyFloorMs + 2);
    // After a silence one answer says more than the past.
    call(load, 40_500, 300);
    call(load, 60_500, 2);
    expect(load.latency(60_500)).toBeLessThan(60);
  });

  it("multiplies latency with calls in flight", () => {
    const load = new EndpointLoad(0);
    call(load, 100, 85);
    expect(cost(load, 100)).toBeCloseTo(100, 6);
    load.begin(100);
    load.begin(100);
    expect(cost(load, 100)).toBeCloseTo(300, 6);
  });

  it("sees a hanging instance before its first answer is missed", () => {
    const load = new EndpointLoad(0);
    call(load, 10, 1);
    load.begin(10);
    const before = cost(load, 10);
    expect(cost(load, 510)).toBeCloseTo((latencyFloorMs + 500) * 2, 6);
    expect(cost(load, 510)).toBeGreaterThan(before * 20);
    // Bounded, and gone when the call is.
    expect(cost(load, 1e6)).toBeCloseTo((latencyFloorMs + latencyMsMax) * 2, 6);
    load.begin(509);
    load.succeeded(510, 509);
    load.ended(510, 10);
    expect(load.inFlight).toBe(0);
  });

  it("keeps no rounding of times in its mean age", () => {
    const load = new EndpointLoad(0);
    const starts = Array.from({ length: 99 }, (_, index) => 1e9 + index / 7);
    for (const startedAt of starts) load.begin(startedAt);
    // In another order than they began.
    for (const startedAt of starts.reverse()) load.succeeded(startedAt, startedAt);
    load.begin(2e9);
    expect(cost(load, 2e9)).toBe(latencyFloorMs * 2);
  });

  it("never takes an error for a fast reply", () => {
    const failing = new EndpointLoad(0);
    call(failing, 10, 10);
    const before = cost(failing, 10);
    call(failing, 11, 0.1, "failed");
    expect(failing.latency(11)).toBe(latencyMsMax);
    expect(cost(failing, 11)).toBeGreaterThan(before * 30);

    // A method's own error does not say that the instance is bad, and not that it is fast either.
    const erring = new EndpointLoad(0);
    call(erring, 100, 100);
    for (let at = 101; at < 20_000; at += 10) call(erring, at, 0.1, "ended");
    expect(erring.latency(20_000)).toBeGreaterThan(99);
    call(erring, 20_500, 300, "ended");
    expect(erring.latency(20_500)).toBe(300);
  });

  it("keeps fast errors in the load for the time that a good answer takes: rate × latency by Little's law", () => {
    const load = new EndpointLoad(0);
    call(load, 100, 85);
    // 1,000 errors a second at 85 + 15 ms: 100 calls would be in flight.
    for (let at = 101; at < 2_101; at++) call(load, at, 0.5, "ended");
    const inFlightAsIfMin = cost(load, 2_101) / (latencyFloorMs + 85) - 1;
    expect(inFlightAsIfMin).toBeGreaterThan(85);
    expect(inFlightAsIfMin).toBeLessThan(115);
    // And forgets them as fast.
    expect(cost(load, 3_101) / (latencyFloorMs + load.latency(3_101))).toBeCloseTo(1, 1);
  });

  it("does not forget fast errors for a slow one", () => {
    const load = new EndpointLoad(0);
    call(load, 100, 85);
    for (let time = 0; time < 20; time++) call(load, 100, 0.1, "failed");
    const before = cost(load, 100);
    call(load, 100, 30_000, "failed");
    expect(cost(load, 100)).toBe(before);
  });

  it("counts what the peer reports beside the calls from here, and lets it age", () => {
    const load = new EndpointLoad(0);
    call(load, 10, 10);
    load.begin(10);
    load.begin(10);
    const alone = cost(load, 10);
    load.reported(10, 2);
    expect(cost(load, 10)).toBe(alone);
    load.reported(10, 32);
    expect(cost(load, 10)).toBeCloseTo(alone * 11, 6);
    load.ended(11, 10);
    load.ended(11, 10);
    expect(cost(load, 2_510) / (latencyFloorMs + load.latency(2_510))).toBeCloseTo(1 + 15, 4);
    expect(cost(load, 5_011) / (latencyFloorMs + load.latency(5_011))).toBeCloseTo(1, 4);
  });

  it("weighs channels little for a call and in full for a channel", () => {
    const load = new EndpointLoad(0);
    const empty = load.cost(0, channelWeightForCall);
    load.openChannels = 100;
    expect(load.cost(0, channelWeightForCall)).toBeCloseTo(empty * 6, 6);
    expect(load.cost(0, channelWeightForChannel)).toBeCloseTo(empty * 101, 6);
  });

  it("reports calls and a twentieth of the channels in 16 bits", () => {
    expect(reportedLoad(0, 0)).toBe(0);
    expect(reportedLoad(7, 40)).toBe(9);
    expect(reportedLoad(1e6, 1e6)).toBe(65_535);
  });

  it("makes a new instance of a warm set dear at first and then less so, for 30 s", () => {
    const warm = new EndpointLoad(0, 20);
    const fresh = new EndpointLoad(0, 20, true);
    const ratio = (now: number) => cost(fresh, now) / cost(warm, now);
    expect(ratio(0)).toBeCloseTo(Math.sqrt(10), 6);
    expect(ratio(15_000)).toBeCloseTo(Math.sqrt(2), 6);
    expect(ratio(slowStartMs)).toBe(1);
    let before = Number.POSITIVE_INFINITY;
    for (let now = 0; now <= slowStartMs; now += 500) {
      expect(ratio(now)).toBeLessThanOrEqual(before + 1e-9);
      before = ratio(now);
    }
  });

  it("has a cost above 0 and finite, in flight never below 0, whatever happens in whatever order", () => {
    const event = fc.record({
      kind: fc.constantFrom("begin", "succeeded", "failed", "ended", "reported", "opened", "closed", "wait"),
      value: fc.nat(65_535),
    });
    fc.assert(
      fc.property(
        fc.array(event, { maxLength: 100 }),
        fc.boolean(),
        fc.double({ min: 0, max: 1e9, noNaN: true }),
        (events, slow, start) => {
          let now = start;
          const load = new EndpointLoad(now, 50, slow);
          const started: number[] = [];
          for (const { kind, value } of events) {
            if (kind === "wait") now += value;
            else if (kind === "reported") load.reported(now, value);
            else if (kind === "opened") load.openChannels++;
            else if (kind === "closed") load.openChannels = Math.max(0, load.openChannels - 1);
            else if (kind === "begin") {
              started.push(now);
              load.begin(now);
            } else {
              const startedAt = started.splice(value % Math.max(started.length, 1), 1)[0];
              if (startedAt !== undefined) load[kind](now, startedAt);
            }
            expect(load.inFlight).toBe(started.length);
            const latencyMs = load.latency(now);
            expect(latencyMs).toBeGreaterThanOrEqual(0);
            expect(latencyMs).toBeLessThanOrEqual(latencyMsMax);
            for (const weight of [channelWeightForCall, channelWeightForChannel]) {
              const each = load.cost(now, weight);
              expect(each).toBeGreaterThanOrEqual(latencyFloorMs * 0.999);
              expect(Number.isFinite(each)).toBe(true);
            }
          }
        },
      ),
    );
  });

  it("an error never makes an instance cheaper than the same call's good answer would", () => {
    fc.assert(
      fc.property(
        fc.array(fc.double({ min: 0, max: 300, noNaN: true }), { minLength: 1, maxLength: 20 }),
        fc.double({ min: 0, max: 300, noNaN: true }),
        fc.constantFrom("failed" as const, "ended" as const),
        (history, lastMs, end) => {
          const good = new EndpointLoad(0);
          const bad = new EndpointLoad(0);
          let now = 0;
          for (const latencyMs of history) {
            now += latencyMs;
            call(good, now, latencyMs);
            call(bad, now, latencyMs);
          }
          now += lastMs;
          call(good, now, lastMs);
          call(bad, now, lastMs, end);
          expect(cost(bad, now)).toBeGreaterThanOrEqual(cost(good, now) * (1 - 1e-9));
        },
      ),
    );
  });
});
