/**
 * All of Lever but processes, for the gateway's tests: the operator's discovery, an agent with its sockets for each
 * service, an app that serves on the agent's Unix socket, and the gateway. Everything listens on loopback.
 */

import { mkdtempSync, rmSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { HostedAgent } from "@leveros/agent/host/hosted-agent.ts";
import { listenTcp } from "@leveros/agent/host/socket.ts";
import { EndpointTables } from "@leveros/operator/core/endpoint-table.ts";
import { ServiceRegistry } from "@leveros/operator/core/service-registry.ts";
import { DiscoveryServer } from "@leveros/operator/discovery/discovery-server.ts";
import { runtimeClock } from "@leveros/protocol/clock/runtime-clock.ts";
import type { AccessPolicy } from "@leveros/protocol/control/access.ts";
import { defaultServicePolicy } from "@leveros/protocol/control/discovery.ts";
import { type Server, serve } from "leveros";
import { Gateway, type GatewayOptions } from "./gateway.ts";

const host = "127.0.0.1";

export interface Rig {
  readonly gateway: Gateway;
  /** `http://127.0.0.1:8080` */
  readonly url: string;
  /** `host:port` of the operator's discovery. */
  readonly operator: string;
  /** What an app under test threw that is no MethodError. */
  readonly thrown: unknown[];
  /** Changes who may call a service. */
  setAccess(service: string, access: Partial<AccessPolicy>): void;
  /** Ends the app of a service and its agent at once, as when its pod is killed. */
  kill(service: string): Promise<void>;
  close(): Promise<void>;
}

const everybody: AccessPolicy = { callers: [], gateway: { expose: "Public" } };

/** Starts services (`environment/name` to its methods; `undefined`: declared, without an instance). */
export async function startRig(
  services: Readonly<Record<string, object | undefined>>,
  options: Partial<GatewayOptions> = {},
  /** By `environment/name`; Public unless given. */
  access: Readonly<Record<string, Partial<AccessPolicy>>> = {},
): Promise<Rig> {
  const clock = runtimeClock(globalThis);
  const tables = new EndpointTables({ startVersion: 1, origin: "test" });
  const registry = new ServiceRegistry({ tables, clock });
  const discovery = new DiscoveryServer({ registry, clock });
  const operator = await listenTcp(host, 0, (transport) => discovery.accept(transport));
  const directory = mkdtempSync(path.join(tmpdir(), "lever-gateway-"));
  const instances = new Map<string, { agent: HostedAgent; app: Server }>();
  const thrown: unknown[] = [];
  for (const [name, methods] of Object.entries(services)) {
    const [environment = "", service = ""] = name.split("/");
    registry.declareService(environment, service, {
      ...defaultServicePolicy,
      access: { ...everybody, ...access[name] },
    });
    if (methods === undefined) continue;
    const instance = `${service}-1-${environment}`;
    registry.upsertInstance({ environment, service, instance });
    const socketPath = path.join(directory, `${instance}.sock`);
    const agent = await HostedAgent.start({
      environment,
      service,
      instance,
      operator: operator.address,
      socketPath,
      host,
      port: 0,
      adminPort: 0,
    });
    const app = await serve(methods, {
      agent: `unix://${socketPath}`,
      handleSignals: false,
      drainTimeoutMs: 0,
      onError: (error) => thrown.push(error),
    });
    instances.set(name, { agent, app });
  }
  const gateway = await Gateway.start({
    operator: operator.address,
    host,
    httpPort: 0,
    port: 0,
    adminPort: 0,
    defaultEnvironment: "dev",
    allowForceEnv: true,
    corsOrigins: ["*"],
    ...options,
  });
  const kill = async (name: string) => {
    const instance = instances.get(name);
    instances.delete(name);
    instance?.agent.close();
    await instance?.app.drain();
  };
  return {
    gateway,
    url: `http://${host}:${gateway.httpPort}`,
    operator: operator.address,
    thrown,
    setAccess(name, changed) {
      const [environment = "", service = ""] = name.split("/");
      registry.declareService(environment, service, { ...defaultServicePolicy, access: { ...everybody, ...changed } });
    },
    kill,
    async close() {
      gateway.close();
      for (const name of [...instances.keys()]) await kill(name);
      discovery.close();
      operator.close();
      registry.close();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

/** A connection on which a test writes what it wants. */
export class RawConnection {
  readonly socket: Socket;
  text = "";
  isClosed = false;
  #wake: () => void = () => {};

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.on("data", (chunk: Buffer) => {
      this.text += chunk.toString("latin1");
      this.#wake();
    });
    socket.on("error", () => {});
    socket.on("close", () => {
      this.isClosed = true;
      this.#wake();
    });
  }

  static open(port: number): Promise<RawConnection> {
    return new Promise((resolve, reject) => {
      const socket = connect({ host, port, noDelay: true });
      socket.once("error", reject);
      socket.once("connect", () => {
        socket.off("error", reject);
        resolve(new RawConnection(socket));
      });
    });
  }

  write(data: string | Uint8Array): void {
    this.socket.write(typeof data === "string" ? Buffer.from(data, "latin1") : data);
  }

  /** What has come in, once it has all of `pattern`, or the connection is closed. */
  async until(pattern: RegExp | string): Promise<string> {
    const has = () => (typeof pattern === "string" ? this.text.includes(pattern) : pattern.test(this.text));
    while (!has() && !this.isClosed) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    return this.text;
  }

  /** Takes the next whole response off what has come in; undefined if the connection is closed before. */
  async response(isToHead = false): Promise<RawResponse | undefined> {
    for (;;) {
      const found = parseResponse(this.text, isToHead, this.isClosed);
      if (found !== undefined) {
        this.text = this.text.slice(found.length);
        return found;
      }
      if (this.isClosed) return undefined;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  async closed(): Promise<string> {
    await this.until(/(?!)/);
    return this.text;
  }

  destroy(): void {
    this.socket.destroy();
  }
}

export interface RawResponse {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
  /** In characters of what came in. */
  readonly length: number;
}

/**
 * Strict: anything that is no well-formed response throws. Interim responses (100) are skipped. An answer to HEAD has
 * no body, whatever its headers say; one without a length lasts until the connection's end.
 */
export function parseResponse(text: string, isToHead = false, isClosed = false): RawResponse | undefined {
  const headEnd = text.indexOf("\r\n\r\n");
  if (headEnd < 0) return undefined;
  const [statusLine = "", ...lines] = text.slice(0, headEnd).split("\r\n");
  const status = Number(/^HTTP\/1\.1 (\d{3}) [\x20-\x7e]+$/.exec(statusLine)?.[1]);
  if (!(status >= 100 && status < 600)) throw new Error(`no status line: ${JSON.stringify(statusLine)}`);
  const bodyAt = headEnd + 4;
  if (status === 100) {
    const next = parseResponse(text.slice(bodyAt), isToHead, isClosed);
    return next === undefined ? undefined : { ...next, length: next.length + bodyAt };
  }
  const headers: Record<string, string> = {};
  for (const line of lines) {
    const match = /^([a-z0-9-]+): ?([\x20-\x7e\x80-\xff]*)$/i.exec(line);
    if (match === null) throw new Error(`no header: ${JSON.stringify(line)}`);
    const name = (match[1] as string).toLowerCase();
    if (Object.hasOwn(headers, name)) throw new Error(`the header ${name} is there twice`);
    headers[name] = match[2] as string;
  }
  if (status === 204 || isToHead) return { status, headers, body: "", length: bodyAt };
  if (headers["transfer-encoding"] === "chunked") return chunked(status, headers, text, bodyAt);
  if (headers["content-length"] === undefined && headers.connection === "close") {
    // HTTP/1.0 has no chunks.
    return isClosed ? { status, headers, body: text.slice(bodyAt), length: text.length } : undefined;
  }
  const length = Number(headers["content-length"]);
  if (!Number.isInteger(length))
    throw new Error(`neither a length nor chunks: ${JSON.stringify(text.slice(0, headEnd))}`);
  if (text.length < bodyAt + length) return undefined;
  return { status, headers, body: text.slice(bodyAt, bodyAt + length), length: bodyAt + length };
}

function chunked(
  status: number,
  headers: Record<string, string>,
  text: string,
  bodyAt: number,
): RawResponse | undefined {
  let at = bodyAt;
  let body = "";
  for (;;) {
    const lineEnd = text.indexOf("\r\n", at);
    if (lineEnd < 0) return undefined;
    const size = text.slice(at, lineEnd);
    if (!/^[0-9a-f]+$/i.test(size)) throw new Error(`no chunk: ${JSON.stringify(size)}`);
    const length = Number.parseInt(size, 16);
    const end = lineEnd + 2 + length;
    if (text.length < end + 2) return undefined;
    if (text.slice(end, end + 2) !== "\r\n") throw new Error("a chunk has no end");
    if (length === 0) return { status, headers, body, length: end + 2 };
    body += text.slice(lineEnd + 2, end);
    at = end + 2;
  }
}
