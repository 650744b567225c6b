import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { limitsPage } from "./limits-table.ts";

test("docs/limits.md is what the code says; after a change run `npm run generate`", () => {
  expect(readFileSync(new URL("../docs/limits.md", import.meta.url), "utf8")).toBe(limitsPage());
});
