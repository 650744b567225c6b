/**
 * Mutual TLS under sessions: listeners and dials that prove who is at the other end by its SPIFFE id.
 *
 * TLS 1.3 alone, ALPN `lever/1`, no resumption: each connection's certificate is checked when it is made, by the CAs that
 * are trusted then. Certificates and bundle may change at any time: that is for new connections, those that are open
 * stay. Invariant: a transport from here has a proven peer, unless its listener takes those without a certificate.
 */

import { constants, type X509Certificate } from "node:crypto";
import { createServer as createDoor, type Server, type Socket } from "node:net";
import {
  connect,
  createSecureContext,
  createServer,
  type SecureContext,
  type SecureContextOptions,
  type TLSSocket,
  type Server as TlsServer,
} from "node:tls";
import { helloOf, parseSpiffeId, printSpiffeId, type SpiffeId } from "@leveros/protocol/control/spiffe-id.ts";
import { Places } from "@leveros/protocol/session/places.ts";
import { DuplexTransport } from "@leveros/protocol/transport/duplex-transport.ts";
import type { ProvenPeer, Transport } from "@leveros/protocol/transport/transport.ts";
import type { RefusalReason, Refusals } from "./refusals.ts";
import { type Listener, listenOn, splitHostPort } from "./socket.ts";

/** What this end proves itself by, and whom it trusts. PEM. */
export interface Credentials {
  /** The own certificate, and what peers need beside the bundle. */
  readonly certificate: string;
  readonly key: string;
  readonly bundle: string;
  /** Since 1970: when the certificate ends. */
  readonly notAfterMs: number;
}

/** Credentials that are renewed. */
export interface CredentialSource {
  /** Undefined until there are some. */
  readonly current: Credentials | undefined;
  /** From now on; returns how to end it. */
  subscribe(onChange: (credentials: Credentials) => void): () => void;
}

const protocolName = "lever/1";
export const handshakeTimeoutMs = 5000;
/**
 * Handshakes at a time. When thousands come at once, as after a restart of the operator, those that are let in are done
 * before their dialers give up; the others are told at once, and try again in their own time. Without it all wait, all
 * give up, and all was for nothing. All of them may have something to be done in one turn of the event loop, a millisecond
 * each: what else waits for several turns, such as the renewal of a lease or the answer to a probe, bears no more of them.
 */
export const handshakesMaxDefault = 128;
/**
 * Of one address, so that whoever is silent keeps out only those that share it. A quarter, and not fewer: many pods may
 * have the address of their node.
 */
export const handshakesOfAddressMaxDefault = 32;
/** That begin in one turn of the event loop. */
const handshakesOfTurn = 8;
/** One that has taken longer makes room for the next: its dialer has given up. */
const handshakeMs = 3000;

export function contextOptions(credentials: Partial<Credentials>): SecureContextOptions {
  const { certificate, key, bundle } = credentials;
  return {
    ...(certificate !== undefined && { cert: certificate }),
    ...(key !== undefined && { key }),
    ...(bundle !== undefined && { ca: bundle }),
    minVersion: "TLSv1.3",
    // A session that is resumed would not show its certificate again.
    secureOptions: constants.SSL_OP_NO_TICKET,
  };
}

/** One context for each set of credentials: to make one takes a millisecond. */
const contexts = new WeakMap<Partial<Credentials>, SecureContext>();

function contextOf(credentials: Partial<Credentials>): SecureContext {
  let context = contexts.get(credentials);
  if (context === undefined) {
    context = createSecureContext(contextOptions(credentials));
    contexts.set(credentials, context);
  }
  return context;
}

/** The certificate's one SPIFFE id; undefined if it has none, more names than that, or one of another kind. */
export function spiffeIdOf(certificate: X509Certificate): SpiffeId | undefined {
  const uri = /^URI:(\S+)$/.exec(certificate.subjectAltName ?? "")?.[1];
  return uri === undefined ? undefined : parseSpiffeId(uri);
}

export interface TlsListenerOptions {
  readonly host: string;
  /** 0 gives a free one. */
  readonly port: number;
  readonly credentials: CredentialSource;
  /** Whether one with this id is served. */
  readonly accepts: (id: SpiffeId) => boolean;
  /** Those without a certificate are let in too: nothing is proven of them. */
  readonly acceptsAnonymous?: boolean;
  /** 128 unless set. */
  readonly handshakesMax?: number;
  /** Of one address; 32 unless set. */
  readonly handshakesOfAddressMax?: number;
  readonly refusals: Refusals;
  /** `source` is the IP address it comes from. */
  readonly onTransport: (transport: Transport, id: SpiffeId | undefined, source: string) => void;
}

