/** Serves an object's functions as the methods of this process's service, and ends the process as it should. */

import { constants } from "node:os";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { agentConnection } from "./agent-connection.ts";
import { type ErrorReporter, MethodServer, resourcesMaxDefault, resourcesMaxMax } from "./method-server.ts";
import type { ResourceClass } from "./resources/resource-methods.ts";

export interface ServeOptions {
  /**
   * The class of the service's resources. Calls that name a resource go to its object, which is made at the first call:
   * `new Room(name, state, memory)`. The service's manifest has to say `ownership`.
   */
  readonly resource?: ResourceClass;
  /** Objects of resources at a time, 1 to 1,000,000; 100,000 unless given. Idle ones do not count for long. */
  readonly resourcesMax?: number;
  /** The agent's address; LEVER_AGENT unless given. `unix:///run/lever/agent.sock` or `tcp://host:port`. */
  readonly agent?: string;
  /** On SIGTERM and SIGINT: take no new calls, let those that run end, then exit. A second one exits at once. Default true. */
  readonly handleSignals?: boolean;
  /** How long running methods may take to end after that, ms. 0 to 3,600,000; default 25,000. */
  readonly drainTimeoutMs?: number;
  /** Where errors of methods are reported that are no MethodError. Default: `console.error`. */
  readonly onError?: ErrorReporter;
}

/** What `serve` returns. */
export interface Server extends AsyncDisposable {
  /** Takes no new calls; resolves when those that run have ended, or after `drainTimeoutMs`. Then closes. */
  drain(): Promise<void>;
}

export const drainTimeoutMsDefault = 25_000;
const drainTimeoutMsMax = 3_600_000;
const registrationTimeoutMs = 30_000;

/**
 * Serves the functions of `methods`: plain ones as methods that are invoked, those whose names end in `Chan` or `_chan`
 * (or are `chan`) as streaming ones, which get the channel as their first parameter. Names that begin with `_` stay
 * private. Resolves when the agent knows the methods; afterwards the connection is kept open and made again when lost,
 * and the methods are registered anew.
 *
 * Rejects with INVALID_OPTION, or AGENT_UNREACHABLE when no agent answers within 30 s.
 */
export async function serve(methods: object, options: ServeOptions = {}): Promise<Server> {
  const { drainTimeoutMs = drainTimeoutMsDefault, handleSignals = true, onError, resource } = options;
  const { resourcesMax = resourcesMaxDefault } = options;
  checkDrainTimeout(drainTimeoutMs);
  if (!Number.isInteger(resourcesMax) || resourcesMax < 1 || resourcesMax > resourcesMaxMax) {
    throw new LeverError(
      "INVALID_OPTION",
      `resourcesMax is ${String(resourcesMax)}, expected a whole number from 1 to ${resourcesMaxMax}`,
    );
  }
  if (typeof handleSignals !== "boolean") {
    throw new LeverError("INVALID_OPTION", `handleSignals is a ${typeof handleSignals}, expected true or false`);
  }
  const connection = agentConnection(options.agent).retain();
  try {
    const server = new MethodServer(connection, methods, {
      drainTimeoutMs,
      onError,
      instance: process.env.LEVER_INSTANCE ?? "",
      // `lever dev` shows callers what a method threw; elsewhere that is for the log alone.
      showsErrors: process.env.LEVER_SHOW_ERRORS === "1",
      resource,
      resourcesMax,
    });
    await server.start(registrationTimeoutMs);
    if (handleSignals) endOnSignals(server);
    return server;
  } catch (error) {
    connection.release();
    throw error;
  }
}

/** Throws INVALID_OPTION. */
export function checkDrainTimeout(drainTimeoutMs: number): void {
  if (typeof drainTimeoutMs === "number" && drainTimeoutMs >= 0 && drainTimeoutMs <= drainTimeoutMsMax) return;
  throw new LeverError(
    "INVALID_OPTION",
    `drainTimeoutMs is ${String(drainTimeoutMs)}, expected a number from 0 to ${drainTimeoutMsMax}`,
  );
}

/** The first signal ends the server and then the process: 0, or 1 if methods were cut off. A second one does not wait. */
function endOnSignals(server: MethodServer): void {
  const signals = ["SIGTERM", "SIGINT"] as const;
  let isEnding = false;
  const onSignal = (signal: (typeof signals)[number]) => {
    if (isEnding) process.exit(128 + constants.signals[signal]);
    isEnding = true;
    server.end().then(
      ({ cutOff }) => {
        // biome-ignore lint/suspicious/noConsole: whoever stopped the process has to know.
        if (cutOff > 0) console.error(`lever: ${cutOff} calls and channels still ran and were cut off`);
        process.exit(cutOff > 0 ? 1 : 0);
      },
      () => process.exit(1),
    );
  };
  for (const signal of signals) process.on(signal, onSignal);
  server.whenEnded(() => {
    if (!isEnding) for (const signal of signals) process.off(signal, onSignal);
  });
}
