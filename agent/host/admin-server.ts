/** The admin port of every process: `/metrics`, `/livez`, `/readyz`, and beside an app the hook that drains it. */

import { createHash, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";
import type { Registry } from "prom-client";

export interface AdminOptions {
  readonly host: string;
  /** 0 gives a free one. */
  readonly port: number;
  readonly registry: Registry;
  /** Undefined when ready, else why not. */
  whyNotReady(): string | undefined;
  /**
   * `/drain/<token>` begins to drain and answers when that has come to an end: what a container's `preStop` waits for.
   * Whoever does not know the token finds nothing there.
   */
  readonly drainHook?: { readonly token: string; drain(): Promise<void> };
}

export interface AdminServer {
  readonly port: number;
  close(): void;
}

/** Rejects with the system's error when the port cannot be had. */
export function startAdminServer(options: AdminOptions): Promise<AdminServer> {
  const server = createServer((request, response) => {
    const answer = (status: number, text: string, type = "text/plain; charset=utf-8") => {
      response.writeHead(status, { "content-type": type });
      response.end(request.method === "HEAD" ? undefined : text);
    };
    if (request.method !== "GET" && request.method !== "HEAD") return answer(405, "only GET\n");
    const path = request.url?.split("?")[0] ?? "";
    if (options.drainHook !== undefined && isDrainOf(options.drainHook.token, path)) {
      if (request.method !== "GET") return answer(405, "only GET\n");
      options.drainHook.drain().then(
        () => answer(200, "drained\n"),
        (error: unknown) => answer(500, `${error instanceof Error ? error.message : String(error)}\n`),
      );
      return;
    }
    switch (path) {
      case "/metrics":
        options.registry.metrics().then(
          (text) => answer(200, text, options.registry.contentType),
          (error: unknown) => answer(500, `${error instanceof Error ? error.message : String(error)}\n`),
        );
        return;
      case "/livez":
        return answer(200, "ok\n");
      case "/readyz": {
        const why = options.whyNotReady();
        return why === undefined ? answer(200, "ok\n") : answer(503, `${why}\n`);
      }
      default:
        return answer(404, "there is /metrics, /livez and /readyz\n");
    }
  });
  // Of requests, not of answers: a drain takes as long as it does.
  server.headersTimeout = 5000;
  server.requestTimeout = 5000;
  server.maxConnections = 64;
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen({ host: options.host, port: options.port }, () => {
      server.off("error", reject);
      // A connection that cannot be accepted is its client's loss.
      server.on("error", () => {});
      const address = server.address();
      resolve({
        port: typeof address === "object" && address !== null ? address.port : options.port,
        close: () => {
          server.close();
          server.closeAllConnections();
        },
      });
    });
  });
}

const drainPath = "/drain/";

/** In a time that does not depend on how much of the token is right. */
function isDrainOf(token: string, path: string): boolean {
  if (token === "" || !path.startsWith(drainPath)) return false;
  const digest = (text: string) => createHash("sha256").update(text).digest();
  return timingSafeEqual(digest(path.slice(drainPath.length)), digest(token));
}
