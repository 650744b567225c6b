import { mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { runtimeClock } from "@leveros/protocol/clock/runtime-clock.ts";
import { afterEach, beforeEach, expect, test } from "vitest";
import { FolderWatch } from "./folder-watch.ts";

let directory: string;
let changes: string[];
let watch: FolderWatch;

beforeEach(() => {
  directory = mkdtempSync(path.join(tmpdir(), "lever-watch-"));
  for (const folder of ["src/deep", "node_modules/x", ".git"])
    mkdirSync(path.join(directory, folder), { recursive: true });
  write("src/deep/a.ts");
  changes = [];
  watch = new FolderWatch({
    directory,
    clock: runtimeClock(globalThis),
    counts: (file) => !file.endsWith(".yaml"),
    onChange: (file) => changes.push(path.relative(directory, file)),
  });
});

afterEach(() => {
  watch.close();
  rmSync(directory, { recursive: true });
});

function write(file: string): void {
  writeFileSync(path.join(directory, file), String(performance.now()));
}

/** The one change that comes of it. */
async function changeOf(change: () => void): Promise<string | undefined> {
  const before = changes.length;
  change();
  await expect.poll(() => changes.length, { timeout: 20_000 }).toBe(before + 1);
  return changes.at(-1);
}

test("a file that is changed, made, renamed or removed, at any depth", async () => {
  const inDirectory = (file: string) => path.join(directory, file);
  expect(await changeOf(() => write("src/deep/a.ts"))).toBe("src/deep/a.ts");
  expect(await changeOf(() => write("src/b.ts"))).toBe("src/b.ts");
  expect(await changeOf(() => renameSync(inDirectory("src/b.ts"), inDirectory("src/c.ts")))).toMatch(/^src\/[bc].ts$/);
  expect(await changeOf(() => rmSync(inDirectory("src/c.ts")))).toBe("src/c.ts");
});

test("what changes together is one change", async () => {
  await changeOf(() => {
    for (let n = 0; n < 50; n++) write(`src/many-${n}.ts`);
  });
});

test("a folder that comes, with what is written in it later; one that goes, and comes again", async () => {
  const make = () => mkdirSync(path.join(directory, "new/inner"), { recursive: true });
  for (let round = 0; round < 2; round++) {
    await changeOf(make);
    expect(await changeOf(() => write("new/inner/d.ts"))).toBe("new/inner/d.ts");
    await changeOf(() => rmSync(path.join(directory, "new"), { recursive: true }));
  }
});

test("not: node_modules, dot folders and files, what programs write, what does not count, what comes and goes, links", async () => {
  const elsewhere = mkdtempSync(path.join(tmpdir(), "lever-elsewhere-"));
  await changeOf(() => symlinkSync(elsewhere, path.join(directory, "link")));
  const before = changes.length;
  for (const file of ["node_modules/x/i.js", ".git/HEAD", ".env.swp", "out.log", "a.db-wal", "a.ts~", "lsvc.yaml"]) {
    write(file);
  }
  writeFileSync(path.join(elsewhere, "e.ts"), "");
  // As editors write.
  write("src/.a.ts.swp");
  write("src/sedXYZ");
  rmSync(path.join(directory, "src/sedXYZ"));
  // Twice the time in which changes are gathered.
  await sleep(400);
  rmSync(elsewhere, { recursive: true });
  expect(changes.slice(before)).toEqual([]);
});

test("only the folder itself", async () => {
  watch.close();
  watch = new FolderWatch({
    directory,
    clock: runtimeClock(globalThis),
    isFlat: true,
    onChange: (file) => changes.push(path.relative(directory, file)),
  });
  write("src/deep/a.ts");
  mkdirSync(path.join(directory, "other"));
  expect(await changeOf(() => write("b.yaml"))).toBe("b.yaml");
});

test("nothing after it is closed, nor in a folder that is not there", async () => {
  write("src/b.ts");
  watch.close();
  write("src/c.ts");
  const none = new FolderWatch({
    directory: path.join(directory, "none"),
    clock: runtimeClock(globalThis),
    onChange: () => changes.push("none"),
  });
  await sleep(400);
  none.close();
  expect(changes).toEqual([]);
});
