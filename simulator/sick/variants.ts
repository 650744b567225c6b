/**
 * Ways in which ownership could be built wrongly, each a patch of the source text; the numbers are those of the list that
 * the rules of ownership keep. The simulator has to find every one of them.
 */

import type { Patch } from "./patch.ts";

export interface Variant {
  readonly number: number;
  readonly name: string;
  readonly patches: readonly Patch[];
}

const holderLease = "agent/core/ownership/lease.ts";
const slotHolder = "agent/core/ownership/slot-holder.ts";
const appLease = "clients/node/resources/lease.ts";
const resourceHost = "clients/node/resources/resource-host.ts";
const serviceSlots = "operator/core/ownership/service-slots.ts";
const slotRow = "operator/core/ownership/slot-row.ts";
const leaseTimes = "protocol/control/lease.ts";
const relay = "agent/core/relay.ts";

export const variants: readonly Variant[] = [
  {
    number: 1,
    name: "the holder counts its lease from the answer",
    patches: [
      {
        file: holderLease,
        find: "if (!this.hasLapsed) this.#begunAt = pingedAt;",
        replace: "if (!this.hasLapsed) this.#begunAt = this.#clock.read();",
      },
    ],
  },
  {
    number: 2,
    name: "a renewal needs no app that answers",
    patches: [
      {
        file: holderLease,
        find: "if (sentAt === undefined || elapsedMs(sentAt, this.#clock.read()) > renewalAgeMsMax) return undefined;\n    return sentAt;",
        replace: "return sentAt === undefined ? undefined : this.#clock.read();",
      },
    ],
  },
  {
    number: 2,
    name: "the age of the app's answer is not taken off",
    patches: [
      {
        file: holderLease,
        find: "this.#unanswered.set(this.#lastRenewal, pingedAt);",
        replace: "this.#unanswered.set(this.#lastRenewal, this.#clock.read());",
      },
    ],
  },
  {
    number: 3,
    name: "neither a gap nor the clocks' error is left",
    patches: [
      {
        file: leaseTimes,
        find: "const gateMs = Math.floor(((leaseMs - leaseGapMs) * (1 - clockRateError)) / 100) * 100;",
        replace: "const gateMs = leaseMs;",
      },
      {
        file: leaseTimes,
        find: "return leaseMs * (1 + clockRateError) - ageMs * (1 - 2 * clockRateError);",
        replace: "return leaseMs - ageMs;",
      },
      { file: leaseTimes, find: "return leaseMs * (1 + clockRateError);", replace: "return leaseMs;" },
    ],
  },
  {
    number: 4,
    name: "the gate is shut by a timer only",
    patches: [
      {
        file: holderLease,
        find: "if (elapsedMs(this.#begunAt, this.#clock.read()) >= this.times.gateMs) this.end();\n    return !this.#isOver;",
        replace: "return !this.#isOver;",
      },
      {
        file: holderLease,
        find: "return this.#isOver || (this.hasBegun && !this.isOpen);",
        replace:
          "if (this.#begunAt !== undefined && elapsedMs(this.#begunAt, this.#clock.read()) >= this.times.gateMs) this.end();\n    return this.#isOver;",
      },
    ],
  },
  {
    number: 5,
    name: "the lease is counted by the monotonic clock alone, which stands still in suspend",
    patches: [
      {
        file: "protocol/clock/lease-clock.ts",
        find: "    to.bootMs - from.bootMs,\n    // A clock that was set back says nothing.\n    to.wallMs - from.wallMs,\n",
        replace: "",
      },
    ],
  },
  {
    number: 6,
    name: "the library counts from the receipt of the answer",
    patches: [
      {
        file: appLease,
        find: "this.#term = { asked, admitMs, killMs, gateMs };",
        replace: "this.#term = { asked: this.#clock.read(), admitMs, killMs, gateMs };",
      },
    ],
  },
  {
    number: 7,
    name: "calls that methods make pass no gate at their agent",
    patches: [
      {
        file: "agent/core/outgoing-fields.ts",
        find: "    gate: made?.gate,\n",
        replace: "    gate: undefined,\n",
      },
    ],
  },
  {
    number: 8,
    name: "a slot is taken from what discovery says",
    patches: [
      {
        file: slotHolder,
        find: "    this.#isPolicyKnown = true;\n",
        replace:
          "    this.#isPolicyKnown = true;\n" +
          "    for (const row of table.slots ?? []) {\n" +
          "      if (row.holder !== this.#options.instance || this.#slots.has(row.slot)) continue;\n" +
          '      this.#grant({ slot: row.slot, epoch: row.epoch, origin: { memory: "lost" } });\n' +
          "    }\n",
      },
    ],
  },
  {
    number: 9,
    name: "holders and callers are told before the table is written",
    patches: [{ file: serviceSlots, find: "return this.#file.has(row.assignedAt);", replace: "return true;" }],
  },
  {
    number: 9,
    name: "a write that did not answer is taken for done",
    patches: [
      {
        file: "operator/core/ownership/table-file.ts",
        find: "    // A write may have been done all the same.\n",
        replace: "    if (this.#attempt !== undefined) this.#written = this.#attempt.change;\n",
      },
    ],
  },
  {
    number: 10,
    name: "tables are written whatever their version is",
    patches: [
      { file: "simulator/node/api-server.ts", find: "if (found !== ifVersion) {", replace: "if (found === null) {" },
    ],
  },
  {
    number: 11,
    name: "a closed connection releases slots in which methods run",
    patches: [
      {
        file: slotHolder,
        find: 'if (slot.mayRun) this.#setState(slot, "Lost");\n      else {',
        replace: "{",
      },
    ],
  },
  {
    number: 12,
    name: "the end of an earlier process is charged to the present one",
    patches: [
      {
        file: "simulator/node/cluster.ts",
        find: "if (place.app.process !== process) return;",
        replace: "",
      },
      {
        file: "simulator/fault/faults.ts",
        find: "provenAfterMs + restartsAfterMs, () => cluster.restartApp(place)",
        replace: "restartsAfterMs, () => cluster.restartApp(place)",
      },
    ],
  },
  {
    number: 12,
    name: "the end of an earlier process is charged to the present one, whatever its time",
    patches: [
      {
        file: serviceSlots,
        find: "if (holder.startedAt(process) < endedBefore) this.#processEnded(holder, process);\n    }\n    if (record",
        replace: "this.#processEnded(holder, process);\n    }\n    if (record",
      },
    ],
  },
  {
    number: 14,
    name: "a new leader does not wait for the leases of those it has not heard of",
    patches: [
      {
        file: serviceSlots,
        find: "if (holder.ended !== undefined || !holder.hasLease || holder.lease.leftMs(now, this.#leaseMs) > 0) return;",
        replace:
          "const isUnheard = holder.isRestored && !holder.lease.isRenewed;\n" +
          "    if (holder.ended !== undefined || !holder.hasLease) return;\n" +
          "    if (!isUnheard && holder.lease.leftMs(now, this.#leaseMs) > 0) return;",
      },
    ],
  },
  {
    number: 14,
    name: "a new leader acts on a table that it has not written anew",
    patches: [
      {
        file: serviceSlots,
        find: "      const takenOver = this.#file.needs();\n      for (const row of this.#rows) row.assignedAt = takenOver;\n",
        replace: "",
      },
    ],
  },
  {
    number: 15,
    name: "a slot is released before its methods have returned",
    patches: [
      {
        file: resourceHost,
        find: 'if (slot.phase !== "draining" || slot.calls.size > 0) return;',
        replace: 'if (slot.phase !== "draining") return;',
      },
    ],
  },
  {
    number: 16,
    name: "nested calls are held while their slot drains",
    patches: [{ file: slotHolder, find: "      if (isNested) return slot;\n", replace: "" }],
  },
  {
    number: 17,
    name: "what an earlier epoch left is given to the holder after one that crashed",
    patches: [
      {
        file: slotRow,
        find: '    this.endEpoch(epoch, { memory: "lost" });\n    this.fence',
        replace: "    this.fence",
      },
    ],
  },
  {
    number: 18,
    name: "`none` of the last attempt",
    patches: [
      {
        file: relay,
        find: "this.#effect = worseEffect(this.#effect, error.effect);",
        replace: "this.#effect = error.effect;",
      },
    ],
  },
  {
    number: 18,
    name: "`none` of an error that the method had from another call",
    patches: [
      {
        file: "protocol/invocation/invocation-server.ts",
        find: '    let text = "the method threw";',
        replace: '    if (LeverError.is(thrown)) return fault(thrown);\n    let text = "the method threw";',
      },
    ],
  },
  {
    number: 19,
    name: "epochs begin anew with the table",
    patches: [
      {
        file: serviceSlots,
        find: "Math.max(this.#lastEpoch + 1, Math.floor(now.wallMs))",
        replace: "(this.#lastEpoch + 1)",
      },
    ],
  },
  {
    number: 20,
    name: "a call with a token is repeated at another instance",
    patches: [
      {
        file: "agent/core/retry/retry-policy.ts",
        find: "return { retry: true, elsewhere: mayGoElsewhere, delayMs };",
        replace: "return { retry: true, elsewhere: true, delayMs };",
      },
    ],
  },
  {
    number: 21,
    name: "a process's end is proof while its agent may still have something of it",
    patches: [
      {
        file: serviceSlots,
        find: "if (holder.endedProcesses.size < 2) return;",
        replace: 'if (!holder.endedProcesses.has("app")) return;',
      },
    ],
  },
  {
    number: 21,
    name: "what an agent reports of an app that has ended proves that nobody was granted it since",
    patches: [
      {
        file: serviceSlots,
        find: "if (!holder.isSilent) row.neverGrantedAfter(former);",
        replace: "row.neverGrantedAfter(former);",
      },
    ],
  },
  {
    number: 22,
    name: "a leader that was stopped over its next reading does not read again",
    patches: [
      {
        file: serviceSlots,
        find: "dueMs = Math.max(this.#file.dueInMs, 0);",
        replace: "dueIn(this.#file.dueInMs);",
      },
    ],
  },
  {
    number: 22,
    name: "a gate that has shut with a lapse stays shut when the lease is renewed after all",
    patches: [
      {
        file: resourceHost,
        find: "if (slot.gate?.isOpen === false) slot.gate = new SlotGate(this.#lease);",
        replace: "",
      },
    ],
  },
];
