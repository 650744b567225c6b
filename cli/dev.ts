/** What `lever dev` does: the services of a folder of manifests, their agents and a gateway, on this machine. */

import { setTimeout as sleep } from "node:timers/promises";
import { Gateway } from "@leveros/gateway/gateway.ts";
import { formatProblem, type ManifestProblem } from "@leveros/operator/api/manifest-problem.ts";
import { type ManifestSet, readManifests } from "@leveros/operator/api/manifest-reader.ts";
import { LocalEnvironment, type ServicePlan } from "@leveros/operator/local/local-environment.ts";
import type { LocalWorkload } from "@leveros/operator/local/local-workload.ts";
import { LeverError } from "leveros";
import type { DevFlags } from "./dev-command.ts";
import { exitCodeOf, usageExitCode } from "./exit-code.ts";
import { readManifestFiles } from "./manifest-files.ts";
import { ManifestWatch } from "./manifest-watch.ts";
import { coloursOf } from "./output.ts";
import { StopRequest } from "./stop-request.ts";
import { type Doors, doorsLine, linesToTry, type ServedService } from "./what-to-try.ts";

const host = "127.0.0.1";
/** Services that do not serve by then are named. */
const lateMs = 10_000;
const lastInstancesMs = 1000;
/** Calls from outside that run at Ctrl-C may take this long; channels are cut then. */
const gatewayDrainMs = 2000;
/** When ending takes longer, it is said what it waits for. */
const slowEndMs = 3000;

const out = coloursOf(process.stdout);
const err = coloursOf(process.stderr);

/** Resolves with the exit code when all has ended. */
export async function dev(flags: DevFlags): Promise<number> {
  using stop = new StopRequest();
  try {
    return await run(flags, stop);
  } catch (error) {
    const { rawMessage } = LeverError.from(error);
    console.error(`${err.red("lever dev")}: ${rawMessage}`);
    return exitCodeOf(error);
  }
}

async function run(flags: DevFlags, stop: StopRequest): Promise<number> {
  const plans = await load(flags);
  if (plans === undefined) return usageExitCode;
  const services = new Services(plans.plans);
  const environment = await LocalEnvironment.open(
    {
      manifests: plans.manifests,
      env: flags.env,
      agents: flags.agent,
      onlyExposed: flags.onlyExposed === true,
      onMessage: (line) => console.error(err.yellow(line)),
      onRegistered: ({ environment, service, instance }, { methods, resources }) => {
        const names = methods.map(({ name }) => name);
        console.log(out.dim(`${instance} serves ${names.join(", ") || "no methods"}`));
        services.registered(environment, service, names, resources);
      },
    },
    plans.plans,
  );
  let gateway: Gateway;
  try {
    // Before any instance: when a port is in use nothing has been started.
    gateway = await Gateway.start({
      operator: environment.operatorAddress,
      host,
      httpPort: flags.httpPort,
      port: flags.port,
      adminPort: 0,
      defaultEnvironment: services.all[0]?.environment ?? "dev",
      allowForceEnv: true,
      corsOrigins: ["*"],
    });
  } catch (error) {
    await environment.stop();
    throw error;
  }
  const { agent } = gateway;
  environment.addGateway({ agent, host, ...portsOf(gateway) });
  if (!stop.isAsked) environment.run();
  using _watch = flags.watch === true ? follow(flags, environment, stop) : undefined;
  await announce(services, { host, ...portsOf(gateway) }, environment, stop);
  await stop.asked;
  await end(gateway, environment, stop);
  return 0;
}

/** What changes in the services' folders and in the manifests takes effect, until it is disposed of. */
function follow(flags: DevFlags, environment: LocalEnvironment, stop: StopRequest): ManifestWatch {
  environment.watch();
  return new ManifestWatch(pathsOf(flags), async () => {
    if (stop.isAsked) return;
    try {
      const { manifests } = await read(flags);
      const problems = [...manifests.problems, ...environment.problemsOfChange(manifests)];
      const { plans, problems: more } = problems.length > 0 ? none : await LocalEnvironment.plan(manifests, flags.env);
      if (refused([...problems, ...more], "what runs goes on as it was") || stop.isAsked) return;
      if (plans.length === 0) throw noServices(flags);
      await environment.apply(manifests, plans);
    } catch (error) {
      console.error(err.red(`${LeverError.from(error).rawMessage}; what runs goes on as it was`));
    }
  });
}

const none = { plans: [], problems: [] };

function portsOf({ httpPort, port, adminPort }: Gateway) {
  return { httpPort, port, adminPort };
}

interface Manifests {
  readonly manifests: ManifestSet;
  /** YAML files without a Kubernetes object. */
  readonly skipped: readonly string[];
}

async function read(flags: DevFlags): Promise<Manifests> {
  const { files, skipped } = await readManifestFiles(pathsOf(flags));
  return { manifests: readManifests(files), skipped };
}

function pathsOf({ file }: DevFlags): readonly string[] {
  return file.length === 0 ? ["."] : file;
}

/** What is to be run. Undefined if that is not clear: the problems have been printed then. */
async function load(flags: DevFlags): Promise<{ manifests: ManifestSet; plans: ServicePlan[] } | undefined> {
  const { manifests, skipped } = await read(flags);
  for (const each of skipped) console.log(out.dim(`${each} skipped: it holds no Kubernetes object`));
  for (const { kind, name, file: where, line } of manifests.skipped) {
    console.log(out.dim(`${where}:${line} skipped: ${kind} ${name} (only LeverServices are run here)`));
  }
  if (refused(manifests.problems, "nothing was started")) return undefined;
  const { plans, problems } = await LocalEnvironment.plan(manifests, flags.env);
  if (refused(problems, "nothing was started")) return undefined;
  if (plans.length === 0) throw noServices(flags);
  return { manifests, plans };
}

