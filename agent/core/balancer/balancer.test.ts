import type { Random } from "@leveros/protocol/clock/clock.ts";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  type BalancedInstance,
  Balancer,
  drainingMs,
  type EndpointSource,
  rendezvousRank,
  subsetSize,
} from "./balancer.ts";
import { slowStartMs } from "./endpoint-load.ts";

/** What a router would keep for an instance. */
interface Endpoint {
  readonly id: string;
  readonly instance: BalancedInstance<Endpoint>;
}

interface Row {
  id: string;
  zone?: string;
  isServing?: boolean;
}

/** Mulberry32: small, seeded, good enough for a test. */
function seeded(seed: number): Random {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

function sources(rows: readonly (Row | string)[]): EndpointSource<Endpoint>[] {
  return rows.map((row) => {
    const { id, zone, isServing = true } = typeof row === "string" ? { id: row } : (row as Row);
    return { id, zone, isServing, create: (instance) => ({ id, instance }) };
  });
}

function balancerOf(rows: readonly (Row | string)[], options: { zone?: string; self?: string; random?: Random } = {}) {
  const balancer = new Balancer<Endpoint>({
    random: options.random ?? seeded(1),
    self: options.self ?? "me",
    zone: options.zone,
  });
  balancer.update(sources(rows), 0);
  const byId = (id: string) => [...balancer.instances()].find((each) => each.id === id) as BalancedInstance<Endpoint>;
  const picks = (now: number, times = 400) => {
    const counts = new Map<string, number>();
    for (let time = 0; time < times; time++) {
      const id = balancer.pick(now)?.id ?? "none";
      counts.set(id, (counts.get(id) ?? 0) + 1);
    }
    return counts;
  };
  const picked = (now: number) => [...picks(now).keys()].sort();
  return { balancer, byId, picks, picked };
}

function lose(instance: BalancedInstance<Endpoint>, now: number, times = 5) {
  for (let time = 0; time < times; time++) {
    instance.begin(now);
    instance.errored(now, now, "CONNECTION_LOST");
  }
}

function answer(instance: BalancedInstance<Endpoint>, now: number, latencyMs: number, load = 0, times = 1) {
  for (let time = 0; time < times; time++) {
    instance.begin(now - latencyMs);
    instance.succeeded(now, now - latencyMs, load);
  }
}

describe("Balancer: the set", () => {
  it("has none to give when it is empty", () => {
    const { balancer } = balancerOf([]);
    expect(balancer.pick(0)).toBeUndefined();
    expect(balancer.servingCount).toBe(0);
  });

  it("gives all that serve, evenly, and no other", () => {
    const { balancer, picks } = balancerOf(["a", "b", { id: "c", isServing: false }, "d", "a"]);
    expect(balancer.servingCount).toBe(3);
    const counts = picks(0, 3_000);
    expect([...counts.keys()].sort()).toEqual(["a", "b", "d"]);
    for (const count of counts.values()) expect(count).toBeGreaterThan(900);
  });

  it("makes one endpoint of an id that comes twice", () => {
    const made: string[] = [];
    const balancer = new Balancer<string>({ random: seeded(1), self: "me" });
    const source = (id: string) => ({
      id,
      isServing: true,
      create: () => {
        made.push(id);
        return id;
      },
    });
    balancer.update([source("a"), source("b"), source("a")], 0);
    expect(made).toEqual(["a", "b"]);
    expect(balancer.servingCount).toBe(2);
  });

  it("takes the load that comes with an error", () => {
    const { byId } = balancerOf(["a"]);
    const a = byId("a");
    const costWith = (reported?: number) => {
      a.begin(0);
      a.errored(100, 0, "METHOD_ERROR", reported);
      return a.load.cost(100, 0);
    };
    const before = costWith();
    expect(costWith(9) / before).toBeCloseTo(10, 0);
  });

  it("weighs open channels more for a channel than for a call", () => {
    const { balancer, byId } = balancerOf(["a", "b"]);
    for (let channel = 0; channel < 4; channel++) byId("a").channelOpened();
    const share = (isChannel: boolean) => {
      let ofA = 0;
      for (let time = 0; time < 2_000; time++) if (balancer.pick(0, undefined, isChannel)?.id === "a") ofA++;
      return ofA / 2_000;
    };
    // Costs 1.2 to 1 and 5 to 1.
    expect(share(false)).toBeCloseTo(1 / (1 + 1.2 ** 2), 1);
    expect(share(true)).toBeCloseTo(1 / (1 + 5 ** 2), 1);
    for (let channel = 0; channel < 9; channel++) byId("a").channelClosed();
    expect(share(true)).toBeCloseTo(0.5, 1);
  });

  it("draws every ordered pair alike", () => {
    const count = 5;
    const drawn = new Map<string, number>();
    for (let pair = 0; pair < 20; pair++) {
      // The middle of each pair's part of [0, 1): with equal costs the coin of just below a half takes the first.
      const { balancer, byId } = balancerOf(
        Array.from({ length: count }, (_, index) => `i${index}`),
        { random: () => (pair + 0.49) / 20 },
      );
      const first = balancer.pick(0)?.id as string;
      // Made dear, it loses to the second of the pair.
      byId(first).load.inFlight = 1e6;
      const second = balancer.pick(0)?.id as string;
      drawn.set(`${first} ${second}`, 1);
      expect(first).not.toBe(second);
    }
    expect(drawn.size).toBe(20);
    for (const at of [0, 1 - 2 ** -53]) {
      for (let size = 1; size <= 100; size++) {
        const ids = Array.from({ length: size }, (_, index) => `i${index}`);
        expect(balancerOf(ids, { random: () => at }).balancer.pick(0)).toBeDefined();
      }
    }
  });

  it("keeps endpoint and load of those that stay, and tells who goes", () => {
    const { balancer, byId } = balancerOf(["a", "b"]);
    const a = byId("a");
    answer(a, 100, 70);
    const gone: string[] = [];
    balancer.update(sources(["a", "c"]), 200, (endpoint) => gone.push(endpoint.id));
    expect(byId("a")).toBe(a);
    expect(byId("a").endpoint).toBe(a.endpoint);
    expect(a.load.latency(100)).toBe(70);
    expect(gone).toEqual(["b"]);
    // Calls to the one that has left may still end.
    balancer.update(sources(["c"]), 300);
    a.begin(300);
    lose(a, 300, 10);
    expect(balancer.pick(300)?.id).toBe("c");
  });

  it("takes an instance in when it first serves, and keeps it while it does not serve later", () => {
    const { balancer, byId } = balancerOf(["a", { id: "b", isServing: false }]);
    expect([...balancer.instances()].map(({ id }) => id)).toEqual(["a"]);
    balancer.update(sources(["a", "b"]), 100);
    const b = byId("b");
    expect(b.joinedAtMs).toBe(100);
    balancer.update(sources(["a", { id: "b", isServing: false }]), 200);
    expect(balancer.servingCount).toBe(1);
    balancer.update(sources(["a", "b"]), 300);
    expect(byId("b")).toBe(b);
  });

  it("spares a new instance only in a set that is warm, and gives it the set's latency to begin with", () => {
    const { balancer, byId } = balancerOf(["a", "b"]);
    answer(byId("a"), 1_000, 40);
    balancer.update(sources(["a", "b", "early"]), 1_000);
    balancer.update(sources(["a", "b", "early", "late"]), slowStartMs);
    const cost = (id: string) => byId(id).load.cost(slowStartMs, 0);
    expect(byId("early").load.latency(1_000)).toBe(40);
    expect(cost("late")).toBeGreaterThan(cost("early") * 3);
  });

  it("gives none of those that were tried, prefers any other, and says when all were", () => {
    const { balancer, byId } = balancerOf(["a", "b", "c"]);
    const [a, b, c] = ["a", "b", "c"].map((id) => byId(id).endpoint) as [Endpoint, Endpoint, Endpoint];
    for (let time = 0; time < 50; time++) expect(balancer.pick(0, [a, b])).toBe(c);
    expect(new Set(Array.from({ length: 50 }, () => balancer.pick(0, [a])?.id))).toEqual(new Set(["b", "c"]));
    expect(balancer.pick(0, [a, b, c])).toBeUndefined();
    expect(balancer.pick(0, [])).toBeDefined();
  });
});

describe("Balancer: draining", () => {
  it("gives no calls to one that says so, for a second or until the table has seen it come back", () => {
    const { balancer, byId, picked } = balancerOf(["a", "b", "c"]);
    byId("a").errored(0, 0, "DRAINING");
    byId("b").draining(drainingMs / 2);
    expect(balancer.servingCount).toBe(1);
    expect(picked(drainingMs - 1)).toEqual(["c"]);
    // It may be chosen again; that it has just refused makes it dear.
    picked(drainingMs);
    expect(balancer.servingCount).toBe(2);
    balancer.update(sources(["a", { id: "b", isServing: false }, "c"]), 1.2 * drainingMs);
    expect(balancer.servingCount).toBe(2);
    balancer.update(sources(["a", "b", "c"]), 1.3 * drainingMs);
    expect(balancer.servingCount).toBe(3);
    expect(picked(1.3 * drainingMs)).toContain("b");
  });

  it("may be said of one that has left", () => {
    const { balancer, byId, picked } = balancerOf(["a", "b"]);
    const a = byId("a");
    balancer.update(sources(["b"]), 0);
    a.draining(0);
    balancer.update(sources(["a", "b"]), 1);
    expect(picked(1)).toEqual(["a", "b"]);
  });

  it("has none when all drain", () => {
    const { balancer, byId } = balancerOf(["a", "b"]);
    byId("a").draining(0);
    byId("b").draining(0);
    expect(balancer.pick(1)).toBeUndefined();
    expect(balancer.servingCount).toBe(0);
  });
});

describe("Balancer: ejection", () => {
  it("leaves out the ejected one, probes it with one call, and takes it back", () => {
    const { balancer, byId, picked, picks } = balancerOf(["a", "b", "c"]);
    lose(byId("a"), 0);
    expect(picked(29_999)).toEqual(["b", "c"]);
    expect(balancer.pick(30_000)?.id).toBe("a");
    expect(picked(30_000)).toEqual(["b", "c"]);
    answer(byId("a"), 30_050, 5);
    expect(picks(60_000, 3_000).get("a")).toBeGreaterThan(500);
  });

  it("does not probe with a call that has been there", () => {
    const { balancer, byId } = balancerOf(["a", "b"]);
    lose(byId("a"), 0);
    expect(balancer.pick(30_000, [byId("a").endpoint])?.id).toBe("b");
    expect(balancer.pick(30_000)?.id).toBe("a");
  });

  it("gives the ejected one when nothing else is left", () => {
    const { balancer, byId } = balancerOf(["a", "b"]);
    lose(byId("a"), 0);
    expect(balancer.pick(1, [byId("b").endpoint])?.id).toBe("a");
    byId("b").draining(1);
    expect(balancer.pick(2)?.id).toBe("a");
  });

  it("does not eject for the method's own errors, a refusal, or a cancelled call", () => {
    const { byId, picked } = balancerOf(["a", "b", "c"]);
    for (let time = 0; time < 50; time++) {
      for (const reason of ["METHOD_ERROR", "METHOD_THREW", "OVERLOADED", "CANCELLED", "INVALID_ARGUMENTS"] as const) {
        byId("a").begin(0);
        byId("a").errored(1, 0, reason);
      }
    }
    // Still there once what the refusals cost has faded.
    expect(picked(60_000)).toEqual(["a", "b", "c"]);
    // And an error of the method between failures shows that the app serves.
    lose(byId("b"), 0, 4);
    byId("b").begin(0);
    byId("b").errored(1, 0, "METHOD_THREW");
    lose(byId("b"), 1, 4);
    expect(picked(60_000)).toEqual(["a", "b", "c"]);
  });

  it("keeps nobody out when most fail", () => {
    const { byId, picked } = balancerOf(["a", "b", "c"]);
    lose(byId("a"), 0);
    lose(byId("b"), 0);
    expect(picked(25_000)).toEqual(["a", "b", "c"]);
  });
});

describe("Balancer: zones", () => {
  const rows = [
    { id: "own1", zone: "z1" },
    { id: "own2", zone: "z1" },
    { id: "far1", zone: "z2" },
    { id: "far2", zone: "z3" },
  ];

  it("stays in its zone while that is not clearly dearer; zones unknown on either side count as its own", () => {
    const { byId, picked } = balancerOf([...rows, "nowhere"], { zone: "z1" });
    for (const id of ["own1", "own2", "far1", "far2"]) answer(byId(id), 100, id.startsWith("own") ? 20 : 8, 5, 50);
    expect(picked(100)).toEqual(["nowhere", "own1", "own2"]);
    const { picked: pickedWithout } = balancerOf(rows);
    expect(pickedWithout(0)).toEqual(["far1", "far2", "own1", "own2"]);
  });

  it("spills over, the more the dearer its zone is, and comes back", () => {
    const { byId, picks } = balancerOf(rows, { zone: "z1" });
    const ownShare = (now: number) => {
      const counts = picks(now, 2_000);
      return ((counts.get("own1") ?? 0) + (counts.get("own2") ?? 0)) / 2_000;
    };
    const answerAll = (now: number, ownMs: number, ownLoad: number) => {
      for (const { id } of rows) {
        answer(byId(id), now, id.startsWith("own") ? ownMs : 10, id.startsWith("own") ? ownLoad : 10, 200);
      }
    };
    answerAll(500, 10, 10);
    expect(ownShare(500)).toBe(1);
    answerAll(1_000, 10, 100);
    const loaded = ownShare(1_000);
    expect(loaded).toBeGreaterThan(0.2);
    expect(loaded).toBeLessThan(0.5);
    answerAll(2_000, 500, 100);
    const slow = ownShare(2_000);
    expect(slow).toBeGreaterThan(0);
    expect(slow).toBeLessThan(0.1);
    answerAll(3_000, 10, 10);
    expect(ownShare(3_000)).toBe(1);
  });

  it("does not stay in a zone that fails", () => {
    const { byId, picks } = balancerOf(rows, { zone: "z1" });
    answer(byId("far1"), 0, 10, 0, 10);
    // Two of four fail: only one may be ejected, the other must be left all the same.
    for (const id of ["own1", "own2"]) lose(byId(id), 0, 60);
    const counts = picks(1, 1_000);
    expect((counts.get("far1") ?? 0) + (counts.get("far2") ?? 0)).toBeGreaterThan(900);
  });

  it("goes elsewhere when its zone has nobody, and for a retry when its zone was tried", () => {
    const { balancer, byId, picked } = balancerOf(rows, { zone: "z1" });
    const own = [byId("own1").endpoint, byId("own2").endpoint];
    expect(balancer.pick(0, own)?.id).toMatch(/^far/);
    // An ejected one is no better because it is near.
    lose(byId("own1"), 0);
    for (let time = 0; time < 100; time++) expect(balancer.pick(29_000, [byId("own2").endpoint])?.id).toMatch(/^far/);
    byId("own1").draining(0);
    byId("own2").draining(0);
    expect(picked(1)).toEqual(["far1", "far2"]);
  });

  it("asks the rest once in 10 s and 100 calls, so that it knows what to compare with", () => {
    const { balancer, byId } = balancerOf(rows, { zone: "z1" });
    let left = 0;
    // 60 s at 50 calls a second.
    for (let call = 0; call < 3_000; call++) {
      const now = call * 20;
      const endpoint = balancer.pick(now) as Endpoint;
      if (endpoint.id.startsWith("far")) left++;
      answer(byId(endpoint.id), now + 5, 5);
    }
    expect(left).toBeGreaterThanOrEqual(4);
    expect(left).toBeLessThanOrEqual(7);
  });
});

describe("Balancer: subsets of large services", () => {
  const ids = (count: number) => Array.from({ length: count }, (_, index) => `chat-6d9f-${index}`);
  const subsetOf = (self: string, all: readonly string[]) => {
    const { balancer } = balancerOf(all, { self });
    return new Set([...balancer.instances()].map((each) => each.id));
  };

  it("uses all of 100, and 100 of more, the same whatever the order of the table", () => {
    expect(subsetOf("me", ids(100)).size).toBe(100);
    const subset = subsetOf("me", ids(400));
    expect(subset.size).toBe(subsetSize);
    expect(subsetOf("me", ids(400).reverse())).toEqual(subset);
  });

  it("changes by at most one when one instance comes or goes", () => {
    fc.assert(
      fc.property(fc.string({ minLength: 1, maxLength: 12 }), fc.nat(399), (self, index) => {
        const all = ids(400);
        const before = subsetOf(self, all);
        const after = subsetOf(
          self,
          all.filter((_, each) => each !== index),
        );
        const lost = [...before].filter((id) => !after.has(id));
        expect(lost).toEqual(before.has(all[index] as string) ? [all[index]] : []);
      }),
      { numRuns: 50 },
    );
  });

  it("spreads callers over all instances, as random subsets do", () => {
    const all = ids(500);
    const callers = 400;
    const uses = new Map<string, number>();
    for (let caller = 0; caller < callers; caller++) {
      for (const id of subsetOf(`caller-${caller}`, all)) uses.set(id, (uses.get(id) ?? 0) + 1);
    }
    // Binomial with mean 80 and a deviation of 8.
    expect(uses.size).toBe(500);
    for (const count of uses.values()) {
      expect(count).toBeGreaterThan(80 - 5 * 8);
      expect(count).toBeLessThan(80 + 5 * 8);
    }
    const variance = [...uses.values()].reduce((sum, count) => sum + (count - 80) ** 2, 0) / 500;
    expect(variance).toBeGreaterThan(64 * 0.7);
    expect(variance).toBeLessThan(64 * 1.4);
  });

  it("ranks evenly: a change of the last character turns each bit of the rank in half of the cases", () => {
    const turned = new Array<number>(32).fill(0);
    for (let caller = 0; caller < 1_000; caller++) {
      const changed =
        rendezvousRank(`caller-${caller}`, "chat-6d9f-1") ^ rendezvousRank(`caller-${caller}`, "chat-6d9f-2");
      for (let bit = 0; bit < 32; bit++) turned[bit] = (turned[bit] as number) + ((changed >>> bit) & 1);
    }
    for (const count of turned) {
      expect(count).toBeGreaterThan(400);
      expect(count).toBeLessThan(600);
    }
  });

  it("ranks pairs apart that are written alike", () => {
    expect(rendezvousRank("a", "bc")).not.toBe(rendezvousRank("ab", "c"));
    expect(rendezvousRank("a", "b")).not.toBe(rendezvousRank("b", "a"));
  });
});

describe("Balancer: any history", () => {
  it("gives only members that serve and were not tried, and gives one whenever there is one", () => {
    const event = fc.record({
      kind: fc.constantFrom("pick", "pick", "update", "draining", "lose", "answer", "refuse", "wait"),
      mask: fc.nat(2 ** 8 - 1),
      serving: fc.nat(2 ** 8 - 1),
      index: fc.nat(7),
      ms: fc.nat(20_000),
    });
    fc.assert(
      fc.property(fc.array(event, { maxLength: 120 }), fc.nat(), (events, seed) => {
        const balancer = new Balancer<Endpoint>({ random: seeded(seed), self: "me", zone: "z1" });
        const names = ["a", "b", "c", "d", "e", "f", "g", "h"];
        const byId = new Map<string, BalancedInstance<Endpoint>>();
        const serving = new Map<string, boolean>();
        const drainingUntil = new Map<string, number>();
        let now = 0;
        for (const { kind, mask, serving: servingMask, index, ms } of events) {
          const id = names[index] as string;
          const instance = byId.get(id);
          if (kind === "wait") now += ms;
          else if (kind === "update") {
            const rows = names.flatMap((name, bit) =>
              (mask >> bit) & 1 ? [{ id: name, zone: `z${bit % 3}`, isServing: ((servingMask >> bit) & 1) === 1 }] : [],
            );
            for (const row of rows) if (row.isServing && serving.get(row.id) === false) drainingUntil.delete(row.id);
            for (const name of names) if (!rows.some((row) => row.id === name)) drainingUntil.delete(name);
            balancer.update(sources(rows), now);
            byId.clear();
            serving.clear();
            for (const each of balancer.instances()) byId.set(each.id, each);
            for (const row of rows) serving.set(row.id, row.isServing);
          } else if (kind === "pick") {
            const may = names.filter((name) => serving.get(name) === true && (drainingUntil.get(name) ?? 0) <= now);
            const tried = names.filter((_, bit) => (mask >> bit) & 1 && (servingMask >> bit) & 1);
            const endpoint = balancer.pick(
              now,
              tried.flatMap((name) => byId.get(name)?.endpoint ?? []),
              index > 3,
            );
            const untried = may.filter((name) => !tried.includes(name));
            if (untried.length === 0) expect(endpoint).toBeUndefined();
            else expect(untried).toContain(endpoint?.id);
            expect(balancer.servingCount).toBe(may.length);
          } else if (instance !== undefined) {
            if (kind === "draining") {
              instance.draining(now);
              drainingUntil.set(id, now + drainingMs);
            } else if (kind === "lose") lose(instance, now);
            else if (kind === "answer") answer(instance, now, ms / 100, index);
            else {
              instance.begin(now);
              instance.errored(now, now, "OVERLOADED");
            }
          }
        }
      }),
      { numRuns: 300 },
    );
  });
});
