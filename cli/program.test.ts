import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import { makeProgram } from "./program.ts";
import { version } from "./version.ts";

test("docs/cli.md is what print-docs.ts prints", async () => {
  const script = fileURLToPath(new URL("print-docs.ts", import.meta.url));
  const { stdout } = await promisify(execFile)(process.execPath, [script]);
  const page = await readFile(new URL("../docs/cli.md", import.meta.url), "utf8");
  expect(page, "run: npx node cli/print-docs.ts > docs/cli.md").toBe(stdout);
});

test("the version is the package's", async () => {
  const text = await readFile(new URL("package.json", import.meta.url), "utf8");
  expect(version).toBe((JSON.parse(text) as { version: string }).version);
});

test.each([
  [[]],
  [["bogus"]],
  [["invoke"]],
  [["invoke", "/a/b", "--bogus"]],
  [["invoke", "/a/b", "-t", "soon"]],
  [["invoke", "/a/b", "-o", "xml"]],
  [["chan", "/a/b", "--meta", "x"]],
  [["dev", "one-too-many"]],
  [["dev", "--agent", "none"]],
  [["dev", "--port", "65536"]],
])("%j is a usage error that says where help is", async (args) => {
  const program = makeProgram();
  let text = "";
  for (const command of [program, ...program.commands]) {
    command.configureOutput({
      writeErr: (part) => {
        text += part;
      },
    });
  }
  await expect(program.parseAsync(args, { from: "user" })).rejects.toMatchObject({ exitCode: 1 });
  expect(text).toMatch(/lever .*--help says more|Usage: lever /);
});

test("negative numbers are arguments, not flags", async () => {
  const program = makeProgram();
  const invoke = program.commands.find((command) => command.name() === "invoke");
  let given: unknown;
  invoke?.action((url: string, texts: string[]) => {
    given = [url, texts];
  });
  await program.parseAsync(["invoke", "/hello/divide", "-1", "-0.5"], { from: "user" });
  expect(given).toEqual(["/hello/divide", ["-1", "-0.5"]]);
});
