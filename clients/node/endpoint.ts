/** Where a client connects to: its agent's socket, or a gateway's native port. */

import { connect as connectTcp, type Socket } from "node:net";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { DuplexTransport } from "@leveros/protocol/transport/duplex-transport.ts";
import type { Transport } from "@leveros/protocol/transport/transport.ts";

export interface TcpEndpoint {
  readonly kind: "tcp";
  readonly host: string;
  readonly port: number;
}

export type Endpoint = { readonly kind: "unix"; readonly path: string } | TcpEndpoint;

export const gatewayPortDefault = 3837;

/** `unix:///run/lever/agent.sock` or `tcp://host:port`, as in LEVER_AGENT. Throws INVALID_OPTION. */
export function parseAgent(text: string, field: string): Endpoint {
  if (typeof text !== "string") refuseType(field, text);
  if (text.startsWith("unix://")) {
    const path = text.slice("unix://".length);
    if (path.startsWith("/") && !path.includes("\0")) return { kind: "unix", path };
  } else if (text.startsWith("tcp://")) {
    const endpoint = hostPort(text.slice("tcp://".length));
    if (endpoint !== undefined) return endpoint;
  }
  throw new LeverError(
    "INVALID_OPTION",
    `${field} is ${JSON.stringify(text)}, expected unix:///path/to/agent.sock or tcp://host:port`,
  );
}

/** `host`, `host:port` or `tcp://host:port`; without a port 3837. Throws INVALID_OPTION. */
export function parseGateway(text: string): TcpEndpoint {
  if (typeof text !== "string") refuseType("gateway", text);
  const endpoint = hostPort(text.startsWith("tcp://") ? text.slice("tcp://".length) : text);
  if (endpoint !== undefined) return endpoint;
  throw new LeverError(
    "INVALID_OPTION",
    `gateway is ${JSON.stringify(text)}, expected host:port of the gateway's native port (3837 unless changed)`,
  );
}

function refuseType(field: string, value: unknown): never {
  throw new LeverError("INVALID_OPTION", `${field} is ${value === null ? "null" : `a ${typeof value}`}, expected text`);
}

function hostPort(text: string): TcpEndpoint | undefined {
  const match = /^(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+)(?::([0-9]{1,5}))?$/.exec(text);
  if (match === null) return undefined;
  const port = match[2] === undefined ? gatewayPortDefault : Number(match[2]);
  if (port < 1 || port > 65535) return undefined;
  return { kind: "tcp", host: (match[1] as string).replace(/^\[|\]$/g, ""), port };
}

export function printEndpoint(endpoint: Endpoint): string {
  return endpoint.kind === "unix" ? `unix://${endpoint.path}` : `tcp://${endpoint.host}:${endpoint.port}`;
}

/** Connects; rejects with the system's error, after `timeoutMs`, or when the signal is aborted. */
export function dial(endpoint: Endpoint, timeoutMs: number, signal: AbortSignal): Promise<Transport> {
  return new Promise((resolve, reject) => {
    const socket: Socket =
      endpoint.kind === "unix"
        ? connectTcp({ path: endpoint.path })
        : connectTcp({ host: endpoint.host, port: endpoint.port, noDelay: true });
    const settle = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", onAbort);
      socket.off("error", fail);
    };
    const fail = (error: Error) => {
      settle();
      // Of a socket that is given up nobody wants to hear any more.
      socket.on("error", () => {});
      socket.destroy();
      reject(error);
    };
    const onAbort = () => fail(new Error("the dial was given up"));
    const timer = setTimeout(() => fail(new Error(`no connection within ${timeoutMs} ms`)), timeoutMs);
    signal.addEventListener("abort", onAbort, { once: true });
    socket.once("error", fail);
    socket.once("connect", () => {
      settle();
      resolve(new DuplexTransport(socket, printEndpoint(endpoint)));
    });
  });
}
