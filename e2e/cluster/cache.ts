/**
 * What is built once and kept outside the tree: `$LEVER_CACHE`, else `~/.cache/lever`.
 *
 * An entry is a directory named after what it holds and a hash of all that went into it. It is made under a temporary
 * name and renamed when it is whole, and its files are compared with their checksums before they are used: a build that
 * was killed, or a disk that was full, leaves nothing that is trusted.
 */

import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, readdir, rename, rm, stat, utimes } from "node:fs/promises";
import { homedir } from "node:os";
import path from "node:path";
import { run, succeeds } from "./command.ts";

export const cacheDirectory = path.resolve(process.env["LEVER_CACHE"] ?? path.join(homedir(), ".cache/lever"));

const sums = "SHA256SUMS";
const unusedDaysMax = 30;

/** The entry's directory. `make` fills an empty one, and is called only if there is no entry for `inputs`. */
export async function cached(
  name: string,
  inputs: readonly string[],
  make: (directory: string) => Promise<void>,
): Promise<string> {
  const key = createHash("sha256").update(JSON.stringify(inputs)).digest("hex").slice(0, 16);
  const directory = path.join(cacheDirectory, `${name}-${key}`);
  if (existsSync(directory)) {
    if (await succeeds("sha256sum", ["--check", "--status", sums], { cwd: directory })) {
      await utimes(directory, new Date(), new Date());
      return directory;
    }
    console.log(`${directory} is not what was put there; it is made again`);
    await rm(directory, { recursive: true });
  }
  await mkdir(cacheDirectory, { recursive: true });
  await removeOldEntries(name);
  const unfinished = `${directory}.unfinished-${process.pid}`;
  await mkdir(unfinished);
  try {
    await make(unfinished);
    await run("bash", ["-c", `find . -type f ! -name ${sums} -print0 | xargs -0 sha256sum >${sums}`], {
      cwd: unfinished,
    });
    await rename(unfinished, directory).catch((error: unknown) => {
      // Somebody else was quicker.
      if (!existsSync(directory)) throw error;
    });
  } finally {
    await rm(unfinished, { recursive: true, force: true });
  }
  return directory;
}

/** Removes what builds that were killed left of `name`, and entries that were not used for long. */
async function removeOldEntries(name: string): Promise<void> {
  for (const entry of await readdir(cacheDirectory)) {
    if (!entry.startsWith(`${name}-`)) continue;
    const builder = /\.unfinished-(\d+)$/.exec(entry)?.[1];
    const directory = path.join(cacheDirectory, entry);
    const unusedMs = Date.now() - (await stat(directory)).mtimeMs;
    if (builder ? !existsSync(`/proc/${builder}`) : unusedMs > unusedDaysMax * 86_400_000) {
      await rm(directory, { recursive: true, force: true });
    }
  }
}
