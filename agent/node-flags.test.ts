import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { agentNodeFlags } from "./node-flags.ts";

test("the image starts Node with them", () => {
  const text = readFileSync(new URL("Containerfile", import.meta.url), "utf8");
  const entrypoint = JSON.parse(/^ENTRYPOINT (.*)$/m.exec(text)?.[1] ?? "[]") as unknown;
  expect(entrypoint).toEqual(["node", ...agentNodeFlags, "/app/main.js"]);
});
