/**
 * The HTTP interface: `POST /<service>[/<resource>]/<method>` with a JSON array or bytes. `docs/http.md` describes it.
 *
 * It owns what HTTP has and Lever has not: paths, content types, status codes, the end of a connection. A request
 * becomes an ordinary call of a client session with the gateway's agent.
 */

import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import type { Agent } from "@leveros/agent/core/agent.ts";
import type { Clock } from "@leveros/protocol/clock/clock.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { decodePayload, type Encoded, encodeArgs } from "@leveros/protocol/value/form.ts";
import express, { type NextFunction, type Request, type Response } from "express";
import { Counter, Histogram, type Registry } from "prom-client";
import { DoorSession } from "./door-session.ts";
import { exchange } from "./exchange.ts";
import { sendError } from "./problem.ts";
import { requestOptions } from "./request-options.ts";
import { requestTarget, type TargetRules } from "./request-target.ts";

export interface HttpDoorOptions extends TargetRules {
  readonly host: string;
  readonly port: number;
  readonly agent: Agent;
  readonly clock: Clock;
  readonly registry: Registry;
  readonly corsOrigins: readonly string[];
  readonly bodyBytesMax?: number;
}

export interface HttpDoor {
  readonly port: number;
  close(): void;
}

export const bodyBytesMaxDefault = 512 * 1024;

const exposedHeaders = "lever-kind, lever-code, lever-reason, lever-effect, traceparent";

/** Rejects with the system's error when the port cannot be had. */
export function startHttpDoor(options: HttpDoorOptions): Promise<HttpDoor> {
  const session = new DoorSession(options.agent, options.clock);
  const bodyBytesMax = options.bodyBytesMax ?? bodyBytesMaxDefault;
  const requests = new Counter({
    name: "lever_gateway_http_requests_total",
    help: "HTTP requests, by status.",
    labelNames: ["status"],
    registers: [options.registry],
  });
  const durations = new Histogram({
    name: "lever_gateway_http_request_duration_seconds",
    help: "Time from an HTTP request's headers to the end of its answer.",
    registers: [options.registry],
  });

  const app = express();
  app.disable("x-powered-by");
  app.disable("etag");
  app.use((request: Request, response: Response, next: NextFunction) => {
    const startedAt = options.clock.now();
    response.once("close", () => {
      requests.inc({ status: response.writableFinished ? String(response.statusCode) : "aborted" });
      durations.observe((options.clock.now() - startedAt) / 1000);
    });
    const { origin } = request.headers;
    if (origin !== undefined && (options.corsOrigins.includes("*") || options.corsOrigins.includes(origin))) {
      response.setHeader("access-control-allow-origin", options.corsOrigins.includes("*") ? "*" : origin);
      response.setHeader("vary", "origin");
      response.setHeader("access-control-expose-headers", exposedHeaders);
    }
    next();
  });
  app.use(async (request: Request, response: Response) => {
    try {
      await answer(request, response);
    } catch (error) {
      sendError(response, error);
    }
  });

  async function answer(request: Request, response: Response): Promise<void> {
    // As it came in: express would decode what a resource needs encoded.
    const rawUrl = request.originalUrl;
    if (request.method === "OPTIONS") return preflight(request, response);
    if (rawUrl === "/" && (request.method === "GET" || request.method === "HEAD")) {
      response
        .type("text/plain")
        .send("This is a Lever gateway. POST /<service>/<method> with a JSON array of arguments.\n");
      return;
    }
    const { target, resource } = requestTarget(rawUrl, request.headers.host, options);
    if (request.method !== "POST") {
      response.setHeader("allow", "POST, OPTIONS");
      throw new LeverError(
        "HTTP_METHOD_NOT_ALLOWED",
        `${request.method} on the method ${target.text}: methods are called with POST, as in ` +
          `curl 'http://${request.headers.host ?? "localhost"}${rawUrl}' -H 'content-type: application/json' -d '[]'.`,
      );
    }
    const call = requestOptions(request.headers, resource);
    response.setHeader("traceparent", call.traceparent);
    // A caller that goes away cancels its call.
    const gone = new AbortController();
    response.once("close", () => {
      if (!response.writableFinished) gone.abort(new Error("the HTTP client has gone"));
    });
    const outgoing = { timeoutMs: call.timeoutMs, fields: call.fields, signal: gone.signal };
    const form = contentForm(request.headers["content-type"]);
    if (form === "ndjson") {
      if (!target.isStreaming) {
        throw new LeverError(
          "METHOD_KIND_MISMATCH",
          `${target.method} is no streaming method; call it with content-type application/json or application/octet-stream`,
        );
      }
      return exchange(request, response, session, target, outgoing, bodyBytesMax, options.clock);
    }
    if (target.isStreaming) {
      throw new LeverError(
        "METHOD_KIND_MISMATCH",
        `${target.method} is a streaming method; send content-type application/x-ndjson with the arguments as the first ` +
          "line, or use a client library",
      );
    }
    const body = await readBody(request, bodyBytesMax);
    const args = form === "bytes" ? ({ bytes: body, form: "bytes" } as const) : jsonArguments(body);
    sendResult(response, await session.call(target, args, outgoing));
  }

  function preflight(request: Request, response: Response): void {
    response.setHeader("allow", "POST, OPTIONS");
    if (response.getHeader("access-control-allow-origin") !== undefined) {
      response.setHeader("access-control-allow-methods", "POST");
      const wanted = request.headers["access-control-request-headers"];
      if (wanted !== undefined) response.setHeader("access-control-allow-headers", wanted);
      response.setHeader("access-control-max-age", "600");
    }
    response.status(204).end();
  }

  const server = createServer({ headersTimeout: 10_000, requestTimeout: 120_000, maxHeaderSize: 32 * 1024 }, app);
  server.maxHeadersCount = 200;
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen({ host: options.host, port: options.port }, () => {
      server.off("error", reject);
      resolve({
        port: (server.address() as AddressInfo).port,
        close: () => {
          server.close();
          server.closeAllConnections();
        },
      });
    });
  });
}

