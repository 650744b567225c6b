import { deflateRawSync, inflateRawSync } from "node:zlib";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import fc from "fast-check";
import { expect, test } from "vitest";
import type { StoredSlotRow } from "../core/ownership/slot-store.ts";
import { slotTable, usualTable } from "./slot-table.fixture.ts";
import { decodeOwnership, encodeOwnership, slotRuns, type TableOwnership } from "./slot-table-object.ts";

/** As it comes back from the API server. */
function stored(ownership: TableOwnership): TableOwnership {
  return JSON.parse(JSON.stringify(ownership));
}

test("what is decoded is what was encoded", () => {
  fc.assert(
    fc.property(slotTable, (table) => {
      expect(decodeOwnership("shop", "chat", stored(encodeOwnership(table)))).toEqual(table);
    }),
    { numRuns: 200 },
  );
});

test("a number that would not come back as it was is refused", () => {
  const [row] = usualTable(1, 1).rows as [StoredSlotRow];
  for (const wrong of [
    { ...row, epoch: 2 ** 53 },
    { ...row, fence: 1.5 },
    { ...row, issued: -1 },
    { ...row, endedEpoch: Number.NaN },
    { ...row, moves: [{ at: 0.5, from: "", to: "", epoch: 1, reason: "first" as const }] },
  ]) {
    expect(() => encodeOwnership({ ...usualTable(1, 1), rows: [wrong] })).toThrow(LeverError);
  }
});

/** With another one in the place of that column; undefined: with none. */
function changed(column: string, to: (values: number[]) => unknown): TableOwnership {
  const ownership = encodeOwnership(usualTable(3, 2));
  const columns = JSON.parse(inflateRawSync(Buffer.from(ownership.rows.join(""), "base64")).toString());
  columns[column] = to(columns[column]);
  return { ...ownership, rows: [deflateRawSync(JSON.stringify(columns)).toString("base64")] };
}

test.each<[string, unknown]>([
  ["no writer", { ...encodeOwnership(usualTable(1, 1)), writer: "" }],
  ["a lease that is none", { ...encodeOwnership(usualTable(1, 1)), leaseMs: "15s" }],
  ["a last epoch that is none", { ...encodeOwnership(usualTable(1, 1)), lastEpoch: -1 }],
  ["no rows", { ...encodeOwnership(usualTable(1, 1)), rows: undefined }],
  ["rows of another kind", { ...encodeOwnership(usualTable(1, 1)), rows: [7] }],
  ["rows that do not unfold", { ...encodeOwnership(usualTable(1, 1)), rows: ["AAAA"] }],
  [
    "rows cut off",
    {
      ...encodeOwnership(usualTable(64, 9)),
      rows: encodeOwnership(usualTable(64, 9)).rows.map((text) => text.slice(0, -40)),
    },
  ],
  [
    "rows that unfold without end",
    { ...encodeOwnership(usualTable(1, 1)), rows: [deflateRawSync(Buffer.alloc(20_000_000)).toString("base64")] },
  ],
  ["another format", changed("format", () => 2)],
  ["no texts", changed("texts", () => "none")],
  ["a column too few", changed("issued", () => undefined)],
  ["a value that is no number", changed("epoch", () => ["1", "2", "3"])],
  ["a column that ends early", changed("fence", (values) => values.slice(1))],
  ["a column that goes on", changed("moveTo", (values) => [...values, 0])],
  ["a holder that is not there", changed("holder", () => [0, 1, 2])],
  ["a reason that is not there", changed("moveReason", (values) => values.map(() => 99))],
  ["a slot twice", changed("slot", () => [0, 1, 1])],
  ["an epoch below zero", changed("epoch", () => [-1e15, 0, 0])],
  ["a count that is none", changed("afterCount", () => [0.5, 0, 0])],
])("%s: an error that says what to do, and no rows", (_name, ownership) => {
  expect(() => decodeOwnership("shop", "chat", ownership as TableOwnership)).toThrow(
    /^INTERNAL: LeverEndpointTable shop\/chat: ownership: .*delete it/,
  );
});

test("4,096 slots fit: rows, runs and instances", () => {
  const table = usualTable(4096, 100);
  const ownership = encodeOwnership(table);
  const rowsChars = ownership.rows.join("").length;
  const slotsChars = JSON.stringify(slotRuns(table.rows)).length;
  expect(decodeOwnership("shop", "chat", stored(ownership))).toEqual(table);
  // etcd takes 1.5 MiB.
  expect(rowsChars).toBeLessThan(256 * 1024);
  expect(rowsChars + slotsChars).toBeLessThan(640 * 1024);
  for (const text of ownership.rows) expect(text.length).toBeLessThanOrEqual(65_536);
});

test("runs are slots next to each other, of one holder and one epoch, as callers are told", () => {
  const row = (slot: number, holder: string, epoch: number) =>
    ({ slot, shown: { holder, epoch } }) as unknown as StoredSlotRow;
  const rows = [row(0, "a", 7), row(1, "a", 7), row(2, "a", 8), row(3, "", 8), row(4, "a", 8), row(5, "b", 8)];
  expect(slotRuns(rows)).toEqual([
    { first: 0, last: 1, holder: "a", epoch: 7 },
    { first: 2, last: 2, holder: "a", epoch: 8 },
    { first: 4, last: 4, holder: "a", epoch: 8 },
    { first: 5, last: 5, holder: "b", epoch: 8 },
  ]);
  expect(slotRuns([])).toEqual([]);
});
