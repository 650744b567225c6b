/**
 * The machine that the cluster runs on: what it needs, what is changed on it, and how that is undone.
 *
 * What the undoing needs is written to `stateDirectory` before anything is changed, so that a later run can put the
 * machine back when this one was killed. Everything of a cluster that lives in the kernel has a name that begins with
 * `lever-`; nothing else is touched.
 */

import { existsSync } from "node:fs";
import { mkdir, readdir, readFile, rename, rm, rmdir, statfs, writeFile } from "node:fs/promises";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { cacheDirectory } from "./cache.ts";
import { run, succeeds } from "./command.ts";
import { aptInstall } from "./debian.ts";

/** Of the one cluster that a machine can have at a time. */
export const stateDirectory = "/run/lever-cluster";
const undoFile = path.join(stateDirectory, "undo.json");

const namespaceDirectory = "/run/netns";
const cgroupRoot = "/sys/fs/cgroup";
/** Of version 2: which controllers the cgroups below the root have. */
const handedOnFile = path.join(cgroupRoot, "cgroup.subtree_control");
/** What a kubelet needs. */
const controllers = ["cpu", "cpuset", "memory", "pids"];

/** Commands that are used, with the Debian package that has each. */
const commands = { ip: "iproute2", nft: "nftables", openssl: "openssl", unshare: "util-linux", mount: "mount" };

/** What a kubelet sets for the whole machine. */
const kernelSettings = [
  "kernel/keys/root_maxbytes",
  "kernel/keys/root_maxkeys",
  "kernel/panic",
  "kernel/panic_on_oops",
  "vm/overcommit_memory",
  "vm/panic_on_oom",
];

/** Where kubelets and containerd want directories whose places cannot be chosen; each node mounts its own there. */
export const nodeDirectories = ["/var/lib/kubelet", "/var/lib/containerd", "/var/log/pods", "/var/log/containers"];

const diskBytesMin = 12 * 1024 ** 3;
const memoryBytesMin = 4 * 1024 ** 3;

/** Installs what is missing; throws, naming everything that stands in the way, if no cluster can run here. */
export async function prepareMachine(): Promise<void> {
  const problems: string[] = [];
  if (process.platform !== "linux") problems.push(`Linux (this is ${process.platform})`);
  else {
    if (process.getuid?.() !== 0) problems.push("root, for network namespaces and mounts");
    if (process.arch !== "x64" && process.arch !== "arm64") problems.push(`x64 or arm64 (this is ${process.arch})`);
    if (!(await succeeds("apt-get", ["--version"]))) problems.push("apt-get, of Debian or a relative of it");
    const filesystems = await readFile("/proc/filesystems", "utf8");
    if (!/\boverlay$/m.test(filesystems) && !(await succeeds("modprobe", ["overlay"]))) {
      problems.push("overlayfs in the kernel");
    }
    const hierarchies = await cgroupHierarchies();
    const v2 = await readFile(path.join(cgroupRoot, "cgroup.controllers"), "utf8").catch(() => undefined);
    const present = v2?.trim().split(" ") ?? hierarchies.flatMap((each) => path.basename(each).split(","));
    const missing = controllers.filter((controller) => !present.includes(controller));
    if (missing.length > 0) problems.push(`the cgroup controllers ${missing.join(", ")} under ${cgroupRoot}`);
    const memory = /^MemAvailable: +(\d+) kB/m.exec(await readFile("/proc/meminfo", "utf8"))?.[1];
    if (Number(memory) * 1024 < memoryBytesMin) problems.push("4 GiB of free memory");
    await mkdir(cacheDirectory, { recursive: true });
    const disk = await statfs(cacheDirectory);
    if (disk.bavail * disk.bsize < diskBytesMin) problems.push(`12 GiB of free disk at ${cacheDirectory}`);
  }
  if (problems.length > 0) {
    throw new Error(
      `a cluster cannot be brought up on this machine. It needs:\n- ${problems.join("\n- ")}\n` +
        "Set KUBECONFIG to run the tests on a cluster that is up already.",
    );
  }
  const missing = new Set<string>();
  for (const [command, package_] of Object.entries(commands)) {
    if (!(await succeeds("bash", ["-c", `command -v ${command}`]))) missing.add(package_);
  }
  if (missing.size > 0) await aptInstall([...missing]);
}

/** The mounted hierarchies of version 1; the root alone if the machine has version 2. */
export async function cgroupHierarchies(): Promise<string[]> {
  if (existsSync(path.join(cgroupRoot, "cgroup.controllers"))) return [cgroupRoot];
  const entries = await readdir(cgroupRoot, { withFileTypes: true }).catch(() => []);
  return entries.filter((entry) => entry.isDirectory()).map((entry) => path.join(cgroupRoot, entry.name));
}

interface Undo {
  readonly kernelSettings: Readonly<Record<string, string>>;
  /** Deepest last. */
  readonly directories: readonly string[];
  /** Otherwise `ip` makes and mounts their directory. */
  readonly hadNetworkNamespaces: boolean;
  readonly dataDirectory: string;
  /** That were not handed on by the root, in version 2. */
  readonly controllers: readonly string[];
}