function noServices(flags: DevFlags): LeverError {
  const where = pathsOf(flags).map((each) => (each === "." ? "this folder" : each));
  return new LeverError(
    "INVALID_OPTION",
    `there is no LeverService in ${where.join(", ")}; name its manifest, or a folder, with -f`,
  );
}

function refused(problems: readonly ManifestProblem[], outcome: string): boolean {
  if (problems.length === 0) return false;
  for (const problem of problems) console.error(formatProblem(problem));
  const count = problems.length === 1 ? "1 problem" : `${problems.length} problems`;
  console.error(err.red(`${count} in the manifests; ${outcome}`));
  return true;
}

interface DevService extends ServedService {
  readonly replicas: number;
  methods: readonly string[];
  resources: boolean;
  /** Instances that have registered: those that have ended since count too. */
  registrations: number;
}

/** The services, and which of them have registered yet. */
class Services {
  readonly all: readonly DevService[];
  /** Resolves when each has an instance that serves, unless it is to have none. */
  readonly allServe: Promise<void>;
  /** Resolves when all instances serve. */
  readonly allInstancesServe: Promise<void>;
  #resolveServices!: () => void;
  #resolveInstances!: () => void;

  constructor(plans: readonly ServicePlan[]) {
    this.all = plans.map(({ service: { metadata, spec } }) => ({
      environment: metadata.namespace,
      name: metadata.name,
      replicas: spec.replicas,
      methods: [],
      resources: false,
      registrations: 0,
    }));
    this.allServe = new Promise((resolve) => {
      this.#resolveServices = resolve;
    });
    this.allInstancesServe = new Promise((resolve) => {
      this.#resolveInstances = resolve;
    });
    this.#check();
  }

  registered(environment: string, name: string, methods: readonly string[], resources: boolean): void {
    const service = this.all.find((each) => each.environment === environment && each.name === name);
    if (service === undefined) return;
    service.methods = methods;
    service.resources = resources;
    service.registrations++;
    this.#check();
  }

  #check(): void {
    if (!this.all.some(isAwaited)) this.#resolveServices();
    if (this.all.every(({ registrations, replicas }) => registrations >= replicas)) this.#resolveInstances();
  }
}

function isAwaited({ registrations, replicas }: DevService): boolean {
  return registrations === 0 && replicas > 0;
}

/** Says when all services serve, and which keep the others waiting. */
async function announce(
  services: Services,
  doors: Doors,
  environment: LocalEnvironment,
  stop: StopRequest,
): Promise<void> {
  const late = setTimeout(() => {
    for (const service of services.all) {
      const workload = environment.service(service.environment, service.name)?.workload;
      if (isAwaited(service)) console.error(err.yellow(lateText(service, workload)));
    }
    console.error(
      err.yellow(`Meanwhile the gateway answers at http://${host}:${doors.httpPort} and ${host}:${doors.port}.`),
    );
  }, lateMs);
  await Promise.race([services.allServe, stop.asked]);
  clearTimeout(late);
  // The others are there soon, and their lines stand before the summary then; if not, it does not wait.
  await Promise.race([services.allInstancesServe, stop.asked, sleep(lastInstancesMs, undefined, { ref: false })]);
  if (stop.isAsked) return;
  const names = services.all.map(({ environment, name, replicas }) => {
    const count = replicas === 0 ? " (no instances)" : replicas === 1 ? "" : ` (${replicas} instances)`;
    return `${environment}/${name}${count}`;
  });
  console.log(`\n${out.bold("Lever is up")}: ${names.join(", ")}\n  ${doorsLine(doors)}\n`);
  const lines = linesToTry(services.all, doors);
  if (lines.length > 0) console.log(`Try, in another terminal:\n${lines.map((line) => `  ${line}`).join("\n")}\n`);
}

function lateText({ environment, name }: DevService, workload: LocalWorkload | undefined): string {
  const isRunning = workload?.status().some(({ state }) => state === "Running") === true;
  const seconds = lateMs / 1000;
  if (isRunning) {
    return `${environment}/${name} runs and has registered nothing for ${seconds} s: does its program reach \`await serve(…)\`?`;
  }
  return `${environment}/${name} has not come up within ${seconds} s: it ends each time that it is started.`;
}

/** Resolves when no process is left. */
async function end(gateway: Gateway, environment: LocalEnvironment, stop: StopRequest): Promise<void> {
  console.log(out.dim("ending; Ctrl-C again ends at once"));
  const slow = setTimeout(() => {
    const left = environment.localServices.flatMap(({ workload }) => workload.status().map(({ id }) => id));
    if (left.length > 0) console.log(out.dim(`waiting for ${left.join(", ")}; Ctrl-C again ends them at once`));
  }, slowEndMs);
  let isEnded = false;
  const graceful = (async () => {
    await gateway.drain(gatewayDrainMs);
    await environment.stop();
    isEnded = true;
  })();
  await Promise.race([graceful, stop.askedAgain]);
  clearTimeout(slow);
  if (!isEnded) {
    console.log(out.dim("ending at once"));
    gateway.close();
    await environment.kill();
  }
  await graceful;
}
