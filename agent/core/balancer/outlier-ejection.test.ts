import { catalogue, isReason, type Reason } from "@leveros/protocol/error/catalogue.ts";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  EjectionRecord,
  ejectedMax,
  ejectionMs,
  ejectionMsMax,
  OutlierEjection,
  verdictOf,
} from "./outlier-ejection.ts";

function setOf(size: number) {
  let changes = 0;
  const ejection = new OutlierEjection<EjectionRecord>(() => changes++);
  const entries = Array.from({ length: size }, () => new EjectionRecord());
  for (const entry of entries) ejection.add(entry);
  const fail = (entry: EjectionRecord, now: number, times = 1) => {
    for (let time = 0; time < times; time++) ejection.failed(entry, now, now);
  };
  const out = () => entries.flatMap((entry, index) => (ejection.isOut(entry) ? [index] : []));
  return { ejection, entries, fail, out, changes: () => changes };
}

const any = () => true;

describe("OutlierEjection", () => {
  it("ejects after 5 failures in a row, not after 5 with a served call between", () => {
    const { ejection, entries, fail, out, changes } = setOf(3);
    const [first] = entries as [EjectionRecord];
    fail(first, 0, 4);
    ejection.served(first, 0);
    fail(first, 0, 4);
    expect(out()).toEqual([]);
    expect(changes()).toBe(0);
    fail(first, 0);
    expect(out()).toEqual([0]);
    expect(changes()).toBe(1);
  });

  it("lets one call probe after 30 s, and only one", () => {
    const { ejection, entries, fail, out } = setOf(3);
    const [first] = entries as [EjectionRecord];
    fail(first, 1_000, 5);
    expect(ejection.nextProbeAtMs).toBe(31_000);
    expect(ejection.takeProbe(30_999, any)).toBeUndefined();
    expect(ejection.takeProbe(31_000, () => false)).toBeUndefined();
    expect(ejection.takeProbe(31_000, any)).toBe(first);
    expect(ejection.takeProbe(31_001, any)).toBeUndefined();
    expect(out()).toEqual([0]);
    ejection.served(first, 31_050);
    expect(out()).toEqual([]);
    expect(ejection.nextProbeAtMs).toBe(Number.POSITIVE_INFINITY);
    // A fresh start: again 5 failures are needed.
    fail(first, 31_100, 4);
    expect(out()).toEqual([]);
  });

  it("gives another probe when the first is never heard of again", () => {
    const { ejection, entries, fail } = setOf(3);
    const [first] = entries as [EjectionRecord];
    fail(first, 0, 5);
    expect(ejection.takeProbe(30_000, any)).toBe(first);
    expect(ejection.takeProbe(59_999, any)).toBeUndefined();
    expect(ejection.takeProbe(60_000, any)).toBe(first);
  });

  it("ejects for longer each time that a probe fails, up to 5 minutes, and forgets while the instance serves", () => {
    const { ejection, entries, fail } = setOf(3);
    const [first] = entries as [EjectionRecord];
    let now = 0;
    fail(first, now, 5);
    const lengths: number[] = [];
    for (let round = 0; round < 12; round++) {
      lengths.push(ejection.nextProbeAtMs - now);
      now = ejection.nextProbeAtMs;
      expect(ejection.takeProbe(now, any)).toBe(first);
      fail(first, now);
    }
    expect(lengths.slice(0, 3)).toEqual([ejectionMs, 2 * ejectionMs, 3 * ejectionMs]);
    expect(lengths.at(-1)).toBe(ejectionMsMax);
    ejection.served(first, now);
    now += 20 * ejectionMs;
    fail(first, now, 5);
    expect(ejection.nextProbeAtMs - now).toBe(ejectionMs);
    // Back for a moment only: the next time is longer.
    ejection.served(first, now + 10);
    fail(first, now + 20, 5);
    expect(ejection.nextProbeAtMs - now - 20).toBe(2 * ejectionMs);
  });

  it("does not count the calls that were under way when it ejected", () => {
    const { ejection, entries } = setOf(3);
    const [first] = entries as [EjectionRecord];
    for (let call = 0; call < 64; call++) ejection.failed(first, 1_000, 900);
    expect(ejection.nextProbeAtMs).toBe(31_000);
    // But a served one, even begun before, shows that the instance serves.
    ejection.served(first, 1_200);
    expect(ejection.isOut(first)).toBe(false);
  });

  it("ejects at most a tenth, one of few, and never the only one", () => {
    expect([0, 1, 2, 3, 10, 19, 20, 29, 30, 100].map(ejectedMax)).toEqual([0, 0, 1, 1, 1, 1, 2, 2, 3, 10]);
    const { entries, fail, out } = setOf(20);
    for (const entry of entries.slice(0, 9)) fail(entry, 0, 5);
    expect(out()).toEqual([0, 1]);
    const single = setOf(1);
    single.fail(single.entries[0] as EjectionRecord, 0, 50);
    expect(single.out()).toEqual([]);
  });

  it("panics when more than half fail: none is out, until enough serve again", () => {
    const { ejection, entries, fail, out, changes } = setOf(4);
    const [first, second, third] = entries as [EjectionRecord, EjectionRecord, EjectionRecord];
    fail(first, 0, 5);
    fail(second, 0, 5);
    expect(out()).toEqual([0]);
    expect(changes()).toBe(1);
    fail(third, 0, 5);
    expect(ejection.isPanicking).toBe(true);
    expect(out()).toEqual([]);
    expect(changes()).toBe(2);
    ejection.served(third, 10);
    expect(out()).toEqual([0]);
    expect(changes()).toBe(3);
  });

  it("fits what is out to a smaller set, and forgets who leaves", () => {
    const { ejection, entries, fail, out } = setOf(20);
    fail(entries[0] as EjectionRecord, 0, 5);
    fail(entries[1] as EjectionRecord, 1, 5);
    expect(out()).toEqual([0, 1]);
    ejection.remove(entries[19] as EjectionRecord);
    expect(out()).toEqual([1]);
    ejection.remove(entries[1] as EjectionRecord);
    expect(ejection.ejectedCount).toBe(0);
    expect(ejection.nextProbeAtMs).toBe(Number.POSITIVE_INFINITY);
    fail(entries[1] as EjectionRecord, 5, 50);
    expect(ejection.ejectedCount).toBe(0);
  });

  it("begins anew with one that left and came back", () => {
    const { ejection, entries, fail, out } = setOf(2);
    const [first, second] = entries as [EjectionRecord, EjectionRecord];
    fail(first, 0, 5);
    ejection.remove(first);
    ejection.add(first);
    expect(out()).toEqual([]);
    fail(first, 1, 4);
    expect(out()).toEqual([]);
    fail(second, 1, 5);
    expect(ejection.isPanicking).toBe(false);
    expect(out()).toEqual([1]);
  });

  it("keeps its bounds over any history", () => {
    const event = fc.record({
      kind: fc.constantFrom("failed", "failed", "failed", "served", "add", "remove", "probe", "wait"),
      index: fc.nat(24),
      ms: fc.nat(40_000),
    });
    fc.assert(
      fc.property(fc.array(event, { maxLength: 400 }), fc.integer({ min: 1, max: 25 }), (events, size) => {
        const { ejection, entries } = setOf(size);
        const members = new Set(entries);
        let now = 0;
        for (const { kind, index, ms } of events) {
          const entry = entries[index % size] as EjectionRecord;
          if (kind === "wait") now += ms;
          else if (kind === "failed") for (let time = 0; time < 3; time++) ejection.failed(entry, now, now);
          else if (kind === "served") ejection.served(entry, now);
          else if (kind === "probe") {
            const probed = ejection.takeProbe(now, any);
            if (probed !== undefined) expect(probed.isEjected).toBe(true);
          } else {
            ejection[kind](entry);
            if (kind === "add") members.add(entry);
            else members.delete(entry);
          }
          const ejected = entries.filter((each) => each.isEjected);
          expect(ejected.length).toBe(ejection.ejectedCount);
          expect(ejected.length).toBeLessThanOrEqual(ejectedMax(members.size));
          for (const each of ejected) expect(members.has(each)).toBe(true);
          const failing = [...members].filter((each) => each.failuresInRow >= 5).length;
          expect(ejection.isPanicking).toBe(failing * 2 > members.size);
          expect(ejection.nextProbeAtMs).toBe(
            Math.min(Number.POSITIVE_INFINITY, ...ejected.map((each) => each.probeAtMs)),
          );
        }
      }),
    );
  });
});

describe("verdictOf", () => {
  it("never blames an instance for the method's own error or the caller's arguments", () => {
    for (const reason of Object.keys(catalogue).filter(isReason)) {
      const { kind } = catalogue[reason];
      if (kind === "arguments" || kind === "method") expect(verdictOf(reason), reason).toBe("served");
      else expect(verdictOf(reason), reason).not.toBe("served");
    }
  });

  it("blames it for what is lost, silent, unreachable, or answers without an app", () => {
    const failures: Reason[] = [
      "CONNECTION_LOST",
      "DEADLINE_EXCEEDED",
      "INSTANCE_UNREACHABLE",
      "APP_GONE",
      "NO_INSTANCES",
    ];
    for (const reason of failures) expect(verdictOf(reason), reason).toBe("failed");
    for (const reason of ["DRAINING", "OVERLOADED"] as const) expect(verdictOf(reason), reason).toBe("refused");
    for (const reason of ["CANCELLED", "AGENT_UNREACHABLE"] as const) expect(verdictOf(reason), reason).toBe("none");
  });
});
