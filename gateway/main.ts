#!/usr/bin/env node
/** The gateway as a process, configured by the environment (settings.ts). */

import { logLine } from "@leveros/agent/host/log-line.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { Gateway } from "./gateway.ts";
import { gatewaySettings } from "./settings.ts";

function log(level: "info" | "warn", text: string): void {
  console.error(logLine(level, text));
}

function fail(error: unknown): never {
  console.error(`lever-gateway: ${LeverError.is(error) ? error.rawMessage : String(error)}`);
  process.exit(2);
}

let gateway: Gateway;
let drainTimeoutMs: number;
try {
  const settings = gatewaySettings(process.env);
  drainTimeoutMs = settings.drainTimeoutMs;
  gateway = await Gateway.start({ ...settings.gateway, onLog: log });
} catch (error) {
  fail(error);
}
const { httpPort, port, adminPort } = gateway;
console.log(`lever-gateway: HTTP on ${httpPort}, client libraries on ${port}, metrics on ${adminPort}`);

let isStopping = false;
function stop(): void {
  // A second signal does not wait.
  if (isStopping) process.exit(1);
  isStopping = true;
  gateway.drain(drainTimeoutMs).then(
    () => process.exit(0),
    () => process.exit(1),
  );
}
process.on("SIGTERM", stop);
process.on("SIGINT", stop);
