/**
 * What the balancer does to traffic, on virtual time: a caller sends calls to instances that answer, err, hang or queue.
 * Each bound also has a run that must break it: the same traffic by round robin, or with the one thing left out that the
 * bound is about. Shares are per cent of the calls; bounds hold for each of several seeds.
 */

import type { Random } from "@leveros/protocol/clock/clock.ts";
import { VirtualClock } from "@leveros/protocol/clock/virtual-clock.ts";
import type { Reason } from "@leveros/protocol/error/catalogue.ts";
import { describe, expect, it } from "vitest";
import { type BalancedInstance, Balancer } from "./balancer.ts";
import { slowStartMs } from "./endpoint-load.ts";

/** How an instance behaves: after `ms` an answer or an error; infinite: never. */
type Behaviour = (random: Random, now: number) => { ms: number; reason?: Reason };

interface Endpoint {
  readonly index: number;
  readonly instance: BalancedInstance<Endpoint>;
}

interface Traffic {
  readonly seed: number;
  readonly behaviours: Behaviour[];
  readonly calls: number;
  /** So many callers, each of which sends the next call when the last has ended. */
  readonly callers: number;
  /** Between the end of a call and the caller's next one. */
  readonly thinkMs?: number;
  readonly timeoutMs?: number;
  /** Replaces the balancer's choice. */
  readonly choose?: (endpoints: readonly Endpoint[], now: number, call: number) => Endpoint;
  /** Tells the balancer something else than the truth about errors. */
  readonly tell?: (instance: BalancedInstance<Endpoint>, now: number, startedAt: number, reason: Reason) => void;
}

const seeds = [1, 2, 3, 4, 5];