/** Writes down how the machine is, and makes what nodes mount over. To be called when `restoreMachine` was. */
export async function changeMachine(dataDirectory: string): Promise<void> {
  const settings: Record<string, string> = {};
  for (const name of kernelSettings) settings[name] = (await readFile(`/proc/sys/${name}`, "utf8")).trim();
  const undo: Undo = {
    kernelSettings: settings,
    directories: nodeDirectories.filter((directory) => !existsSync(directory)),
    hadNetworkNamespaces: existsSync(namespaceDirectory),
    dataDirectory,
    controllers: await controllersNotHandedOn(),
  };
  await mkdir(stateDirectory, { recursive: true, mode: 0o700 });
  await writeFile(`${undoFile}.new`, JSON.stringify(undo));
  await rename(`${undoFile}.new`, undoFile);
  for (const directory of undo.directories) await mkdir(directory, { recursive: true });
  for (const controller of undo.controllers) await writeFile(handedOnFile, `+${controller}`);
}

async function controllersNotHandedOn(): Promise<string[]> {
  const text = await readFile(handedOnFile, "utf8").catch(() => undefined);
  return text === undefined ? [] : controllers.filter((controller) => !text.trim().split(" ").includes(controller));
}

/** Ends what a cluster has left on the machine, whoever brought it up, and puts everything back. */
export async function restoreMachine(): Promise<void> {
  const text = await readFile(undoFile, "utf8").catch(() => undefined);
  if (text === undefined) return;
  const undo = JSON.parse(text) as Undo;

  const cgroups = await clusterCgroups();
  // They end with the process that brought the cluster up; this is for what was moved, or hangs.
  for (let attempts = 0; attempts < 200; attempts++) {
    const processes = (await Promise.all(cgroups.map(processesBelow))).flat();
    if (processes.length === 0) break;
    for (const pid of processes) kill(pid);
    await sleep(20);
  }
  for (const name of await networkNamespaces()) await run("ip", ["netns", "del", name]);
  if (!undo.hadNetworkNamespaces && (await readdir(namespaceDirectory).catch(() => ["none"])).length === 0) {
    await succeeds("umount", [namespaceDirectory]);
    await rmdir(namespaceDirectory).catch(() => {});
  }
  for (const name of await links()) await run("ip", ["link", "del", name]).catch(() => {});
  for (const cgroup of cgroups) await removeCgroup(cgroup);
  for (const controller of undo.controllers) await writeFile(handedOnFile, `-${controller}`).catch(() => {});
  for (const [name, value] of Object.entries(undo.kernelSettings)) await writeFile(`/proc/sys/${name}`, value);
  for (const directory of [...undo.directories].reverse()) await rmdir(directory).catch(() => {});
  await rm(undo.dataDirectory, { recursive: true, force: true });
  await rm(stateDirectory, { recursive: true });
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch (error) {
    // It has ended in the meantime.
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}

/** What of a cluster is on the machine; empty when it is as it was. */
export async function leftovers(): Promise<string[]> {
  const names = [...(await networkNamespaces()), ...(await links()), ...(await clusterCgroups())];
  return existsSync(stateDirectory) ? [...names, stateDirectory] : names;
}

async function clusterCgroups(): Promise<string[]> {
  const found: string[] = [];
  for (const hierarchy of await cgroupHierarchies()) {
    for (const name of await readdir(hierarchy)) {
      if (name.startsWith("lever-")) found.push(path.join(hierarchy, name));
    }
  }
  return found;
}

async function networkNamespaces(): Promise<string[]> {
  const names = await readdir(namespaceDirectory).catch(() => []);
  return names.filter((name) => name.startsWith("lever-"));
}

async function links(): Promise<string[]> {
  return (await readdir("/sys/class/net")).filter((name) => name.startsWith("lever-"));
}

async function cgroupsBelow(cgroup: string): Promise<string[]> {
  const entries = await readdir(cgroup, { withFileTypes: true, recursive: true }).catch(() => []);
  return entries.filter((entry) => entry.isDirectory()).map((entry) => path.join(entry.parentPath, entry.name));
}

async function processesBelow(cgroup: string): Promise<number[]> {
  const lists = [cgroup, ...(await cgroupsBelow(cgroup))].map((each) =>
    readFile(path.join(each, "cgroup.procs"), "utf8").catch(() => ""),
  );
  return (await Promise.all(lists)).join("").split("\n").filter(Boolean).map(Number);
}

/** Removes what is below the cgroup of a node that is off. */
export async function emptyCgroup(cgroup: string): Promise<void> {
  const below = await cgroupsBelow(cgroup);
  for (const each of below.sort((a, b) => b.length - a.length)) await rmdir(each).catch(() => {});
}

async function removeCgroup(cgroup: string): Promise<void> {
  await emptyCgroup(cgroup);
  await rmdir(cgroup).catch(() => {});
}
