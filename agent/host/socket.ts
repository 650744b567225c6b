/** Sockets as transports: what an agent, a gateway or the operator listens on, and how they reach each other. */

import { chmodSync, rmSync } from "node:fs";
import { connect, createServer, type ListenOptions, type Server, type Socket } from "node:net";
import { DuplexTransport } from "@leveros/protocol/transport/duplex-transport.ts";
import type { Transport } from "@leveros/protocol/transport/transport.ts";

export interface Listener {
  /** `host:port`, or the socket's path. */
  readonly address: string;
  readonly port: number;
  /** Takes no more connections; those that are open stay. */
  close(): void;
}

/** Listens on a TCP port; 0 gives a free one. Rejects with the system's error (EADDRINUSE, EACCES). */
export function listenTcp(host: string, port: number, onTransport: (transport: Transport) => void): Promise<Listener> {
  const server = createServer({ noDelay: true }, (socket) => {
    onTransport(new DuplexTransport(socket, `tcp:${socket.remoteAddress}:${socket.remotePort}`));
  });
  return listenOn(server, host, port, () => server.close());
}

/** As `listenTcp`, with a server that knows what to do with its connections; `close` is the listener's. */
export async function listenOn(server: Server, host: string, port: number, close: () => void): Promise<Listener> {
  await bound(server, { host, port });
  const address = server.address();
  const taken = typeof address === "object" && address !== null ? address.port : port;
  return { address: hostPort(host, taken), port: taken, close };
}

/** When it listens. Rejects with the system's error. */
function bound(server: Server, options: ListenOptions): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(options, () => {
      server.off("error", reject);
      server.on("error", ignored);
      resolve();
    });
  });
}

/** `host:port`, an IPv6 address in brackets. */
export function hostPort(host: string, port: number): string {
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}

/** Throws for what is no `host:port`. */
export function splitHostPort(address: string): { readonly host: string; readonly port: number } {
  const colon = address.lastIndexOf(":");
  const port = Number(address.slice(colon + 1));
  if (colon <= 0 || !Number.isInteger(port) || port < 1 || port > 65535) {
    throw new Error(`${JSON.stringify(address)} is no host:port`);
  }
  return { host: address.slice(0, colon).replace(/^\[|\]$/g, ""), port };
}

/** Listens on a Unix socket that any user in the pod may use; a file that a former process left is replaced. */
export async function listenUnix(path: string, onTransport: (transport: Transport) => void): Promise<Listener> {
  rmSync(path, { force: true });
  const server = createServer((socket) => onTransport(new DuplexTransport(socket, `unix:${path}`)));
  await bound(server, { path });
  // App and agent may run under differing users; the directory is the boundary.
  chmodSync(path, 0o777);
  return { address: path, port: 0, close: () => server.close() };
}

/** A connection that cannot be accepted (no file descriptor is left, say) is its dialer's loss, not the process's end. */
function ignored(): void {}

/** Connects to `host:port`; rejects with the system's error, or after `timeoutMs`. */
export function dialTcp(address: string, timeoutMs: number): Promise<Transport> {
  return new Promise((resolve, reject) => {
    const { host, port } = splitHostPort(address);
    const socket: Socket = connect({ host, port, noDelay: true });
    const timer = setTimeout(() => {
      socket.destroy();
      reject(new Error(`no connection to ${address} within ${timeoutMs} ms`));
    }, timeoutMs);
    const onError = (error: Error) => {
      clearTimeout(timer);
      reject(error);
    };
    socket.once("error", onError);
    socket.once("connect", () => {
      clearTimeout(timer);
      socket.off("error", onError);
      resolve(new DuplexTransport(socket, `tcp:${address}`));
    });
  });
}
