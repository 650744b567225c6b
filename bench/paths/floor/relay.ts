/**
 * A relay of `floor`, beside one app: forwards whole frames between its app and the other relay, and looks at nothing
 * but their headers.
 *
 *     node relay.ts accept <app's socket> [<certificate> <key>]
 *     node relay.ts dial <app's socket> <other relay's port> [<certificate> <key>]
 */

import { once } from "node:events";
import { readFileSync } from "node:fs";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { connect as connectTls, createServer as createServerTls } from "node:tls";
import { ready } from "../../control/probe.ts";
import { FrameReader, FrameWriter, readFrom, readInto } from "../frames.ts";
import { SERVER_NAME } from "./certificate.ts";

const [role, appSocket, ...rest] = process.argv.slice(2);
const peerPort = role === "dial" ? Number(rest.shift()) : undefined;
const [certificateFile, keyFile] = rest;
const tls = certificateFile !== undefined && keyFile !== undefined ? mutual(certificateFile, keyFile) : undefined;

let toApp: FrameWriter;
let toPeer: FrameWriter;
const fromApp = new FrameReader((bytes, start, end) => toPeer.forward(bytes.subarray(start, end)));
const fromPeer = new FrameReader((bytes, start, end) => toApp.forward(bytes.subarray(start, end)));

const apps = createServer((socket) => {
  toApp = new FrameWriter(socket);
  readFrom(socket, fromApp);
});
apps.listen(appSocket);
await once(apps, "listening");

if (peerPort === undefined) {
  const accept = (socket: Socket): void => {
    toPeer = new FrameWriter(socket);
    readFrom(socket, fromPeer);
  };
  const peers: Server =
    tls === undefined ? createServer({ noDelay: true }, accept) : createServerTls({ ...tls, noDelay: true }, accept);
  peers.listen(0, "127.0.0.1");
  await once(peers, "listening");
  ready((peers.address() as AddressInfo).port);
} else {
  const to = { port: peerPort, host: "127.0.0.1", ...readInto(fromPeer) };
  const socket = tls === undefined ? connect(to) : connectTls({ ...to, ...tls, servername: SERVER_NAME });
  await once(socket, tls === undefined ? "connect" : "secureConnect");
  toPeer = new FrameWriter(socket);
  ready();
}

function mutual(certificateFile: string, keyFile: string) {
  const cert = readFileSync(certificateFile);
  return {
    cert,
    key: readFileSync(keyFile),
    ca: cert,
    requestCert: true,
    rejectUnauthorized: true,
    minVersion: "TLSv1.3",
  } as const;
}