function seeded(seed: number): Random {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

const roundRobin = (endpoints: readonly Endpoint[], _now: number, call: number) =>
  endpoints[call % endpoints.length] as Endpoint;

/** The textbook's choice on the same costs: always the cheapest of all. */
const cheapest = (endpoints: readonly Endpoint[], now: number) =>
  endpoints.reduce((best, each) => (each.instance.load.cost(now, 0) < best.instance.load.cost(now, 0) ? each : best));

const countErrorsAsAnswers = (instance: BalancedInstance<Endpoint>, now: number, startedAt: number) =>
  instance.succeeded(now, startedAt, 0);

class World {
  readonly clock = new VirtualClock();
  readonly random: Random;
  readonly balancer: Balancer<Endpoint>;
  endpoints: Endpoint[] = [];
  traffic: Traffic;
  /** Index of the instance of each call, and when it began. */
  readonly sent: { index: number; at: number }[] = [];

  constructor(traffic: Traffic) {
    this.traffic = traffic;
    this.random = seeded(traffic.seed + 1_000);
    this.balancer = new Balancer<Endpoint>({ random: seeded(traffic.seed), self: "caller" });
    this.setSize(traffic.behaviours.length);
  }

  setSize(count: number): void {
    const sources = Array.from({ length: count }, (_, index) => ({
      id: `instance-${index}`,
      isServing: true,
      create: (instance: BalancedInstance<Endpoint>): Endpoint => ({ index, instance }),
    }));
    this.balancer.update(sources, this.clock.now());
    this.endpoints = [...this.balancer.instances()].map((instance) => instance.endpoint);
  }

  /** Runs the traffic to its end; the shares of the calls, per cent by instance. */
  run(): number[] {
    for (let caller = 0; caller < this.traffic.callers; caller++) this.#call();
    this.clock.advance(1e7);
    expect(this.sent.length).toBe(this.traffic.calls);
    return this.shares(0, Number.POSITIVE_INFINITY);
  }

  shares(fromMs: number, untilMs: number): number[] {
    const counts = new Array<number>(this.endpoints.length).fill(0);
    const sent = this.sent.filter(({ at }) => at >= fromMs && at < untilMs);
    for (const { index } of sent) counts[index] = (counts[index] as number) + 1;
    return counts.map((count) => (100 * count) / sent.length);
  }

  #call(): void {
    const { calls, choose, behaviours, timeoutMs = Number.POSITIVE_INFINITY, thinkMs = 0, tell } = this.traffic;
    if (this.sent.length >= calls) return;
    const startedAt = this.clock.now();
    const endpoint =
      choose?.(this.endpoints, startedAt, this.sent.length) ?? (this.balancer.pick(startedAt) as Endpoint);
    this.sent.push({ index: endpoint.index, at: startedAt });
    const { instance } = endpoint;
    instance.begin(startedAt);
    const { ms, reason: own } = (behaviours[endpoint.index] as Behaviour)(this.random, startedAt);
    const reason = ms > timeoutMs ? "DEADLINE_EXCEEDED" : own;
    this.clock.setTimer(
      () => {
        const now = this.clock.now();
        if (reason === undefined) instance.succeeded(now, startedAt, instance.load.inFlight - 1);
        else if (tell !== undefined) tell(instance, now, startedAt, reason);
        else instance.errored(now, startedAt, reason);
        if (thinkMs === 0) this.#call();
        else this.clock.setTimer(() => this.#call(), thinkMs);
      },
      Math.min(ms, timeoutMs),
    );
  }
}

/** 0.3 to 1 ms, and once in 250 calls a pause of 5 to 25 ms, as garbage collections and schedulers make them. */
const healthy: Behaviour = (random) => ({
  ms: 0.3 + random() * 0.7 + (random() < 0.004 ? 5 + random() * 20 : 0),
});
const busy: Behaviour = (random) => ({ ms: 10 + random() * 20 });

describe.each([1, 4, 64])("1,000 calls over three instances, %i at a time", (callers) => {
  const traffic = { calls: 1_000, callers, behaviours: [healthy, healthy, healthy] };

  it("are spread evenly", () => {
    for (const seed of seeds) {
      for (const share of new World({ ...traffic, seed }).run()) {
        expect(share).toBeGreaterThan(25);
        expect(share).toBeLessThan(42);
      }
    }
  });

  it("leave out one that is slower by 200 ms", () => {
    const slow: Behaviour = (random, now) => ({ ms: healthy(random, now).ms + 200 });
    const behaviours = [slow, healthy, healthy];
    for (const seed of seeds) {
      const [slowShare] = new World({ ...traffic, behaviours, seed }).run() as [number];
      expect(slowShare).toBeGreaterThan(0);
      expect(slowShare).toBeLessThan(10);
      const [control] = new World({ ...traffic, behaviours, seed, choose: roundRobin }).run() as [number];
      expect(control).toBeGreaterThan(30);
    }
  });
});

it("control: always the cheapest of all does not spread evenly", () => {
  const traffic = { calls: 1_000, callers: 1, behaviours: [healthy, healthy, healthy], choose: cheapest };
  const uneven = seeds.filter((seed) =>
    new World({ ...traffic, seed }).run().some((share) => share < 25 || share > 42),
  );
  expect(uneven.length).toBeGreaterThan(seeds.length / 2);
});

describe("an instance that errs at once", () => {
  const traffic = { calls: 5_000, callers: 64 };
  /** It errs from the beginning, or after it has served well. */
  const shareOf = (reason: Reason, change: Partial<Traffic>, seed: number, goodMs: number) => {
    const erring: Behaviour = (random, now) => (now < goodMs ? busy(random, now) : { ms: 0.1, reason });
    const world = new World({ ...traffic, behaviours: [erring, busy, busy], seed, ...change });
    world.run();
    return world.shares(goodMs, Number.POSITIVE_INFINITY)[0] as number;
  };

  // Of three instances, power of two choices gives one at most 2 of 3 calls: as often as it is drawn.
  it.each([0, 500])("attracts no traffic by errors of its methods (after %i ms)", (goodMs) => {
    for (const seed of seeds) {
      expect(shareOf("METHOD_THREW", {}, seed, goodMs)).toBeLessThan(40);
      expect(shareOf("METHOD_THREW", { tell: countErrorsAsAnswers }, seed, goodMs)).toBeGreaterThan(60);
    }
  });

  it.each([0, 500])("gets little when it refuses for want of room (after %i ms)", (goodMs) => {
    for (const seed of seeds) {
      expect(shareOf("OVERLOADED", {}, seed, goodMs)).toBeLessThan(10);
      expect(shareOf("OVERLOADED", { tell: countErrorsAsAnswers }, seed, goodMs)).toBeGreaterThan(60);
    }
  });

  it("gets next to nothing when it is lost: 5 calls and then a probe now and then", () => {
    for (const seed of seeds) {
      expect(shareOf("CONNECTION_LOST", {}, seed, 0)).toBeLessThan(1);
      expect(shareOf("CONNECTION_LOST", { choose: roundRobin }, seed, 0)).toBeGreaterThan(30);
    }
  });
});

it("an instance that hangs gets few calls before its first deadline is over", () => {
  const hanging: Behaviour = () => ({ ms: Number.POSITIVE_INFINITY });
  for (const seed of seeds) {
    const traffic: Traffic = {
      seed,
      behaviours: [busy, busy, busy],
      calls: 10_000,
      callers: 32,
      thinkMs: 20,
      timeoutMs: 5_000,
    };
    const hungCalls = (choose?: Traffic["choose"]) => {
      const world = new World(choose === undefined ? traffic : { ...traffic, choose });
      world.clock.setTimer(() => {
        world.traffic = { ...world.traffic, behaviours: [hanging, busy, busy] };
      }, 1_000);
      world.run();
      return world.sent.filter(({ index, at }) => index === 0 && at >= 1_000 && at < 6_000).length;
    };
    expect(hungCalls()).toBeLessThan(16);
    // All 32 callers are stuck there.
    expect(hungCalls(roundRobin)).toBeGreaterThanOrEqual(32);
  }
});

describe("a new instance in a warm set", () => {
  /** One joins three at 60 s; `coldMs` is what it takes longer at first. */
  const join = (seed: number, change: Partial<Traffic> = {}, joinsAtMs = 60_000) => {
    const joined: Behaviour = (random, now) => ({
      ms: busy(random, now).ms + (now < joinsAtMs + 3_000 ? 30 : 0),
    });
    const world = new World({
      seed,
      behaviours: [busy, busy, busy],
      calls: 60_000,
      callers: 16,
      thinkMs: 10,
      ...change,
    });
    world.clock.setTimer(() => {
      world.traffic = { ...world.traffic, behaviours: [busy, busy, busy, joined] };
      world.setSize(4);
    }, joinsAtMs);
    world.run();
    return (fromMs: number, untilMs: number) => world.shares(joinsAtMs + fromMs, joinsAtMs + untilMs)[3] as number;
  };

  it("is not flooded, and has its share after 30 s", () => {
    for (const seed of seeds.slice(0, 3)) {
      const share = join(seed);
      expect(share(0, 2_000)).toBeGreaterThan(0.5);
      expect(share(0, 2_000)).toBeLessThan(10);
      expect(share(10_000, 20_000)).toBeGreaterThan(10);
      expect(share(10_000, 20_000)).toBeLessThan(25);
      expect(share(slowStartMs, slowStartMs + 10_000)).toBeGreaterThan(20);
      expect(share(slowStartMs, slowStartMs + 10_000)).toBeLessThan(30);
    }
  });

  it("control: round robin, and a set that is not warm, give it all at once", () => {
    expect(join(1, { choose: roundRobin })(0, 2_000)).toBeGreaterThan(20);
    expect(join(1, {}, 10_000)(0, 2_000)).toBeGreaterThan(10);
  });
});

describe("channels", () => {
  /** Opens channels that stay: 300 on three instances, then 100 more with a fourth there; how many the fourth has. */
  const open = (seed: number, counted: boolean) => {
    const world = new World({ seed, behaviours: [healthy, healthy, healthy], calls: 0, callers: 0 });
    const held = new Map<number, number>();
    const openOne = () => {
      const now = world.clock.now();
      const { index, instance } = world.balancer.pick(now, undefined, true) as Endpoint;
      instance.begin(now);
      world.clock.advance(1);
      instance.succeeded(world.clock.now(), now, 0);
      if (counted) instance.channelOpened();
      held.set(index, (held.get(index) ?? 0) + 1);
    };
    for (let channel = 0; channel < 300; channel++) openOne();
    const spread = [...held.values()];
    world.clock.advance(slowStartMs);
    world.setSize(4);
    world.clock.advance(slowStartMs);
    for (let channel = 0; channel < 100; channel++) openOne();
    return { spread, newcomer: held.get(3) ?? 0 };
  };

  it("count as load: a new instance gets its share of them, and each holds as many as the others", () => {
    for (const seed of seeds) {
      const { spread, newcomer } = open(seed, true);
      for (const count of spread) {
        expect(count).toBeGreaterThan(90);
        expect(count).toBeLessThan(110);
      }
      // 100 would even it out; half of all pairs have it.
      expect(newcomer).toBeGreaterThan(35);
    }
  });

  it("control: not counted, the new one gets a fourth of the new ones only", () => {
    const newcomers = seeds.map((seed) => open(seed, false).newcomer);
    expect(newcomers.reduce((sum, count) => sum + count) / seeds.length).toBeLessThan(35);
  });
});

it("keeps queues short: 50 instances of one thread each, 200 callers, 0.5 to 1.5 ms of work a call", () => {
  /** The 99th percentile of the latency, ms, once the queues have settled. */
  const p99 = (change: Partial<Traffic>) => {
    const busyUntil = new Array<number>(50).fill(0);
    const latencies: number[] = [];
    const behaviours = busyUntil.map(
      (_, index): Behaviour =>
        (random, now) => {
          const endsAt = Math.max(now, busyUntil[index] as number) + 0.5 + random();
          busyUntil[index] = endsAt;
          latencies.push(endsAt - now);
          return { ms: endsAt - now };
        },
    );
    new World({ seed: 1, behaviours, calls: 40_000, callers: 200, ...change }).run();
    return latencies.slice(5_000).sort((a, b) => a - b)[Math.floor(35_000 * 0.99)] as number;
  };
  const random = seeded(7);
  const atRandom = (endpoints: readonly Endpoint[]) => endpoints[Math.floor(random() * endpoints.length)] as Endpoint;
  const balanced = p99({});
  expect(balanced).toBeLessThan(10);
  expect(p99({ choose: atRandom })).toBeGreaterThan(balanced * 1.5);
});
