/**
 * Programs built with Go, in the cache: all of Kubernetes as one binary (kubernetes/main.go), CoreDNS (coredns/main.go),
 * and whatever a module of somebody else's is.
 *
 * Go is the one on the path if it is new enough, else the distribution's, else the one that the distribution's fetches:
 * Go's own releases are modules, too.
 */

import { chmod, readdir, readFile, rename, symlink } from "node:fs/promises";
import path from "node:path";
import { cached } from "./cache.ts";
import { result, run } from "./command.ts";
import { aptInstall } from "./debian.ts";
import { interrupted } from "./interruption.ts";

export const kubernetesVersion = "v1.34.4";
const components = [
  "etcd",
  "kube-apiserver",
  "kube-controller-manager",
  "kube-scheduler",
  "kubelet",
  "kube-proxy",
  "kubectl",
] as const;

const goVersionMin = [1, 24] as const;
/** What is fetched where there is only an older one. */
const goRelease = "1.24.13";

const architecture = process.arch === "arm64" ? "arm64" : "amd64";

/** A directory with Kubernetes' components, etcd and kubectl. */
export async function kubernetes(): Promise<string> {
  const [major, minor] = kubernetesVersion.slice(1).split(".");
  const version = {
    gitVersion: kubernetesVersion,
    gitMajor: major,
    gitMinor: minor,
    gitCommit: "unknown",
    gitTreeState: "clean",
    buildDate: "1970-01-01T00:00:00Z",
  };
  const flags = ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"].flatMap((package_) =>
    Object.entries(version).map(([name, value]) => `-X ${package_}.${name}=${value}`),
  );
  return buildModule("kubernetes", kubernetesVersion, "5 to 10 minutes", flags, async (directory) => {
    for (const component of components) await symlink("kubernetes", path.join(directory, component));
  });
}

/** A directory with `coredns`, which answers for the cluster's own names. */
export function coreDns(): Promise<string> {
  return buildModule("coredns", "v1.12.4", "1 to 2 minutes");
}

/** A directory with `metrics-lint`: Prometheus' own parser and lint for a page of metrics. */
export function metricsLint(): Promise<string> {
  // The newest ones that Go 1.24 builds.
  return buildModule("metrics-lint", "v0.67.5", "a minute");
}

/** A directory with `helm`. */
export function helm(): Promise<string> {
  return goProgram("helm.sh/helm/v3/cmd/helm", "v3.19.0");
}

/** Builds the module in the folder `name`; the cache knows its sources. */
async function buildModule(
  name: string,
  version: string,
  expectedTime: string,
  linkerFlags: readonly string[] = [],
  finish: (directory: string) => Promise<void> = async () => {},
): Promise<string> {
  const source = path.join(import.meta.dirname, name);
  const files = await Promise.all(
    ["main.go", "go.mod", "go.sum"].map((file) => readFile(path.join(source, file), "utf8")),
  );
  const flags = ["-trimpath", "-ldflags", ["-s -w", ...linkerFlags].join(" ")];
  return cached(`${name}-${version}`, [architecture, ...flags, ...files], async (directory) => {
    console.log(`building ${name} ${version}: ${expectedTime} on 2 cores, once`);
    const go = await goCommand();
    await go(["build", ...flags, "-o", path.join(directory, name), "."], source);
    await finish(directory);
  });
}

/** A directory with the program that `packagePath` at `version` is. */
export async function goProgram(packagePath: string, version: string): Promise<string> {
  const name = path.basename(packagePath);
  return cached(`${name}-${version}`, [architecture, packagePath], async (directory) => {
    console.log(`building ${name} ${version}: a few minutes, once`);
    const go = await goCommand();
    await go(["install", "-trimpath", "-ldflags", "-s -w", `${packagePath}@${version}`], directory, directory);
  });
}

type Go = (args: readonly string[], cwd: string, binDirectory?: string) => Promise<void>;

async function goCommand(): Promise<Go> {
  let command = "go";
  if (!(await isNewEnough(command))) {
    await aptInstall(["golang-go"]);
    command = "/usr/bin/go";
    if (!(await isNewEnough(command))) command = await goFromModule(command);
  }
  return async (args, cwd, binDirectory) => {
    await run(command, args, {
      cwd,
      isShown: true,
      signal: interrupted,
      env: { CGO_ENABLED: "0", GOTOOLCHAIN: "local", GOFLAGS: "-mod=mod", GOBIN: binDirectory, GOROOT: undefined },
    });
  };
}

async function isNewEnough(command: string): Promise<boolean> {
  const found = await result(command, ["env", "GOVERSION"], { env: { GOTOOLCHAIN: "local" } }).catch(() => undefined);
  const [, major, minor] = /^go(\d+)\.(\d+)/.exec(found?.stdout ?? "") ?? [];
  if (major === undefined || minor === undefined) return false;
  return Number(major) > goVersionMin[0] || (Number(major) === goVersionMin[0] && Number(minor) >= goVersionMin[1]);
}

/** Go's release as its module has it; an older `go` checks its sum and unpacks it. */
async function goFromModule(olderGo: string): Promise<string> {
  const directory = await cached(`go${goRelease}`, [architecture], async (directory) => {
    const module = `golang.org/toolchain@v0.0.1-go${goRelease}.linux-${architecture}`;
    const env = { GOPATH: path.join(directory, "path"), GOFLAGS: "-modcacherw", GO111MODULE: "on" };
    await run(olderGo, ["mod", "download", module], { cwd: directory, env });
    await rename(path.join(directory, "path/pkg/mod", module), path.join(directory, "go"));
    // Modules hold neither executable files nor other modules, so a release is changed to be one.
    for (const folder of ["bin", `pkg/tool/linux_${architecture}`]) {
      for (const file of await readdir(path.join(directory, "go", folder))) {
        await chmod(path.join(directory, "go", folder, file), 0o755);
      }
    }
    for (const file of await readdir(path.join(directory, "go"), { recursive: true })) {
      if (path.basename(file) !== "_go.mod") continue;
      await rename(path.join(directory, "go", file), path.join(directory, "go", path.dirname(file), "go.mod"));
    }
  });
  return path.join(directory, "go/bin/go");
}
