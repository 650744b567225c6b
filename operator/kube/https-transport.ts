/**
 * HTTP to the API server of a kubeconfig's current context.
 *
 * The client library gives credentials and certificates, anew for each request, since tokens and CAs change. Connections
 * are kept here: the library's agents make one, with its TLS handshake, for each request. HTTP/1.1: a request that
 * hangs holds up no other one.
 */

import http from "node:http";
import https from "node:https";
import type { KubeConfig } from "@kubernetes/client-node";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import type { KubeRequest, KubeResponse, KubeTransport } from "./kube-transport.ts";

/** The first probe of a silent connection; after this and ten probes, a second apart, it is dead. */
const keepAliveProbeMs = 15_000;
const idleSocketsMax = 16;

export class HttpsTransport implements KubeTransport {
  readonly #config: KubeConfig;
  readonly #server: URL;
  readonly #agent: http.Agent | undefined;

  /** Throws INVALID_OPTION if the config names no cluster. */
  constructor(config: KubeConfig) {
    const cluster = config.getCurrentCluster();
    if (cluster === null) {
      throw new LeverError(
        "INVALID_OPTION",
        `the kubeconfig's current context ${JSON.stringify(config.getCurrentContext())} names no cluster; ` +
          "choose another context",
      );
    }
    this.#config = config;
    this.#server = new URL(cluster.server);
    const options = { keepAlive: true, keepAliveMsecs: keepAliveProbeMs, maxFreeSockets: idleSocketsMax };
    // Through a proxy it has to be the library's.
    if (!cluster.proxyUrl) {
      this.#agent = this.#server.protocol === "https:" ? new https.Agent(options) : new http.Agent(options);
    }
  }

  async send(request: KubeRequest, signal: AbortSignal): Promise<KubeResponse> {
    const options: https.RequestOptions = {};
    await this.#config.applyToHTTPSOptions(options);
    if (this.#agent !== undefined) options.agent = this.#agent;
    const { protocol, hostname, port, pathname } = this.#server;
    const { method, path, headers, body } = request;
    const send = protocol === "https:" ? https.request : http.request;
    return await new Promise((resolve, reject) => {
      const sent = send({
        ...options,
        protocol,
        // Without the brackets of an IPv6 address.
        hostname: hostname.replace(/^\[|\]$/g, ""),
        port,
        method,
        path: pathname.replace(/\/$/, "") + path,
        headers: {
          ...options.headers,
          ...headers,
          ...(body !== undefined && { "content-length": Buffer.byteLength(body) }),
        },
        signal,
      });
      sent.on("error", reject);
      sent.on("socket", (socket) => {
        socket.setKeepAlive(true, keepAliveProbeMs);
        socket.setNoDelay(true);
      });
      sent.on("response", (response) => {
        resolve({
          status: response.statusCode ?? 0,
          retryAfter: response.headers["retry-after"],
          date: response.headers.date,
          chunks: response,
        });
      });
      sent.end(body);
    });
  }

  close(): void {
    this.#agent?.destroy();
  }
}
