import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { Ledger } from "./ledger.ts";

let folder: string;
/** As two instances have it, each its own connection. */
let first: Ledger;
let second: Ledger;

beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), "lever-ledger-"));
  first = new Ledger(path.join(folder, "ledger.sqlite"));
  second = new Ledger(path.join(folder, "ledger.sqlite"));
});
afterEach(() => rmSync(folder, { recursive: true }));

test("a token is booked once, whichever instance repeats it", () => {
  first.claim("ada", 5);
  expect(first.charge("ada", 5, "order-1", 100)).toEqual({ payment: 1, cents: 100 });
  expect(first.charge("ada", 5, "order-1", 100)).toEqual({ payment: 1, cents: 100 });
  second.claim("ada", 6);
  expect(second.charge("ada", 6, "order-1", 100)).toEqual({ payment: 1, cents: 100 });
  expect(second.charge("ada", 6, "order-2", 50)).toEqual({ payment: 2, cents: 50 });
  expect(second.total("ada")).toBe(150);
});

test("what a former holder writes late does not land", () => {
  first.claim("ada", 5);
  second.claim("ada", 6);
  expect(() => first.charge("ada", 5, "order-1", 100)).toThrow("ada has had a later holder than epoch 5");
  expect(() => first.claim("ada", 5)).toThrow("ada has had a later holder than epoch 5");
  expect(second.total("ada")).toBe(0);
});

test("the same holder may claim again, and other accounts have other holders", () => {
  first.claim("ada", 5);
  first.claim("ada", 5);
  second.claim("bob", 4);
  expect(first.charge("ada", 5, "order-1", 100).payment).toBe(1);
  expect(second.charge("bob", 4, "order-2", 70).payment).toBe(2);
});

test("a token of another account's payment is refused", () => {
  first.claim("ada", 5);
  first.claim("bob", 5);
  first.charge("ada", 5, "order-1", 100);
  expect(() => first.charge("bob", 5, "order-1", 100)).toThrow("another account");
});
