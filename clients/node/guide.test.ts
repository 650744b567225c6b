/** docs/node.md and docs/guarantees.md: what they show compiles. */

import { execFile } from "node:child_process";
import { mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, it } from "vitest";

const root = fileURLToPath(new URL("../../", import.meta.url));
const folder = path.join(root, ".cache", `guide-${process.pid}`);

/** Its blocks of TypeScript: by the path in their first line, if they begin with one, else by their line. */
function snippets(markdown: string): Map<string, string> {
  const found = new Map<string, string>();
  for (const { 1: code = "", index } of markdown.matchAll(/^```ts\n(.*?)^```$/gms)) {
    const line = markdown.slice(0, index).split("\n").length;
    found.set(/^\/\/ (\S+\.ts)\n/.exec(code)?.[1] ?? `line-${line}.ts`, code);
  }
  return found;
}

beforeAll(() => mkdirSync(folder, { recursive: true }));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

it("compiles, each example as a module", async () => {
  const guide = snippets(readFileSync(path.join(root, "docs/node.md"), "utf8"));
  expect(guide.size).toBeGreaterThan(12);
  const guarantees = snippets(readFileSync(path.join(root, "docs/guarantees.md"), "utf8"));
  expect(guarantees.size).toBeGreaterThan(3);
  for (const [file, code] of [
    ...guide,
    ...[...guarantees].map(([name, text]) => [`guarantees/${name}`, text] as const),
  ]) {
    mkdirSync(path.dirname(path.join(folder, file)), { recursive: true });
    writeFileSync(path.join(folder, file), `${code}\nexport {};\n`);
  }
  writeFileSync(
    path.join(folder, "tsconfig.json"),
    JSON.stringify({
      extends: "../../tsconfig.base.json",
      compilerOptions: {
        types: ["node"],
        noEmit: true,
        emitDeclarationOnly: false,
        composite: false,
        declaration: false,
      },
      include: ["**/*.ts"],
    }),
  );
  writeFileSync(path.join(folder, "wrong.ts"), wrong);
  const tsc = path.join(root, "node_modules/.bin/tsc");
  const run = promisify(execFile)(tsc, ["-p", folder, "--pretty", "false"], { cwd: folder });
  const { stdout } = (await run.catch((error: unknown) => error)) as { stdout: string };
  // Of files elsewhere other projects take care, with settings of their own.
  const errors = stdout.split("\n").filter((line) => /^\S/.test(line) && !line.startsWith("../"));
  expect(errors).toEqual([expect.stringMatching(/^wrong\.ts\(2,\d+\): error TS2345/)]);
}, 60_000);

/** That the check can fail. */
const wrong = `import { Client } from "leveros";
await new Client().service<{ sayHello(name: string): string }>("hello").sayHello(1);
`;
