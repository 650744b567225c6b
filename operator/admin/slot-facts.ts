/** What the leader knows of a slot, in words for people. */

import type { SlotExplanation } from "../core/ownership/service-slots.ts";
import type { MoveReason } from "../core/ownership/slot-store.ts";
import type { MoveReport, SlotFacts } from "./admin-report.ts";

/** Moves shown: the last ones. */
const movesShownMax = 8;

const reasons: Readonly<Record<MoveReason, (from: string) => string>> = {
  first: () => "nobody had held it",
  released: (from) => `${from} gave it up: its app had gone`,
  processEnded: (from) => `the process of ${from} had ended`,
  leaseEnded: (from) => `the lease of ${from} had run out`,
  leaving: (from) => `${from} was to stop`,
  rebalance: () => "instances are to hold about the same number of slots",
  sameProcess: (from) => `the process of ${from} registered anew`,
  calledOff: () => "a move away was called off",
};

export function slotFacts(slot: SlotExplanation): SlotFacts {
  const moves = slot.moves.slice(-movesShownMax).reverse();
  const last = moves.find(({ to, epoch }) => to === slot.holder && epoch === slot.epoch);
  return {
    why: slot.holder === "" ? whyNobody(slot) : last === undefined ? "" : reasons[last.reason](nameOf(last.from)),
    move: moveOf(slot),
    moves: moves.map(({ at, from, to, epoch, reason }) => ({
      at,
      from,
      to,
      epoch,
      why: reasons[reason](nameOf(from)),
    })),
    leaseLeftMs: slot.leaseLeftMs ?? null,
  };
}

function whyNobody({ epoch, next, waitsFor }: SlotExplanation): string {
  if (next !== undefined) return "it is being given to another instance";
  if (waitsFor.length > 0) return `${waitsFor.map(({ instance }) => instance).join(" and ")} may still hold it`;
  return epoch === 0 ? "no instance has been there to hold it" : "no instance is there to hold it";
}

function moveOf({ next, waitsFor, isWithdrawn }: SlotExplanation): MoveReport | null {
  if (next === undefined) return null;
  return { to: next.instance, epoch: next.epoch, waitsFor: waitText(next.instance, waitsFor, isWithdrawn) };
}

function waitText(to: string, waitsFor: SlotExplanation["waitsFor"], isWithdrawn: boolean): string {
  if (isWithdrawn) return `it is being called off; ${to} is to say that it never held the slot`;
  if (waitsFor.length === 0) return `${to} is to confirm that it has the slot`;
  const formers = waitsFor.map(({ instance, epoch }) => `${instance} (epoch ${epoch})`);
  return `${formers.join(" and ")} is to finish what runs and release the slot, or its end is to be proven`;
}

function nameOf(instance: string): string {
  return instance === "" ? "its holder" : instance;
}
