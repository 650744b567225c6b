import { spawnSync } from "node:child_process";
import {
  appendFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeEach, expect, test as testAnywhere } from "vitest";

/** Clusters, and the tools that make their parts, are on Linux only. */
const test = testAnywhere.runIf(process.platform === "linux");

const directory = mkdtempSync(path.join(tmpdir(), "lever-cache-"));
process.env["LEVER_CACHE"] = directory;
const { cached } = await import("./cache.ts");

beforeEach(() => {
  rmSync(directory, { recursive: true });
});
afterAll(() => {
  rmSync(directory, { recursive: true, force: true });
});

let made = 0;
async function make(entry: string): Promise<void> {
  made++;
  writeFileSync(path.join(entry, "program"), `made ${made}`);
}
const program = (entry: string) => path.join(entry, "program");

test("is made once for the same inputs, and again for others", async () => {
  const before = made;
  const first = await cached("tool", ["1"], make);
  expect(await cached("tool", ["1"], make)).toBe(first);
  expect(made - before).toBe(1);
  const other = await cached("tool", ["2"], make);
  expect(other).not.toBe(first);
  expect(readFileSync(program(first), "utf8")).not.toBe(readFileSync(program(other), "utf8"));
});

test.each([
  ["that has changed", (file: string) => appendFileSync(file, "x")],
  ["that is cut off", (file: string) => writeFileSync(file, "m")],
  ["that is gone", (file: string) => rmSync(file)],
])("an entry with a file %s is made again", async (_, spoil) => {
  spoil(program(await cached("tool", [], make)));
  const before = made;
  expect(readFileSync(program(await cached("tool", [], make)), "utf8")).toBe(`made ${before + 1}`);
});

test("an entry without sums, as a copy by hand would be, is made again", async () => {
  const entry = await cached("tool", [], make);
  rmSync(path.join(entry, "SHA256SUMS"));
  const before = made;
  await cached("tool", [], make);
  expect(made).toBe(before + 1);
});

test("what fails leaves nothing, and is tried again", async () => {
  const fail = async (entry: string) => {
    await make(entry);
    throw new Error("no space left");
  };
  await expect(cached("tool", [], fail)).rejects.toThrow("no space left");
  expect(readdirSync(directory)).toEqual([]);
  await cached("tool", [], make);
});

test("what a killed build left goes, what another one builds stays", async () => {
  const { pid: dead } = spawnSync("true");
  mkdirSync(path.join(directory, `tool-a.unfinished-${dead}`), { recursive: true });
  mkdirSync(path.join(directory, `tool-b.unfinished-${process.ppid}`));
  await cached("tool", [], make);
  expect(readdirSync(directory).filter((name) => name.includes("unfinished"))).toEqual([
    `tool-b.unfinished-${process.ppid}`,
  ]);
});

test("entries that nobody used for long go when a new one comes", async () => {
  const [old, used] = [await cached("tool", ["old"], make), await cached("tool", ["used"], make)];
  const longAgo = new Date(Date.now() - 60 * 86_400_000);
  for (const entry of [old, used]) utimesSync(entry, longAgo, longAgo);
  await cached("tool", ["used"], make);
  await cached("tool", ["new"], make);
  const left = readdirSync(directory);
  expect(left).toContain(path.basename(used));
  expect(left).not.toContain(path.basename(old));
});
