/** Slot tables of any content, for properties. */

import fc from "fast-check";
import type { HolderRef, MoveReason, SlotMove, SlotTableContent, StoredSlotRow } from "../core/ownership/slot-store.ts";

const count = fc.oneof(fc.nat(5), fc.maxSafeNat(), fc.integer({ min: 1_763_000_000_000, max: 1_764_000_000_000 }));
const text = fc.oneof(fc.constantFrom("", "chat-1", "chat-2"), fc.string({ unit: "binary", maxLength: 12 }));

const holderRef: fc.Arbitrary<HolderRef> = fc.record({
  instance: text,
  incarnation: text,
  process: text,
  address: text,
  appStartedAt: count,
  agentStartedAt: count,
});

const reason = fc.constantFrom<MoveReason>(
  "first",
  "released",
  "processEnded",
  "leaseEnded",
  "leaving",
  "rebalance",
  "sameProcess",
  "calledOff",
);

function row(slot: number): fc.Arbitrary<StoredSlotRow> {
  return fc.record(
    {
      slot: fc.constant(slot),
      holder: holderRef,
      epoch: count,
      after: fc.array(fc.record({ holder: holderRef, epoch: count }), { maxLength: 3 }),
      fence: count,
      issued: count,
      shown: fc.record({ holder: text, epoch: count }),
      origin: fc.oneof(
        fc.record({ memory: fc.constantFrom("fresh" as const, "lost" as const) }),
        fc.record(
          { memory: fc.constant("state" as const), epoch: count, address: text, process: text },
          { requiredKeys: ["memory", "epoch", "address"] },
        ),
      ),
      endedEpoch: count,
      moves: fc.array(fc.record({ at: count, from: text, to: text, epoch: count, reason }), { maxLength: 5 }),
    },
    { requiredKeys: ["slot", "epoch", "after", "fence", "issued", "shown", "origin", "endedEpoch", "moves"] },
  );
}

export const slotTable: fc.Arbitrary<SlotTableContent> = fc.nat(12).chain((slots) =>
  fc.record({
    environment: fc.constant("shop"),
    service: fc.constant("chat"),
    writer: fc.string({ minLength: 1 }),
    leaseMs: fc.constantFrom(15_000, 300_000),
    lastEpoch: count,
    rows: fc.tuple(...Array.from({ length: slots }, (_, slot) => row(slot))),
  }),
);

/** A table as a service of that size has it after a while: a few moves of each slot, most of them together with others. */
export function usualTable(slots: number, instances: number, writer = "w.1"): SlotTableContent {
  const now = 1_764_000_000_000;
  let state = 11;
  const below = (max: number) => {
    state = (state * 48_271) % 2_147_483_647;
    return state % max;
  };
  const hex = () =>
    below(2 ** 31)
      .toString(16)
      .padStart(8, "0");
  const refs = Array.from({ length: instances }, (_, index) => ({
    instance: `chat-6d9f7c8b5d-${hex().slice(0, 5)}`,
    incarnation: `${hex()}-${hex()}-${hex()}-${hex()}.1`,
    process: `${hex()}-${hex()}-${hex()}-${hex()}`,
    address: `10.244.${index >> 8}.${index & 255}:3837`,
    appStartedAt: now - 5 * 86_400_000 + below(86_400_000),
    agentStartedAt: now - 6 * 86_400_000 + below(86_400_000),
  }));
  const rows = Array.from({ length: slots }, (_, slot): StoredSlotRow => {
    const moves = Array.from({ length: 5 }, (_, index): SlotMove => {
      const at = now - (5 - index) * 86_400_000 + below(40) * 60_007;
      const reasons = ["rebalance", "leaving", "leaseEnded", "sameProcess"] as const;
      const [from, to] = [refs[below(instances)], refs[below(instances)]];
      return {
        at,
        from: from?.instance ?? "",
        to: to?.instance ?? "",
        epoch: at,
        reason: reasons[below(4)] ?? "first",
      };
    });
    const last = moves.at(-1);
    const epoch = last?.epoch ?? 1;
    const holder = refs.find(({ instance }) => instance === last?.to) as HolderRef;
    return {
      slot,
      holder,
      epoch,
      after: [],
      fence: 0,
      issued: epoch,
      shown: { holder: holder.instance, epoch },
      origin: { memory: "fresh" },
      endedEpoch: moves.at(-2)?.epoch ?? 0,
      moves,
    };
  });
  return { environment: "shop", service: "chat", writer, leaseMs: 15_000, lastEpoch: now, rows };
}
