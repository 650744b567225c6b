import { expect, it } from "vitest";
import { Holder, HolderLease } from "./holder.ts";

it("keeps of what is said before the table is read no more than each slot's last", () => {
  const ref = { instance: "a", incarnation: "b.0.1", process: "p", address: "a:1", appStartedAt: 2, agentStartedAt: 1 };
  const holder = new Holder(ref, new HolderLease({ monotonicMs: 0, bootMs: 0, wallMs: 0 }), false);
  const identity = { ...ref, environment: "dev", service: "chat", isSilent: false, holds: [], released: [] };
  holder.connect(identity, { send: () => {}, onEnded: () => {} });
  for (let epoch = 1; epoch <= 100; epoch++) {
    holder.amendReport({ type: "released", slots: [{ slot: 1, epoch, hasState: true }] });
    holder.amendReport({ type: "held", slots: [{ slot: 2, epoch }] });
  }
  expect(holder.report).toEqual({
    holds: [{ slot: 2, epoch: 100, isDraining: false }],
    released: [{ slot: 1, epoch: 100, hasState: true }],
  });
});
