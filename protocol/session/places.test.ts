import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Places } from "./places.ts";

describe("places", () => {
  test("a key that has as many as it may is in its own way, and in nobody else's", () => {
    const places = new Places<number>({ max: 10, ofKeyMax: 2 });
    places.take("a", 1);
    places.take("b", 2);
    expect(places.inTheWayOf("a")).toBeUndefined();
    places.take("a", 3);
    const taken = places.inTheWayOf("a");
    expect(taken).toMatchObject({ areOfKey: true, max: 2, oldest: 1 });
    expect([...(taken?.holders ?? [])]).toEqual([1, 3]);
    expect(places.inTheWayOf("b")).toBeUndefined();
    places.free(1);
    expect(places.inTheWayOf("a")).toBeUndefined();
  });

  test("when all are taken, whoever came first is in the way first", () => {
    const places = new Places<number>({ max: 3, ofKeyMax: 2 });
    for (const [key, holder] of [["b", 1] as const, ["a", 2] as const, ["b", 3] as const]) places.take(key, holder);
    const taken = places.inTheWayOf("c");
    expect(taken).toMatchObject({ areOfKey: false, max: 3, oldest: 1 });
    expect([...(taken?.holders ?? [])]).toEqual([1, 2, 3]);
    // Of those that are full themselves the own oldest goes.
    expect(places.inTheWayOf("b")).toMatchObject({ areOfKey: true, oldest: 1 });
    places.free(1);
    expect(places.inTheWayOf("c")).toBeUndefined();
  });

  test("who has no place frees none", () => {
    const places = new Places<number>({ max: 1, ofKeyMax: 1 });
    places.take("a", 1);
    places.free(2);
    expect(places.count).toBe(1);
    places.free(1);
    places.free(1);
    expect(places.count).toBe(0);
  });

  test("is what counting says, whatever comes and goes", () => {
    const step = fc.record({ key: fc.constantFrom("a", "b", "c"), frees: fc.boolean(), at: fc.nat(9) });
    const limits = fc.record({ max: fc.integer({ min: 1, max: 6 }), ofKeyMax: fc.integer({ min: 1, max: 4 }) });
    fc.assert(
      fc.property(limits, fc.array(step, { maxLength: 60 }), ({ max, ofKeyMax }, steps) => {
        const places = new Places<number>({ max, ofKeyMax });
        let model: { key: string; holder: number }[] = [];
        let next = 0;
        for (const { key, frees, at } of steps) {
          if (frees) {
            const holder = model[at % Math.max(model.length, 1)]?.holder ?? -1;
            places.free(holder);
            model = model.filter((each) => each.holder !== holder);
          } else {
            const own = model.filter((each) => each.key === key).map(({ holder }) => holder);
            const all = model.map(({ holder }) => holder);
            const expected = own.length >= ofKeyMax ? own : all.length >= max ? all : undefined;
            const taken = places.inTheWayOf(key);
            expect(taken && [...taken.holders]).toEqual(expected);
            expect(taken?.oldest).toBe(expected?.[0]);
            expect(taken?.areOfKey).toBe(expected && own.length >= ofKeyMax);
            if (taken !== undefined) continue;
            places.take(key, ++next);
            model.push({ key, holder: next });
          }
          expect(places.count).toBe(model.length);
        }
      }),
    );
  });
});
