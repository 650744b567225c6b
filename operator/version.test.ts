import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { operatorVersion } from "./version.ts";

test("is the package's", () => {
  const text = readFileSync(new URL("package.json", import.meta.url), "utf8");
  expect(operatorVersion).toBe((JSON.parse(text) as { version: string }).version);
});
