/**
 * Debian's packages: some are installed; others, which would start services or take the place of other software, are
 * only unpacked, into the cache.
 */

import { readFile } from "node:fs/promises";
import { cached } from "./cache.ts";
import { run } from "./command.ts";

const env = { DEBIAN_FRONTEND: "noninteractive" };
let isUpdated = false;

async function aptUpdate(): Promise<void> {
  if (!isUpdated) await run("apt-get", ["update", "-qq"], { env });
  isUpdated = true;
}

export async function aptInstall(packages: readonly string[]): Promise<void> {
  console.log(`apt-get install ${packages.join(" ")}`);
  await aptUpdate();
  await run("apt-get", ["install", "-y", "-qq", "--no-install-recommends", ...packages], { env });
}

/** A directory with the files of `packages`, at their paths. */
export async function unpackedPackages(packages: readonly string[]): Promise<string> {
  const release = await readFile("/etc/os-release", "utf8");
  return cached("debian-packages", [release, process.arch, ...packages], async (directory) => {
    await aptUpdate();
    await run("apt-get", ["download", "-qq", ...packages], { cwd: directory, env });
    await run("bash", ["-c", 'for file in *.deb; do dpkg-deb -x "$file" . && rm "$file"; done'], { cwd: directory });
  });
}
