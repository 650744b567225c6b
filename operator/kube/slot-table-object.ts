/**
 * A service's slots as they lie in its `LeverEndpointTable` object: `ownership`, the leader's own record, and `slots`,
 * which says the same for people.
 *
 * Invariant: decoding gives exactly what was encoded, and what does not decode is an error, never a guess: a row that is
 * wrong would make two holders. The record is columns of JSON, deflated, in Base64: rows of one time are alike, and a
 * move of thousands of slots is written as a whole (R8), so its size is what etcd has to take.
 */

import { createHash } from "node:crypto";
import { deflateRawSync, inflateRawSync } from "node:zlib";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import type {
  HolderRef,
  MoveReason,
  SlotTableContent,
  StoredOrigin,
  StoredSlotRow,
} from "../core/ownership/slot-store.ts";
import type { KubeObject } from "./kube-object.ts";

export interface TableInstance {
  readonly id: string;
  readonly podUid?: string;
  /** host:port of its agent. */
  readonly address: string;
  readonly zone?: string;
  readonly state: "Starting" | "Serving" | "Draining" | "Unreachable";
}

/** The same for the same instances in the same order, whoever has written them. */
export function instancesDigest(instances: readonly TableInstance[], servingInstances: number): string {
  const fields = instances.map(({ id, podUid, address, zone, state }) => [id, podUid, address, zone, state]);
  return createHash("sha1")
    .update(JSON.stringify([servingInstances, ...fields]))
    .digest("base64");
}

/** Neighbouring slots with one holder and one epoch. */
export interface TableSlotRun {
  readonly first: number;
  readonly last: number;
  readonly holder: string;
  readonly epoch: number;
}

export interface TableOwnership {
  readonly writer: string;
  readonly leaseMs: number;
  readonly lastEpoch: number;
  /** The rows, encoded; long ones in several texts. */
  readonly rows: readonly string[];
}

/** As the API server has it. */
export interface StoredEndpointTable extends KubeObject {
  /** Rises with each change of the instances. */
  readonly version?: number;
  readonly servingInstances?: number;
  readonly heldSlots?: number;
  readonly instances?: readonly TableInstance[];
  readonly slots?: readonly TableSlotRun[];
  readonly ownership?: TableOwnership;
}

/** The format of `ownership.rows`; another one is not read. */
const format = 1;
/** One text of `rows`: the schema's limit. */
const textCharsMax = 65_536;
/** What rows may unfold to: 4,096 with five moves each are below 3 MiB. */
const jsonBytesMax = 16 * 1024 * 1024;
const slotsMax = 4096;
/** A tenth of the default's time, for a fifth more bytes: the leader waits for each write. */
const deflateLevel = 1;

const moveReasons: readonly MoveReason[] = [
  "first",
  "released",
  "processEnded",
  "leaseEnded",
  "leaving",
  "rebalance",
  "sameProcess",
  "calledOff",
];
const memories: readonly StoredOrigin["memory"][] = ["fresh", "lost", "state"];

/**
 * Columns of all rows in their order. A reference to a holder or a text is its index; of an absent one it is −1. Lists
 * (`after`, `moves`) have a count for each row, and columns of what they have in all rows together. A time or an epoch is
 * its distance from another one of the row, most often 0, as `rowsOf` adds them up.
 */
interface Columns {
  readonly format: number;
  readonly texts: string[];
  /** instance, incarnation, process, address of each, as indices of texts. */
  readonly holders: number[];
  readonly appStartedAt: number[];
  readonly agentStartedAt: number[];
  readonly slot: number[];
  readonly holder: number[];
  readonly epoch: number[];
  readonly fence: number[];
  readonly issued: number[];
  readonly endedEpoch: number[];
  readonly shownHolder: number[];
  readonly shownEpoch: number[];
  readonly afterCount: number[];
  readonly afterHolder: number[];
  readonly afterEpoch: number[];
  readonly memory: number[];
  /** Of rows whose memory is `state`. */
  readonly stateEpoch: number[];
  readonly stateAddress: number[];
  readonly stateProcess: number[];
  readonly moveCount: number[];
  readonly moveAt: number[];
  readonly moveFrom: number[];
  readonly moveTo: number[];
  readonly moveEpoch: number[];
  readonly moveReason: number[];
}

type NumberColumn = Exclude<keyof Columns, "format" | "texts">;

const numberColumns: readonly NumberColumn[] = [
  "holders",
  "appStartedAt",
  "agentStartedAt",
  "slot",
  "holder",
  "epoch",
  "fence",
  "issued",
  "endedEpoch",
  "shownHolder",
  "shownEpoch",
  "afterCount",
  "afterHolder",
  "afterEpoch",
  "memory",
  "stateEpoch",
  "stateAddress",
  "stateProcess",
  "moveCount",
  "moveAt",
  "moveFrom",
  "moveTo",
  "moveEpoch",
  "moveReason",
];

