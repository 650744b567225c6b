import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { STATUS_CODES } from "node:http";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { describe, expect, test } from "vitest";
import { type CatalogueRow, catalogue, isReason } from "./catalogue.ts";
import { LeverError } from "./lever-error.ts";

const rows = Object.entries<CatalogueRow>(catalogue);
const exitCodes = { method: 1, arguments: 2, network: 3, internal: 4 };
const codes = [
  "CANCELLED",
  "UNKNOWN",
  "INVALID_ARGUMENT",
  "DEADLINE_EXCEEDED",
  "NOT_FOUND",
  "PERMISSION_DENIED",
  "UNAUTHENTICATED",
  "RESOURCE_EXHAUSTED",
  "FAILED_PRECONDITION",
  "ABORTED",
  "OUT_OF_RANGE",
  "UNIMPLEMENTED",
  "INTERNAL",
  "UNAVAILABLE",
];

describe.each(rows)("%s", (reason, row) => {
  test("is a word in capitals that is known as a reason", () => {
    expect(reason).toMatch(/^[A-Z]+(_[A-Z]+)*$/);
    expect(isReason(reason)).toBe(true);
  });

  test("has an HTTP status of an error that fits its kind", () => {
    // 499 is no registered status; proxies use it for a caller who went away, which is what CANCELLED is.
    if (row.httpStatus !== 499) expect(STATUS_CODES).toHaveProperty([String(row.httpStatus)]);
    else expect(reason).toBe("CANCELLED");
    expect(row.httpStatus).toBeGreaterThanOrEqual(400);
    if (row.kind === "arguments") expect(row.httpStatus).toBeLessThan(500);
    if (row.kind === "internal") expect(row.httpStatus).toBeGreaterThanOrEqual(500);
  });

  test("has a gRPC code, and the exit code and an effect of its kind", () => {
    expect(codes).toContain(row.code);
    expect(row.exitCode).toBe(exitCodes[row.kind]);
    expect(["none", "unknown", "ran"]).toContain(row.effect);
    // Wrong arguments are found before the method runs; a method's error is one of a method that ran.
    if (row.kind === "arguments") expect(row.effect).toBe("none");
    if (row.kind === "method") expect(row.effect).toBe("ran");
  });

  test("says in whole sentences when it is raised and what to do", () => {
    for (const text of [row.meaning, row.remedy]) {
      expect(text).toMatch(/^[A-Z`].*\.$/);
      expect(text).not.toMatch(/ {2}|\bTODO\b|\n/);
      expect(text.length).toBeGreaterThan(20);
    }
    expect(row.meaning).not.toBe(row.remedy);
  });

  test("makes an error with its fields", () => {
    const error = new LeverError(reason as keyof typeof catalogue, "text");
    expect(error).toMatchObject({ kind: row.kind, code: row.code, reason, effect: row.effect, rawMessage: "text" });
    expect(error.message).toBe(`${reason}: text`);
  });
});

test("no two reasons say the same", () => {
  expect(new Set(rows.map(([, row]) => row.meaning)).size).toBe(rows.length);
});

test("what is inherited is no reason", () => {
  for (const word of ["constructor", "toString", "__proto__", "", "internal"]) expect(isReason(word)).toBe(false);
});

test("docs/errors.md is what print-catalogue.ts prints", async () => {
  const script = fileURLToPath(new URL("print-catalogue.ts", import.meta.url));
  const { stdout } = await promisify(execFile)(process.execPath, [script]);
  for (const [reason, row] of rows) {
    expect(stdout).toContain(`### ${reason}\n\n${row.meaning}\n`);
    expect(stdout).toContain(`- ${row.remedy}\n`);
  }
  const page = await readFile(new URL("../../docs/errors.md", import.meta.url), "utf8");
  expect(page, "run: npx node protocol/error/print-catalogue.ts > docs/errors.md").toBe(stdout);
});
