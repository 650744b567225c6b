#!/usr/bin/env node
/** The sidecar: one agent, configured by the environment. */

import { HostedAgent, listenProblem } from "./host/hosted-agent.ts";
import { logLine } from "./host/log-line.ts";

/** The name of a variable, and what it must be. */
function required(name: string): string {
  const value = process.env[name];
  if (value === undefined || value === "") fail(`${name} is not set; it says which instance this agent belongs to`);
  return value;
}

function whole(name: string, fallback: number, max: number, what: string): number {
  const text = process.env[name];
  if (text === undefined || text === "") return fallback;
  const value = Number(text);
  if (!/^\d{1,10}$/.test(text) || value > max)
    fail(`${name} is ${JSON.stringify(text)}, expected ${what} from 0 to ${max}`);
  return value;
}

function port(name: string, fallback: number): number {
  return whole(name, fallback, 65_535, "a port");
}

function fail(text: string): never {
  console.error(`lever-agent: ${text}`);
  process.exit(2);
}

const socket = process.env.LEVER_AGENT ?? "unix:///run/lever/agent.sock";
if (!socket.startsWith("unix:///"))
  fail(`LEVER_AGENT is ${JSON.stringify(socket)}, expected unix:///path/to/agent.sock`);
const drainTimeoutMs = whole("LEVER_DRAIN_TIMEOUT_MS", 25_000, 3_600_000, "a number of milliseconds");
const operator = required("LEVER_OPERATOR");
if (!/^(\[[0-9a-fA-F:.]+\]|[^:\s]+):\d{1,5}$/.test(operator))
  fail(`LEVER_OPERATOR is ${JSON.stringify(operator)}, expected host:port, an IPv6 address in brackets`);
const [tokenFile, trustFile] = [process.env.LEVER_TOKEN_FILE ?? "", process.env.LEVER_TRUST_FILE ?? ""];
if ((tokenFile === "") !== (trustFile === ""))
  fail(
    "one of LEVER_TOKEN_FILE and LEVER_TRUST_FILE is not set; the agent proves who it is by both of them, or not at all",
  );
const drainToken = process.env.LEVER_DRAIN_TOKEN ?? "";
// Of a pod that has an IPv6 address alone.
const anyHost = process.env.LEVER_ADVERTISED_HOST?.includes(":") === true ? "::" : "0.0.0.0";

let hosted: HostedAgent;
try {
  hosted = await HostedAgent.start({
    environment: required("LEVER_ENVIRONMENT"),
    service: required("LEVER_SERVICE"),
    instance: required("LEVER_INSTANCE"),
    // Empty in a cluster that does not label its pods with their zone.
    zone: process.env.LEVER_ZONE || undefined,
    operator,
    socketPath: socket.slice("unix://".length),
    host: process.env.LEVER_HOST ?? anyHost,
    port: port("LEVER_PORT", 3837),
    ...(process.env.LEVER_ADVERTISED_HOST === undefined ? {} : { advertisedHost: process.env.LEVER_ADVERTISED_HOST }),
    adminPort: port("LEVER_ADMIN_PORT", 3838),
    ...(tokenFile === "" ? {} : { identityFiles: { tokenFile, trustFile } }),
    onLog: (level, text) => console.error(logLine(level, text)),
    ...(process.env.LEVER_FORWARD_PORT ? { forwardPort: port("LEVER_FORWARD_PORT", 0) } : {}),
    ...(drainToken === "" ? {} : { drainHook: { token: drainToken, timeoutMs: drainTimeoutMs } }),
  });
} catch (error) {
  fail(
    listenProblem(error, "the agent's sockets", "LEVER_PORT, LEVER_ADMIN_PORT, LEVER_FORWARD_PORT, LEVER_AGENT")
      .message,
  );
}
// A parent that starts agents (`lever dev --agent process`) reads where this one listens.
process.send?.({ type: "listening", address: hosted.address, adminPort: hosted.adminPort });

let isStopping = false;
function stop(): void {
  if (isStopping) return;
  isStopping = true;
  hosted.drain(drainTimeoutMs).then(
    () => process.exit(0),
    () => process.exit(1),
  );
}
process.on("SIGTERM", stop);
process.on("SIGINT", stop);
// The parent that started it is gone.
process.on("disconnect", stop);
