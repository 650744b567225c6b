/**
 * An API server over real HTTP for tests, with a kubeconfig of its own and port-forwards over real WebSockets, as the
 * kubelet serves them: to ports of this machine that stand for those of pods.
 */

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import http from "node:http";
import { type AddressInfo, connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { ApiServer } from "@leveros/operator/kube/api-server.fixture.ts";
import { deployments, type KubeObject, pods } from "@leveros/operator/kube/kube-object.ts";
import type { KubeRequest } from "@leveros/operator/kube/kube-transport.ts";
import { runtimeClock } from "@leveros/protocol/clock/runtime-clock.ts";
import { type WebSocket, WebSocketServer } from "ws";

/** What the API server says no to, and how. */
export type Refusal = (method: string, path: string) => number | undefined;

export class KubeServer implements Disposable {
  readonly api = new ApiServer(runtimeClock(globalThis));
  readonly kubeconfig: string;
  refusal: Refusal = () => undefined;
  /** By path of the request: what is no collection of objects. */
  readonly answers = new Map<string, (body: unknown) => unknown>();
  /** `namespace/pod:port` → port of this machine. */
  readonly ports = new Map<string, number>();
  /** Open ones, by the pod's name. */
  readonly forwards: { readonly pod: string; readonly socket: WebSocket }[] = [];
  readonly #server: http.Server;
  readonly #directory: string;
  readonly #sockets = new Set<Socket>();

  private constructor(server: http.Server) {
    this.#server = server;
    this.#directory = mkdtempSync(path.join(tmpdir(), "lever-kube-"));
    this.kubeconfig = path.join(this.#directory, "config");
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const context = { cluster: "test", user: "test", namespace: "shop" };
    writeFileSync(
      this.kubeconfig,
      JSON.stringify({
        apiVersion: "v1",
        kind: "Config",
        "current-context": "test",
        clusters: [{ name: "test", cluster: { server: url, "insecure-skip-tls-verify": true } }],
        users: [{ name: "test", user: { token: "secret" } }],
        contexts: [
          { name: "test", context },
          { name: "away", context: { ...context, cluster: "away" } },
        ],
      }),
    );
    server.on("request", (request, response) => void this.#serve(request, response));
    server.on("connection", (socket) => {
      this.#sockets.add(socket);
      socket.on("close", () => this.#sockets.delete(socket));
    });
    const webSockets = new WebSocketServer({
      noServer: true,
      handleProtocols: (offered) => offered.has("v4.channel.k8s.io") && "v4.channel.k8s.io",
    });
    server.on("upgrade", (request, socket, head) => {
      const { pathname, searchParams } = new URL(request.url ?? "", url);
      const [, namespace = "", pod = ""] = /namespaces\/([^/]+)\/pods\/([^/]+)\/portforward$/.exec(pathname) ?? [];
      const status = this.#refused("POST", pathname) ?? (this.api.object(pods, namespace, pod) ? undefined : 404);
      if (status !== undefined) {
        const body = JSON.stringify(statusObject(status, `no port-forward to ${pod}`));
        socket.end(
          `HTTP/1.1 ${status} No\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\nconnection: close\r\n\r\n${body}`,
        );
        return;
      }
      webSockets.handleUpgrade(request, socket, head, (webSocket) => {
        this.#forward(webSocket, namespace, pod, Number(searchParams.get("ports")));
      });
    });
  }

  static async start(): Promise<KubeServer> {
    const server = http.createServer();
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    return new KubeServer(server);
  }

  /** A pod that is ready, with `port` of this machine as its 3839. */
  pod(namespace: string, name: string, labels: Readonly<Record<string, string>>, port?: number, isReady = true): void {
    const agent = { name: "lever-agent", started: true, ready: isReady };
    this.api.put(pods, {
      metadata: { namespace, name, labels },
      spec: { initContainers: [{ name: "lever-agent" }], containers: [{ name: "app" }] },
      status: {
        phase: "Running",
        conditions: [{ type: "Ready", status: isReady ? "True" : "False" }],
        initContainerStatuses: [agent],
      },
    } as KubeObject);
    if (port !== undefined) this.ports.set(`${namespace}/${name}:3839`, port);
  }

  operatorDeployment(namespace = "lever-system"): void {
    this.api.put(deployments, {
      metadata: { namespace, name: "lever-operator" },
      spec: { replicas: 2, selector: { matchLabels: { app: "lever-operator" } } },
    } as KubeObject);
  }

  /** As a pod that ends. */
  cut(pod: string): void {
    for (const forward of this.forwards) if (forward.pod === pod) forward.socket.terminate();
  }

  /** Nobody answers any more. */
  stop(): void {
    for (const { socket } of this.forwards) socket.terminate();
    for (const socket of this.#sockets) socket.destroy();
    this.#server.close();
  }

  [Symbol.dispose](): void {
    this.stop();
    rmSync(this.#directory, { recursive: true, force: true });
  }

  #refused(method: string, path: string): number | undefined {
    return this.refusal(method, path);
  }

  async #serve(incoming: http.IncomingMessage, outgoing: http.ServerResponse): Promise<void> {
    const chunks: Buffer[] = [];
    for await (const chunk of incoming) chunks.push(chunk as Buffer);
    const body = Buffer.concat(chunks).toString("utf8");
    const { method = "GET", url = "" } = incoming;
    const [pathname = ""] = url.split("?");
    const answer = (status: number, content: unknown) => {
      outgoing.writeHead(status, { "content-type": "application/json" });
      outgoing.end(JSON.stringify(content));
    };
    const status = this.#refused(method, pathname);
    if (status !== undefined) return answer(status, statusObject(status, `no ${method} ${pathname}`));
    const own = this.answers.get(`${method} ${pathname}`);
    if (own !== undefined) return answer(200, own(body === "" ? undefined : JSON.parse(body)));
    const request: KubeRequest = {
      method: method as KubeRequest["method"],
      path: url,
      headers: incoming.headers as Record<string, string>,
      ...(body !== "" && { body }),
    };
    const { status: code, chunks: parts } = await this.api.transport().send(request, new AbortController().signal);
    outgoing.writeHead(code, { "content-type": "application/json" });
    for await (const part of parts) outgoing.write(part);
    outgoing.end();
  }

  #forward(webSocket: WebSocket, namespace: string, pod: string, port: number): void {
    this.forwards.push({ pod, socket: webSocket });
    const begin = Buffer.alloc(3);
    begin.writeUInt16LE(port, 1);
    for (const channel of [0, 1]) {
      begin[0] = channel;
      webSocket.send(Buffer.from(begin));
    }
    const socket = connect({ host: "127.0.0.1", port: this.ports.get(`${namespace}/${pod}:${port}`) ?? 1 });
    socket.on("data", (chunk) => {
      webSocket.send(Buffer.concat([Uint8Array.of(0), chunk]), () => socket.resume());
      socket.pause();
    });
    webSocket.on("message", (data: Buffer) => {
      if (data[0] !== 0) return;
      if (!socket.write(data.subarray(1))) {
        webSocket.pause();
        socket.once("drain", () => webSocket.resume());
      }
    });
    socket.on("error", (error) => {
      const text = `error forwarding port ${port} to pod ${pod}: ${error.message}`;
      webSocket.send(Buffer.concat([Uint8Array.of(1), Buffer.from(text)]));
    });
    socket.on("close", () => webSocket.close());
    webSocket.on("close", () => socket.destroy());
  }
}

function statusObject(code: number, message: string): unknown {
  return { kind: "Status", apiVersion: "v1", status: "Failure", code, message };
}
