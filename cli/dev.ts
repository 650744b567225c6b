/** What `lever dev` does: the services of a folder of manifests, their agents and a gateway, on this machine. */

import { readdir, readFile, stat } from "node:fs/promises";
import path from "node:path";
import { Gateway } from "@leveros/gateway/gateway.ts";
import { formatProblem } from "@leveros/operator/api/manifest-problem.ts";
import { type ManifestFile, readManifests } from "@leveros/operator/api/manifest-reader.ts";
import { LocalEnvironment } from "@leveros/operator/local/local-environment.ts";
import { LeverError } from "leveros";
import pc from "picocolors";
import type { DevFlags } from "./dev-command.ts";
import { usageExitCode } from "./exit-code.ts";

const host = "127.0.0.1";
const filesMax = 1000;
const folderDepthMax = 8;

export async function dev(flags: DevFlags): Promise<void> {
  const files = await readFiles(flags.file.length === 0 ? ["."] : flags.file);
  const manifests = readManifests(files);
  for (const { kind, name, file, line } of manifests.skipped) {
    console.log(pc.dim(`${file}:${line} skipped: ${kind} ${name} (only LeverServices are run here)`));
  }
  const { plans, problems } =
    manifests.problems.length > 0
      ? { plans: [], problems: manifests.problems }
      : await LocalEnvironment.plan(manifests, flags.env);
  if (problems.length > 0) {
    for (const problem of problems) console.error(formatProblem(problem));
    process.exitCode = usageExitCode;
    return;
  }
  if (plans.length === 0) {
    throw new LeverError(
      "INVALID_OPTION",
      `no LeverService in ${files.map(({ file }) => file).join(", ") || flags.file.join(", ") || "this folder"}; name manifests with -f`,
    );
  }

  let ready: () => void = () => {};
  const allServe = new Promise<void>((resolve) => {
    ready = resolve;
  });
  const waiting = new Set(
    plans.filter(({ service }) => service.spec.replicas > 0).map(({ service }) => nameOf(service)),
  );
  if (waiting.size === 0) ready();
  const environment = await LocalEnvironment.start(
    {
      manifests,
      env: flags.env,
      agents: flags.agent,
      onMessage: (line) => console.error(pc.yellow(line)),
      onRegistered: ({ environment: env, service, instance }, { methods }) => {
        console.log(pc.dim(`${instance} serves ${methods.map(({ name }) => name).join(", ")}`));
        waiting.delete(`${env}/${service}`);
        if (waiting.size === 0) ready();
      },
    },
    plans,
  );
  let gateway: Gateway | undefined;
  const stop = stopOnSignals(async () => {
    gateway?.close();
    await environment.stop();
  }, environment);
  try {
    gateway = await Gateway.start({
      operator: environment.operatorAddress,
      host,
      httpPort: flags.httpPort,
      port: flags.port,
      adminPort: 0,
      defaultEnvironment: plans[0]?.service.metadata.namespace ?? "dev",
      allowForceEnv: true,
      corsOrigins: ["*"],
    });
  } catch (error) {
    await environment.stop();
    stop.cancel();
    throw error;
  }
  const late = setTimeout(() => console.log(pc.yellow(`still waiting for ${[...waiting].join(", ")}`)), 10_000);
  await Promise.race([allServe, stop.begun]);
  clearTimeout(late);
  if (!stop.hasBegun())
    printWhatToTry(
      gateway,
      plans.map(({ service }) => nameOf(service)),
    );
  await stop.done;
}

function nameOf(service: { readonly metadata: { readonly namespace: string; readonly name: string } }): string {
  return `${service.metadata.namespace}/${service.metadata.name}`;
}

function printWhatToTry(gateway: Gateway, services: readonly string[]): void {
  const native = gateway.port === 3837 ? "" : ` --gateway ${host}:${gateway.port}`;
  console.log(`
${pc.bold("Lever is up")}: ${services.join(", ")}
  HTTP http://${host}:${gateway.httpPort}   client libraries ${host}:${gateway.port}   metrics http://${host}:${gateway.adminPort}/metrics
`);
  if (!services.includes("dev/hello")) return;
  console.log(`Try, in another terminal:
  curl -s 'http://${host}:${gateway.httpPort}/hello/sayHello?forceenv=dev' -H 'content-type: application/json' -d '["world"]'
  npx lever invoke lever://dev/hello/sayHello '"world"'${native}
  npx lever invoke lever://dev/hello/divide 1 0${native}
  npx lever chan lever://dev/negotiate/haggleChan '"a carpet"' 100${native}     then type {"price":60}
  npx lever chan lever://dev/upload/putChan --bytes${native} < package-lock.json
`);
}

/** Runs `end` at the first SIGINT or SIGTERM; a second SIGINT kills what is left. */
function stopOnSignals(end: () => Promise<void>, environment: LocalEnvironment) {
  let begin: () => void = () => {};
  const begun = new Promise<void>((resolve) => {
    begin = resolve;
  });
  let hasBegun = false;
  const onSignal = () => {
    if (hasBegun) {
      console.log("ending at once");
      void environment.kill();
      return;
    }
    hasBegun = true;
    console.log("\nending; Ctrl-C again ends at once");
    begin();
  };
  const signals = ["SIGINT", "SIGTERM"] as const;
  for (const signal of signals) process.on(signal, onSignal);
  const cancel = () => {
    for (const signal of signals) process.off(signal, onSignal);
  };
  return { begun, hasBegun: () => hasBegun, done: begun.then(end).then(cancel), cancel };
}

async function readFiles(paths: readonly string[]): Promise<ManifestFile[]> {
  const files: ManifestFile[] = [];
  for (const each of paths) {
    const entry = await stat(each).catch(() => undefined);
    if (entry === undefined) throw new LeverError("INVALID_OPTION", `-f ${each}: there is no such file or folder`);
    for (const file of entry.isDirectory() ? await yamlFiles(each, 0) : [each]) {
      if (files.length >= filesMax)
        throw new LeverError("INVALID_OPTION", `-f ${each}: more than ${filesMax} manifests`);
      files.push({ file, content: await readFile(file) });
    }
  }
  return files;
}

async function yamlFiles(folder: string, depth: number): Promise<string[]> {
  if (depth > folderDepthMax) return [];
  const found: string[] = [];
  const entries = await readdir(folder, { withFileTypes: true });
  for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const full = path.join(folder, entry.name);
    if (entry.isDirectory()) {
      if (entry.name !== "node_modules" && !entry.name.startsWith("."))
        found.push(...(await yamlFiles(full, depth + 1)));
    } else if (/\.ya?ml$/.test(entry.name)) found.push(full);
  }
  return found;
}