/** Listens, also while there are no credentials: connections fail until then. Rejects with the system's error. */
export function listenTls(options: TlsListenerOptions): Promise<Listener> {
  const { host, port, credentials, refusals } = options;
  const { current } = credentials;
  const server = createServer({
    ...contextOptions(current ?? {}),
    requestCert: true,
    // Looked at below, which knows why.
    rejectUnauthorized: false,
    ALPNProtocols: [protocolName],
    handshakeTimeout: handshakeTimeoutMs,
  });
  const door = admitting(server, options);
  const unsubscribe = credentials.subscribe((changed) => server.setSecureContext(contextOptions(changed)));
  server.on("secureConnection", (socket) => {
    socket.setNoDelay(true);
    const found = checkPeer(socket, options);
    if (found.refusal === undefined) {
      const source = sourceOf(socket);
      const name = `tls:${source}:${socket.remotePort}`;
      return options.onTransport(transportOf(socket, name, found.id, refusals, source), found.id, source);
    }
    refusals.refused(found.refusal, sourceOf(socket), found.detail, found.id);
    socket.on("error", ignored);
    socket.destroy();
  });
  server.on("tlsClientError", (error: NodeJS.ErrnoException, socket: TLSSocket) => {
    const reason = handshakeRefusal(error);
    // Nobody can connect before there are credentials, which is no fault of theirs.
    if (reason !== undefined && credentials.current !== undefined) {
      refusals.refused(reason, sourceOf(socket), reason === "plain" ? "it does not speak TLS" : error.message);
    }
    socket.destroy();
  });
  return listenOn(door, host, port, () => {
    unsubscribe();
    door.close();
  });
}

interface Handshake {
  readonly socket: Socket;
  readonly sinceMs: number;
}

/** A listener that hands its connections to `server`, of which not too many at a time are before they are proven. */
function admitting(server: TlsServer, options: TlsListenerOptions): Server {
  const { handshakesMax: max = handshakesMaxDefault, refusals } = options;
  const { handshakesOfAddressMax: ofKeyMax = handshakesOfAddressMaxDefault } = options;
  const places = new Places<Handshake>({ max, ofKeyMax });
  /** By the peer's address and port: the socket that is secure is another one. */
  const underWay = new Map<string, Handshake>();
  const nameOf = ({ remoteAddress, remotePort }: Socket) => `${remoteAddress} ${remotePort}`;
  const isOver = (name: string, handshake: Handshake | undefined) => {
    if (handshake === undefined) return;
    places.free(handshake);
    if (underWay.get(name) === handshake) underWay.delete(name);
  };
  /** Of those that are under way: who is still to begin. Who goes away meanwhile is not kept. */
  const waiting = new Set<Socket>();
  let isBeginning = false;
  const begin = () => {
    for (const socket of [...waiting].slice(0, handshakesOfTurn)) {
      waiting.delete(socket);
      if (!socket.destroyed) server.emit("connection", socket);
    }
    isBeginning = waiting.size > 0;
    if (isBeginning) setImmediate(begin);
  };
  server.prependListener("secureConnection", (socket) => isOver(nameOf(socket), underWay.get(nameOf(socket))));
  return createDoor({ noDelay: true }, (socket) => {
    socket.on("error", ignored);
    const sinceMs = performance.now();
    const source = sourceOf(socket);
    const taken = places.inTheWayOf(source);
    if (taken !== undefined) {
      const { oldest } = taken;
      const isLate = sinceMs - oldest.sinceMs >= handshakeMs;
      const refused = isLate ? oldest.socket : socket;
      const whose = taken.areOfKey ? " from this address" : "";
      const text = `${taken.max} handshakes${whose} are under way, the most at a time; who dials tries again`;
      refusals.refused("overloaded", sourceOf(refused), text);
      refused.destroy();
      if (!isLate) return;
      places.free(oldest);
    }
    const name = nameOf(socket);
    const handshake = { socket, sinceMs };
    places.take(source, handshake);
    underWay.set(name, handshake);
    socket.once("close", () => {
      waiting.delete(socket);
      isOver(name, handshake);
    });
    waiting.add(socket);
    if (!isBeginning) setImmediate(begin);
    isBeginning = true;
  });
}

type CheckedPeer =
  | { readonly refusal: undefined; readonly id: SpiffeId | undefined }
  /** `id`: what is proven of it, though it is refused. */
  | { readonly refusal: RefusalReason; readonly detail: string; readonly id?: string };

