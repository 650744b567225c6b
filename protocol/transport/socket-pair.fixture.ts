/** Joined pairs of real sockets, for tests: the dialer's transport first. */

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import tls from "node:tls";
import { DuplexTransport } from "./duplex-transport.ts";
import type { Transport } from "./transport.ts";

export interface SocketPairs {
  pair(): Promise<[Transport, Transport]>;
  close(): Promise<void>;
}

/** A listener, and what it hands out: the accepted end of each connection that `dial` makes. */
async function pairsOf(
  server: net.Server | tls.Server,
  listen: () => void,
  dial: () => net.Socket,
  name: string,
): Promise<SocketPairs> {
  const isSecure = server instanceof tls.Server;
  const waiting: ((socket: net.Socket) => void)[] = [];
  const sockets = new Set<net.Socket>();
  server.on(isSecure ? "secureConnection" : "connection", (socket: net.Socket) => {
    sockets.add(socket);
    socket.setNoDelay(true);
    waiting.shift()?.(socket);
  });
  await new Promise<void>((resolve, reject) => {
    server.once("listening", resolve).once("error", reject);
    listen();
  });
  return {
    async pair() {
      const accepted = new Promise<net.Socket>((resolve) => waiting.push(resolve));
      const dialed = dial();
      sockets.add(dialed);
      await new Promise<void>((resolve, reject) => {
        dialed.once(isSecure ? "secureConnect" : "connect", resolve).once("error", reject);
      });
      dialed.setNoDelay(true);
      return [new DuplexTransport(dialed, `${name}:acceptor`), new DuplexTransport(await accepted, `${name}:dialer`)];
    },
    async close() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

function portOf(server: net.Server): number {
  return (server.address() as net.AddressInfo).port;
}

export async function unixPairs(): Promise<SocketPairs> {
  const directory = mkdtempSync(join(tmpdir(), "lever-"));
  const path = join(directory, "test.sock");
  const server = net.createServer();
  const pairs = await pairsOf(
    server,
    () => server.listen(path),
    () => net.connect(path),
    "unix",
  );
  return {
    pair: pairs.pair,
    async close() {
      await pairs.close();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

export function tcpPairs(): Promise<SocketPairs> {
  const server = net.createServer();
  return pairsOf(
    server,
    () => server.listen(0, "127.0.0.1"),
    () => net.connect(portOf(server), "127.0.0.1"),
    "tcp",
  );
}

export function tlsPairs(): Promise<SocketPairs> {
  const cert = readFileSync(new URL("./fixtures/test-only-certificate.pem", import.meta.url));
  const key = readFileSync(new URL("./fixtures/test-only-key.pem", import.meta.url));
  const server = tls.createServer({ cert, key, minVersion: "TLSv1.3" });
  const dial = () => tls.connect({ port: portOf(server), host: "127.0.0.1", servername: "localhost", ca: cert });
  return pairsOf(server, () => server.listen(0, "127.0.0.1"), dial, "tls");
}