export function encodeOwnership({ writer, leaseMs, lastEpoch, rows }: SlotTableContent): TableOwnership {
  const columns: Columns = { format, texts: [], ...emptyColumns() };
  const texts = new Indices<string>((text) => columns.texts.push(text));
  const holders = new Indices<HolderRef>(({ instance, incarnation, process, address, ...times }) => {
    columns.holders.push(...[instance, incarnation, process, address].map((text) => texts.of(text, text)));
    columns.appStartedAt.push(times.appStartedAt);
    columns.agentStartedAt.push(times.agentStartedAt);
  });
  const holderIndex = (ref: HolderRef | undefined) => {
    if (ref === undefined) return -1;
    const { instance, incarnation, process, address, appStartedAt, agentStartedAt } = ref;
    const key = JSON.stringify([instance, incarnation, process, address, appStartedAt, agentStartedAt]);
    return holders.of(key, ref);
  };
  const textIndex = (text: string | undefined) => (text === undefined ? -1 : texts.of(text, text));
  /** Exact for what `isCount` takes, and only for that. */
  const distance = (slot: number, value: number, from: number) => {
    if (isCount(value)) return value - from;
    throw new LeverError("INTERNAL", `slot ${slot} has an epoch or time of ${value}, expected a whole number`);
  };

  for (const { slot, holder, epoch, after, fence, issued, shown, origin, endedEpoch, moves } of rows) {
    columns.slot.push(slot);
    columns.holder.push(holderIndex(holder));
    columns.epoch.push(distance(slot, epoch, lastEpoch));
    columns.fence.push(distance(slot, fence, 0));
    columns.issued.push(distance(slot, issued, epoch));
    columns.endedEpoch.push(distance(slot, endedEpoch, epoch));
    columns.shownHolder.push(textIndex(shown.holder));
    columns.shownEpoch.push(distance(slot, shown.epoch, epoch));
    columns.afterCount.push(after.length);
    for (const former of after) {
      columns.afterHolder.push(holderIndex(former.holder));
      columns.afterEpoch.push(distance(slot, former.epoch, epoch));
    }
    columns.memory.push(memories.indexOf(origin.memory));
    if (origin.memory === "state") {
      columns.stateEpoch.push(distance(slot, origin.epoch, endedEpoch));
      columns.stateAddress.push(textIndex(origin.address));
      columns.stateProcess.push(textIndex(origin.process));
    }
    columns.moveCount.push(moves.length);
    for (const move of moves) {
      columns.moveAt.push(distance(slot, move.at, move.epoch));
      columns.moveFrom.push(textIndex(move.from));
      columns.moveTo.push(textIndex(move.to));
      columns.moveEpoch.push(distance(slot, move.epoch, epoch));
      columns.moveReason.push(moveReasons.indexOf(move.reason));
    }
  }
  const text = deflateRawSync(JSON.stringify(columns), { level: deflateLevel }).toString("base64");
  const parts: string[] = [];
  for (let start = 0; start < text.length; start += textCharsMax) parts.push(text.slice(start, start + textCharsMax));
  return { writer, leaseMs, lastEpoch, rows: parts };
}

/** Throws INTERNAL, and says what is wrong, if the record is not one that `encodeOwnership` made. */
export function decodeOwnership(environment: string, service: string, ownership: TableOwnership): SlotTableContent {
  const fail = (what: string, cause?: unknown): never => {
    throw new LeverError(
      "INTERNAL",
      `LeverEndpointTable ${environment}/${service}: ownership: ${what}. Nothing is decided by a record that cannot be ` +
        "read. Restore the object from a backup, or delete it: slots are then given anew after a lease's time",
      { cause },
    );
  };
  const { writer, leaseMs, lastEpoch } = ownership;
  if (typeof writer !== "string" || writer === "") fail("writer is missing");
  for (const [name, value] of [
    ["leaseMs", leaseMs],
    ["lastEpoch", lastEpoch],
  ] as const) {
    if (!isCount(value)) fail(`${name} is ${JSON.stringify(value)}, expected a whole number`);
  }
  const columns = readColumns(ownership.rows, fail);
  return { environment, service, writer, leaseMs, lastEpoch, rows: rowsOf(columns, lastEpoch, fail) };
}

/** What people see: who holds what, in runs. `rows` are in the order of their slots. */
export function slotRuns(rows: readonly StoredSlotRow[]): TableSlotRun[] {
  const runs: { first: number; last: number; holder: string; epoch: number }[] = [];
  for (const { slot, shown } of rows) {
    if (shown.holder === "") continue;
    const run = runs.at(-1);
    if (run !== undefined && run.last === slot - 1 && run.holder === shown.holder && run.epoch === shown.epoch) {
      run.last = slot;
    } else runs.push({ first: slot, last: slot, holder: shown.holder, epoch: shown.epoch });
  }
  return runs;
}

/** Numbers for things, in the order in which they first come. */
class Indices<Thing> {
  readonly #indices = new Map<string, number>();
  readonly #onNew: (thing: Thing) => void;

  constructor(onNew: (thing: Thing) => void) {
    this.#onNew = onNew;
  }