type ContentForm = "json" | "bytes" | "ndjson";

function contentForm(header: string | undefined): ContentForm {
  const type = header?.split(";")[0]?.trim().toLowerCase();
  switch (type) {
    case undefined:
    case "":
    case "application/json":
      return "json";
    case "application/octet-stream":
      return "bytes";
    case "application/x-ndjson":
      return "ndjson";
    default:
      throw new LeverError(
        "CONTENT_TYPE_UNSUPPORTED",
        `content-type is ${JSON.stringify(type.slice(0, 100))}, which is not taken.`,
      );
  }
}

/** The whole body. Throws ARGS_TOO_LARGE as soon as it is known to be too large. */
async function readBody(request: Request, bytesMax: number): Promise<Uint8Array> {
  const tooLarge = () =>
    new LeverError("ARGS_TOO_LARGE", `the body is larger than ${bytesMax} bytes, the gateway's limit.`, {
      details: { limit: "bodyBytes", bytesMax },
    });
  if (Number(request.headers["content-length"] ?? 0) > bytesMax) throw tooLarge();
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request) {
    bytes += (chunk as Buffer).length;
    if (bytes > bytesMax) throw tooLarge();
    chunks.push(chunk as Buffer);
  }
  return Buffer.concat(chunks, bytes);
}

/** No body is no arguments. Throws BODY_INVALID. */
export function jsonArguments(body: Uint8Array): Encoded {
  if (body.length === 0) return encodeArgs([]);
  return encodeArgs(parseArguments(new TextDecoder().decode(body), "the body"));
}

export function parseArguments(text: string, where: string): unknown[] {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new LeverError("BODY_INVALID", `${where} is no JSON: ${(error as Error).message}.`);
  }
  if (Array.isArray(value)) return value;
  const found = value === null ? "null" : typeof value === "object" ? "an object" : `a ${typeof value}`;
  throw new LeverError("BODY_INVALID", `${where} is ${found}, expected a JSON array of the arguments.`);
}

function sendResult(response: Response, result: Encoded): void {
  if (result.form === "bytes") {
    response.setHeader("content-type", "application/octet-stream");
    response.end(result.bytes);
    return;
  }
  response.setHeader("content-type", "application/json");
  response.end(JSON.stringify(decodePayload(result.bytes, result.form)));
}
