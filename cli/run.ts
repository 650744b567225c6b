/** What `lever run` does: an agent for a process that someone else starts, attached to a running `lever dev`. */

import { mkdtempSync, rmSync } from "node:fs";
import { constants } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { HostedAgent } from "@leveros/agent/host/hosted-agent.ts";
import type { AttachReport, ExitedMessage } from "@leveros/operator/admin/admin-report.ts";
import { type InstanceExit, ProcessSupervisor } from "@leveros/operator/local/process-supervisor.ts";
import { commandLine } from "@leveros/operator/local/shell-line.ts";
import { socketFolder } from "@leveros/operator/local/socket-folder.ts";
import { runtimeClock } from "@leveros/protocol/clock/runtime-clock.ts";
import { handOverFetchMs } from "@leveros/protocol/control/lease.ts";
import { type Channel, LeverError } from "leveros";
import { connect, environmentDefault } from "./call-options.ts";
import { exitCodeOf } from "./exit-code.ts";
import { LocalOperator, operatorUrl } from "./operator.ts";
import { serviceName } from "./operator-command.ts";
import { coloursOf, printError } from "./output.ts";
import type { RunFlags } from "./run-command.ts";
import { StopRequest } from "./stop-request.ts";

const host = "127.0.0.1";
/** Of calls that run when a process that this command has not started is given up. */
const drainMs = 5000;
/** How long the operator is waited for at the end. */
const detachMs = 2000;
/** A little more than the next holder tries to fetch what the process left. */
const agentDrainMs = handOverFetchMs + 500;
const lostExitCode = 3;

const out = coloursOf(process.stdout);
const err = coloursOf(process.stderr);

type OperatorChannel = Channel<AttachReport, ExitedMessage>;

/** Resolves with the exit code when all has ended. */
export async function run(command: readonly string[], flags: RunFlags): Promise<number> {
  using stop = new StopRequest();
  const directory = mkdtempSync(path.join(socketFolder(), "lever-run-"));
  try {
    const { environment = environmentDefault, service } = serviceName(flags.service);
    await using client = connect(operatorUrl("attachChan"), flags);
    const operator = new LocalOperator(client, new AbortController().signal);
    const channel = await operator.open<AttachReport, ExitedMessage>("attachChan", [environment, service]);
    const report = await channel.receive();
    if (report === undefined) throw new LeverError("CONNECTION_LOST", "the operator has ended");
    const lost = lossOf(channel);
    const socketPath = path.join(directory, "agent.sock");
    const agent = await HostedAgent.start({ ...report, socketPath, host, port: 0, adminPort: 0 });
    const variables = { LEVER_AGENT: `unix://${socketPath}`, LEVER_SHOW_ERRORS: "1" };
    try {
      if (command.length === 0) return await attend(report, variables, agent, flags, lost, stop);
      const exitCode = await runProcess(command, report, variables, channel, lost, stop);
      // What it left is still to be fetched by other instances.
      await Promise.race([agent.agent.drain(), sleep(agentDrainMs, undefined, { ref: false }), stop.askedAgain]);
      return exitCode;
    } finally {
      agent.close();
      channel.cancel();
    }
  } catch (error) {
    printError(error, flags.output);
    return exitCodeOf(error);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** Resolves when the operator has ended the channel, or is gone. */
async function lossOf(channel: OperatorChannel): Promise<void> {
  try {
    for await (const _ of channel);
  } catch {
    // How it ended makes no difference.
  }
}

/** Stays until Ctrl-C. */
async function attend(
  { environment, service, instance }: AttachReport,
  variables: Readonly<Record<string, string>>,
  agent: HostedAgent,
  flags: RunFlags,
  lost: Promise<void>,
  stop: StopRequest,
): Promise<number> {
  const all = { ...variables, LEVER_ENVIRONMENT: environment, LEVER_SERVICE: service, LEVER_INSTANCE: instance };
  if (flags.output === "json") console.log(JSON.stringify(all));
  else {
    const lines = Object.entries(all).map(([name, value]) => `export ${name}=${value}`);
    console.log(`${lines.join("\n")}\n`);
    console.log(out.dim(`${instance} waits for a process with these variables; Ctrl-C ends it`));
  }
  const isLost = await Promise.race([stop.asked.then(() => false), lost.then(() => true)]);
  if (isLost) return sayLost();
  // A process that serves goes on finding an agent until its calls are through.
  await Promise.race([agent.agent.drain(), sleep(drainMs, undefined, { ref: false }), stop.askedAgain]);
  return 0;
}

async function runProcess(
  command: readonly string[],
  { environment, service, instance }: AttachReport,
  env: Readonly<Record<string, string>>,
  channel: OperatorChannel,
  lost: Promise<void>,
  stop: StopRequest,
): Promise<number> {
  const supervisor = new ProcessSupervisor({ clock: runtimeClock(globalThis) });
  // The program takes the shell's place: its exit code is the one that counts.
  const line = `exec ${commandLine(command)}`;
  console.log(out.dim(`${instance} of ${environment}/${service}: ${command.join(" ")}`));
  const running = supervisor.start({
    id: instance,
    service,
    environment,
    command: line,
    directory: process.cwd(),
    env,
  });
  let isLost = false;
  void stop.asked.then(() => supervisor.stop(running));
  void stop.askedAgain.then(() => supervisor.killAll());
  void lost.then(() => {
    isLost = true;
    return supervisor.stop(running);
  });
  const exit = await running.exited;
  await supervisor.stopAll();
  if (isLost) return sayLost();
  // What may still run is no proof of an end: then the operator waits for the lease.
  if (exit.survivorsOf === undefined) {
    const said = channel.send({ type: "exited" }).then(() => lost);
    await Promise.race([said.catch(() => {}), sleep(detachMs, undefined, { ref: false })]);
  }
  if (exit.startError !== undefined) {
    throw new LeverError("INVALID_ARGUMENTS", `${command[0]} could not be started: ${exit.startError}`, {
      effect: "none",
    });
  }
  return codeOf(exit);
}

function sayLost(): number {
  console.error(err.red("the operator is gone: `lever dev` has ended, or its gateway cannot be reached any more"));
  return lostExitCode;
}

/** As a shell says it. */
function codeOf({ code, signal }: InstanceExit): number {
  return code ?? 128 + (signal === null ? 0 : constants.signals[signal]);
}