  of(key: string, thing: Thing): number {
    const known = this.#indices.get(key);
    if (known !== undefined) return known;
    const index = this.#indices.size;
    this.#indices.set(key, index);
    this.#onNew(thing);
    return index;
  }
}

function emptyColumns(): Record<NumberColumn, number[]> {
  return Object.fromEntries(numberColumns.map((name) => [name, []])) as unknown as Record<NumberColumn, number[]>;
}

type Fail = (what: string, cause?: unknown) => never;

function readColumns(parts: unknown, fail: Fail): Columns {
  if (!Array.isArray(parts) || parts.some((part) => typeof part !== "string")) {
    return fail("rows is missing, expected a list of texts");
  }
  let value: Partial<Columns>;
  try {
    const bytes = inflateRawSync(Buffer.from(parts.join(""), "base64"), { maxOutputLength: jsonBytesMax });
    value = JSON.parse(bytes.toString("utf8"));
  } catch (cause) {
    return fail("rows do not unfold", cause);
  }
  if (value?.format !== format) return fail(`rows have format ${JSON.stringify(value?.format)}, expected ${format}`);
  if (!Array.isArray(value.texts) || value.texts.some((text) => typeof text !== "string")) {
    return fail("rows have no texts");
  }
  for (const name of numberColumns) {
    const column = value[name];
    if (!Array.isArray(column) || column.some((one) => typeof one !== "number")) return fail(`rows have no ${name}`);
  }
  return value as Columns;
}

function rowsOf(columns: Columns, lastEpoch: number, fail: Fail): StoredSlotRow[] {
  const { texts } = columns;
  const positions = new Map<NumberColumn, number>();
  const next = (name: NumberColumn): number => {
    const position = positions.get(name) ?? 0;
    positions.set(name, position + 1);
    const value = columns[name][position];
    return value === undefined ? fail(`${name} ends after ${position}`) : value;
  };
  /** What was `distance`. */
  const nextFrom = (name: NumberColumn, from: number): number => {
    const value = next(name) + from;
    return isCount(value) ? value : fail(`${name} comes to ${value}, expected a whole number`);
  };
  const of = <Thing>(things: readonly Thing[], name: NumberColumn): Thing => {
    const index = next(name);
    return things[index] ?? fail(`${name} has ${index}, expected less than ${things.length}`);
  };
  const ofOrNone = <Thing>(things: readonly Thing[], name: NumberColumn): Thing | undefined =>
    columns[name][positions.get(name) ?? 0] === -1 ? void next(name) : of(things, name);

  const holders: HolderRef[] = [];
  while ((positions.get("holders") ?? 0) < columns.holders.length) {
    holders.push({
      instance: of(texts, "holders"),
      incarnation: of(texts, "holders"),
      process: of(texts, "holders"),
      address: of(texts, "holders"),
      appStartedAt: nextFrom("appStartedAt", 0),
      agentStartedAt: nextFrom("agentStartedAt", 0),
    });
  }
  const list = <Item>(countName: NumberColumn, item: () => Item): Item[] => {
    const items: Item[] = [];
    for (let left = nextFrom(countName, 0); left > 0; left--) items.push(item());
    return items;
  };
  const origin = (endedEpoch: number): StoredOrigin => {
    const memory = of(memories, "memory");
    if (memory !== "state") return { memory };
    const state = { memory, epoch: nextFrom("stateEpoch", endedEpoch), address: of(texts, "stateAddress") };
    const process = ofOrNone(texts, "stateProcess");
    return process === undefined ? state : { ...state, process };
  };

  const rows: StoredSlotRow[] = [];
  if (columns.slot.length > slotsMax) fail(`there are ${columns.slot.length} rows, expected ${slotsMax} at the most`);
  for (let index = 0; index < columns.slot.length; index++) {
    const slot = next("slot");
    if (slot !== index) fail(`row ${index} is of slot ${slot}`);
    const holder = ofOrNone(holders, "holder");
    const epoch = nextFrom("epoch", lastEpoch);
    const endedEpoch = nextFrom("endedEpoch", epoch);
    rows.push({
      slot,
      ...(holder !== undefined && { holder }),
      epoch,
      after: list("afterCount", () => ({ holder: of(holders, "afterHolder"), epoch: nextFrom("afterEpoch", epoch) })),
      fence: nextFrom("fence", 0),
      issued: nextFrom("issued", epoch),
      shown: { holder: of(texts, "shownHolder"), epoch: nextFrom("shownEpoch", epoch) },
      origin: origin(endedEpoch),
      endedEpoch,
      moves: list("moveCount", () => {
        const moveEpoch = nextFrom("moveEpoch", epoch);
        return {
          at: nextFrom("moveAt", moveEpoch),
          from: of(texts, "moveFrom"),
          to: of(texts, "moveTo"),
          epoch: moveEpoch,
          reason: of(moveReasons, "moveReason"),
        };
      }),
    });
  }
  for (const name of numberColumns) {
    const left = columns[name].length - (positions.get(name) ?? 0);
    if (left !== 0) fail(`${name} has ${left} too many`);
  }
  return rows;
}

function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 0;
}