function checkPeer(socket: TLSSocket, { accepts, acceptsAnonymous = false }: TlsListenerOptions): CheckedPeer {
  if (socket.alpnProtocol !== protocolName)
    return { refusal: "handshake", detail: `it does not offer ${protocolName}` };
  const certificate = socket.getPeerX509Certificate();
  if (certificate === undefined) {
    if (acceptsAnonymous) return { refusal: undefined, id: undefined };
    return { refusal: "no-certificate", detail: "it shows no certificate" };
  }
  const id = spiffeIdOf(certificate);
  const whose = id === undefined ? "a certificate that is none of Lever's" : `the certificate of ${printSpiffeId(id)}`;
  if (!socket.authorized) {
    // Typed as an Error, and the code in fact.
    const code = String(socket.authorizationError);
    const isExpired = code === "CERT_HAS_EXPIRED" || code === "CERT_NOT_YET_VALID";
    const { validFrom, validTo } = certificate;
    return isExpired
      ? { refusal: "expired", detail: `${whose}, valid from ${validFrom} to ${validTo}` }
      : { refusal: "untrusted", detail: `${whose}, which is not trusted here: ${code}` };
  }
  if (id !== undefined && accepts(id)) return { refusal: undefined, id };
  return { refusal: "identity", detail: `${whose}, which is not served here`, ...(id && { id: printSpiffeId(id) }) };
}

/** What OpenSSL says of bytes that are no TLS. */
const plainCodes = new Set([
  "ERR_SSL_WRONG_VERSION_NUMBER",
  "ERR_SSL_HTTP_REQUEST",
  "ERR_SSL_HTTPS_PROXY_REQUEST",
  "ERR_SSL_PACKET_LENGTH_TOO_LONG",
  "ERR_SSL_RECORD_LAYER_FAILURE",
]);

/** Undefined: it went away, as a probe of the port does. */
function handshakeRefusal({ code = "" }: NodeJS.ErrnoException): RefusalReason | undefined {
  if (code === "ECONNRESET" || code === "EPIPE") return undefined;
  return plainCodes.has(code) ? "plain" : "handshake";
}

export interface TlsDialOptions {
  readonly timeoutMs: number;
  /** Without a certificate and key this end stays unknown. */
  readonly credentials: Pick<Credentials, "bundle"> & Partial<Credentials>;
  /** Whether the one that was meant has this id. */
  readonly accepts: (id: SpiffeId) => boolean;
  /** For messages: who was meant. */
  readonly expected: string;
  readonly refusals?: Refusals | undefined;
}

/**
 * Connects to `host:port`; rejects with the system's error, with why the peer is not trusted or is not the one that was
 * meant, or after `timeoutMs`.
 */
export function dialTls(address: string, options: TlsDialOptions): Promise<Transport> {
  const { timeoutMs, credentials, accepts, expected, refusals } = options;
  return new Promise((resolve, reject) => {
    const { host, port } = splitHostPort(address);
    let id: SpiffeId | undefined;
    const socket = connect({
      host,
      port,
      secureContext: contextOf(credentials),
      ALPNProtocols: [protocolName],
      // Names of hosts mean nothing here: the SPIFFE id does.
      checkServerIdentity: () => undefined,
    });
    const fail = (error: Error) => {
      clearTimeout(timer);
      socket.on("error", ignored);
      socket.destroy();
      reject(error);
    };
    const timer = setTimeout(() => fail(new Error(`no connection to ${address} within ${timeoutMs} ms`)), timeoutMs);
    socket.once("error", fail);
    // Before the handshake is over it ends without an error at times.
    const onClose = () => fail(new Error(`${address} closed the connection`));
    socket.once("close", onClose);
    socket.once("secureConnect", () => {
      if (socket.alpnProtocol !== protocolName) return fail(new Error(`${address} does not speak ${protocolName}`));
      const certificate = socket.getPeerX509Certificate();
      id = certificate && spiffeIdOf(certificate);
      if (id === undefined || !accepts(id)) {
        const found = id === undefined ? "a certificate that is none of Lever's" : printSpiffeId(id);
        return fail(new Error(`${address} has ${found}, expected ${expected}`));
      }
      clearTimeout(timer);
      socket.off("error", fail);
      socket.off("close", onClose);
      socket.setNoDelay(true);
      resolve(transportOf(socket, `tls:${address}`, id, refusals, host));
    });
  });
}

function transportOf(
  socket: TLSSocket,
  name: string,
  id: SpiffeId | undefined,
  refusals: Refusals | undefined,
  source: string,
): Transport {
  const peer: ProvenPeer | undefined = id && {
    identity: helloOf(id),
    onMismatch: (message) => refusals?.refused("identity", source, message, printSpiffeId(id)),
  };
  return new DuplexTransport(socket, name, peer);
}

/** The peer's IP address, perhaps of a connection that is over. */
function sourceOf(socket: Socket): string {
  return (socket.remoteAddress ?? "unknown").replace(/^::ffff:/, "");
}

function ignored(): void {}
