import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type Assignment, assign, type Member, type Place } from "./assignment.ts";

const unlimited = { leavingMax: 10_000, rebalanceMax: 10_000 };

function member(id: string, part: Partial<Member> = {}): Member {
  return { id, isLeaving: false, canReceive: true, ...part };
}

function members(count: number): Member[] {
  return Array.from({ length: count }, (_, n) => member(`m${n}`));
}

function places(owners: readonly (string | undefined)[]): Place[] {
  return owners.map((owner, slot) => ({ slot, owner, isMovable: owner !== undefined, isResting: false }));
}

function after(before: readonly Place[], assignments: readonly Assignment[]): Place[] {
  const moved = new Map(assignments.map(({ slot, to }) => [slot, to]));
  return before.map((place) => ({ ...place, owner: moved.get(place.slot) ?? place.owner, isMovable: true }));
}

function countsOf(all: readonly Place[], of: readonly Member[]): number[] {
  return of.map(({ id }) => all.filter(({ owner }) => owner === id).length);
}

/** Members and a table of slots, each of them held by one of the members, somebody else, or nobody. */
const situation = fc
  .record({ count: fc.integer({ min: 1, max: 12 }), slots: fc.integer({ min: 1, max: 120 }), seed: fc.nat() })
  .chain(({ count, slots }) =>
    fc.record({
      count: fc.constant(count),
      // Skewed, so that some have much and some nothing.
      owners: fc.array(
        fc.oneof(
          { weight: 3, arbitrary: fc.integer({ min: 0, max: count - 1 }) },
          { weight: 3, arbitrary: fc.constant(0) },
          { weight: 1, arbitrary: fc.constant(undefined) },
        ),
        { minLength: slots, maxLength: slots },
      ),
    }),
  );

describe("assign", () => {
  it("evens the counts to one, by the fewest moves, and moves nothing else", () => {
    fc.assert(
      fc.property(situation, ({ count, owners }) => {
        const all = members(count);
        const before = places(owners.map((owner) => (owner === undefined ? undefined : `m${owner}`)));
        const assignments = assign(all, before, unlimited);
        expect(new Set(assignments.map(({ slot }) => slot)).size).toBe(assignments.length);
        const now = after(before, assignments);
        const counts = countsOf(now, all);
        expect(Math.max(...counts) - Math.min(...counts)).toBeLessThanOrEqual(1);
        // The fewest: the free ones, and what some have above an even count, or others below, whichever is more.
        const free = before.filter(({ owner }) => owner === undefined).length;
        const low = Math.floor(owners.length / count);
        const counted = countsOf(before, all);
        const sum = (each: (had: number) => number) => counted.reduce((total, had) => total + each(had), 0);
        const high = low + (owners.length % count === 0 ? 0 : 1);
        const excess = sum((had) => Math.max(0, had - high));
        const want = sum((had) => Math.max(0, low - had));
        expect(assignments.length).toBe(free + Math.max(excess, want - free, 0));
        expect(assignments.filter(({ why }) => why === "free").length).toBe(free);
      }),
      { numRuns: 500 },
    );
  });

  it("gives a fourth member a quarter, and moves nothing between the others", () => {
    const three = members(3);
    const before = after(
      places(Array(256).fill(undefined)),
      assign(three, places(Array(256).fill(undefined)), unlimited),
    );
    expect(countsOf(before, three)).toEqual([86, 85, 85]);
    const assignments = assign(members(4), before, unlimited);
    expect(assignments.length).toBe(64);
    expect(new Set(assignments.map(({ to }) => to))).toEqual(new Set(["m3"]));
  });

  it("empties members that leave, before it balances, each slot to who has the fewest", () => {
    const all = [member("a", { isLeaving: true }), member("b"), member("c")];
    const before = places([...Array(6).fill("a"), ...Array(4).fill("b")]);
    const assignments = assign(all, before, unlimited);
    expect(countsOf(after(before, assignments), all)).toEqual([0, 5, 5]);
    expect(assignments.every(({ why }) => why === "leaving")).toBe(true);
  });

  it("begins no more moves than it may, and all free slots at once", () => {
    const before = places([...Array(100).fill("m0"), ...Array(50).fill(undefined)]);
    const assignments = assign(members(3), before, { leavingMax: 5, rebalanceMax: 7 });
    const whys = assignments.map(({ why }) => why);
    expect(whys.filter((why) => why === "free").length).toBe(50);
    expect(whys.filter((why) => why === "rebalance").length).toBe(7);
    const leaving = [member("m0", { isLeaving: true }), member("m1")];
    expect(assign(leaving, before.slice(0, 100), { leavingMax: 5, rebalanceMax: 7 }).length).toBe(5);
    expect(assign(leaving, before.slice(0, 100), { leavingMax: -1, rebalanceMax: -1 })).toEqual([]);
  });

  it("leads to the same evenness by the same number of moves when it is asked again and again", () => {
    fc.assert(
      fc.property(situation, fc.integer({ min: 1, max: 5 }), ({ count, owners }, pace) => {
        const all = members(count);
        const before = places(owners.map((owner) => (owner === undefined ? undefined : `m${owner}`)));
        const atOnce = assign(all, before, unlimited).length;
        let now: readonly Place[] = before;
        let moves = 0;
        for (;;) {
          const step = assign(all, now, { leavingMax: pace, rebalanceMax: pace });
          if (step.length === 0) break;
          moves += step.length;
          now = after(now, step);
        }
        expect(moves).toBe(atOnce);
      }),
    );
  });

  it("leaves what cannot move, what rests, and what others hold where it is", () => {
    const before: Place[] = [
      { slot: 0, owner: "m0", isMovable: false, isResting: false },
      { slot: 1, owner: "m0", isMovable: true, isResting: true },
      { slot: 2, owner: "somebody", isMovable: true, isResting: false },
      { slot: 3, owner: "m0", isMovable: true, isResting: false },
      { slot: 4, owner: "m0", isMovable: true, isResting: false },
    ];
    const assignments = assign(members(2), before, unlimited);
    expect(assignments.map(({ slot }) => slot).sort()).toEqual([3, 4]);
    // One that rests moves when its holder leaves.
    const leaving = [member("m0", { isLeaving: true }), member("m1")];
    expect(assign(leaving, before, unlimited).map(({ slot }) => slot)).toEqual([1, 3, 4]);
  });

  it("gives nothing to who cannot take it, and keeps a share for it", () => {
    const all = [member("a"), member("b"), member("away", { canReceive: false }), member("new")];
    const before = places([...Array(30).fill("a"), ...Array(30).fill("b"), ...Array(30).fill("away")]);
    // 22 each: the one that is away gives when it is back.
    const assignments = assign(
      all,
      before.map((place) => ({ ...place, isMovable: place.owner !== "away" })),
      unlimited,
    );
    expect(countsOf(after(before, assignments), all)).toEqual([22, 22, 30, 16]);
    expect(assign([member("a", { canReceive: false })], places([undefined]), unlimited)).toEqual([]);
    expect(assign([], places([undefined]), unlimited)).toEqual([]);
  });

  it("takes 4,096 slots and 10,000 members", () => {
    const all = members(10_000);
    const assignments = assign(all, places(Array(4096).fill(undefined)), unlimited);
    expect(new Set(assignments.map(({ to }) => to)).size).toBe(4096);
  });
});
