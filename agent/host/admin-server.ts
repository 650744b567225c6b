/**
 * The admin port of every process: `/metrics`, `/livez`, `/readyz`, and beside an app the hook that drains it.
 *
 * Whatever reaches the pod may connect here. Invariant: who only holds connections keeps no probe out; when there are too
 * many, the oldest on which nothing is to be answered is closed.
 */

import { createHash, timingSafeEqual } from "node:crypto";
import { createServer, type Server } from "node:http";
import type { Socket } from "node:net";
import { Places } from "@leveros/protocol/session/places.ts";
import type { Registry } from "prom-client";
import { listenOn } from "./socket.ts";

/** Connections, and those of one address: one more closes the oldest of them that waits for no answer. */
export const adminConnectionLimits = { max: 64, ofKeyMax: 16 };
/** How long a request may take to arrive. */
export const adminRequestMsMax = 5000;

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
  // Of requests, not of answers: a drain takes as long as it does. Node looks for late ones at this interval only.
  const times = {
    headersTimeout: adminRequestMsMax,
    requestTimeout: adminRequestMsMax,
    connectionsCheckingInterval: 1000,
  };
  const server = createServer(times, (request, response) => {
    const isAnswered = waits(request.socket);
    const answer = (status: number, text: string, type = "text/plain; charset=utf-8") => {
      // Who does not read its answer is not waited for.
      isAnswered();
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
  const waits = limitConnections(server);
  return listenOn(server, options.host, options.port, () => {
    server.close();
    server.closeAllConnections();
  });
}

/** Gives what is to be told of each request, and what that gives once there is an answer. */
function limitConnections(server: Server): (socket: Socket) => () => void {
  const places = new Places<Socket>(adminConnectionLimits);
  /** How many answers each of them waits for. */
  const waiting = new WeakMap<Socket, number>();
  const add = (socket: Socket, count: number) => void waiting.set(socket, (waiting.get(socket) ?? 0) + count);
  server.on("connection", (socket) => {
    const address = socket.remoteAddress ?? "";
    const taken = places.inTheWayOf(address);
    if (taken !== undefined) {
      const idle = [...taken.holders].find((holder) => (waiting.get(holder) ?? 0) === 0);
      (idle ?? socket).destroy();
      if (idle === undefined) return;
      places.free(idle);
    }
    places.take(address, socket);
    socket.once("close", () => places.free(socket));
  });
  return (socket) => {
    add(socket, 1);
    return () => add(socket, -1);
  };
}

const drainPath = "/drain/";

/** In a time that does not depend on how much of the token is right. */
function isDrainOf(token: string, path: string): boolean {
  if (token === "" || !path.startsWith(drainPath)) return false;
  const digest = (text: string) => createHash("sha256").update(text).digest();
  return timingSafeEqual(digest(path.slice(drainPath.length)), digest(token));
}
