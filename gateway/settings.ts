/** The gateway's configuration by environment variables, as its container has it. `docs/http.md` has the table. */

import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import type { GatewayOptions } from "./gateway.ts";
import { isEnvironment } from "./http/request-target.ts";

export interface GatewaySettings {
  readonly gateway: GatewayOptions;
  /** How long running requests may take to end after SIGTERM. */
  readonly drainTimeoutMs: number;
}

type Variables = Readonly<Record<string, string | undefined>>;

const argsBytesMax = 16 * 1024 * 1024;

/** Throws INVALID_OPTION, naming the variable, what it is and what is expected. */
export function gatewaySettings(variables: Variables): GatewaySettings {
  const operator = required(variables, "LEVER_OPERATOR", "host:port of the operator's discovery");
  if (!/^(\[[0-9a-fA-F:.]+\]|[^:\s]+):\d{1,5}$/.test(operator)) {
    throw invalid("LEVER_OPERATOR", operator, "host:port of the operator's discovery");
  }
  const defaultEnvironment = text(variables, "LEVER_DEFAULT_ENVIRONMENT");
  if (defaultEnvironment !== undefined && !isEnvironment(defaultEnvironment)) {
    throw invalid("LEVER_DEFAULT_ENVIRONMENT", defaultEnvironment, "an environment: 1 to 63 of a-z, 0-9 and -");
  }
  const tokenFile = text(variables, "LEVER_TOKEN_FILE");
  const trustFile = text(variables, "LEVER_TRUST_FILE");
  if ((tokenFile === undefined) !== (trustFile === undefined)) {
    const [missing, other] = tokenFile === undefined ? ["TOKEN", "TRUST"] : ["TRUST", "TOKEN"];
    throw new LeverError("INVALID_OPTION", `LEVER_${missing}_FILE is not set, expected a file: LEVER_${other}_FILE is`);
  }
  const instance = text(variables, "LEVER_INSTANCE");
  const zone = text(variables, "LEVER_ZONE");
  return {
    gateway: {
      operator,
      host: text(variables, "LEVER_HOST") ?? "0.0.0.0",
      httpPort: whole(variables, "LEVER_HTTP_PORT", 0, 65_535, 8080),
      port: whole(variables, "LEVER_PORT", 0, 65_535, 3837),
      adminPort: whole(variables, "LEVER_ADMIN_PORT", 0, 65_535, 3838),
      portNames: { http: "LEVER_HTTP_PORT", native: "LEVER_PORT", admin: "LEVER_ADMIN_PORT" },
      ...(defaultEnvironment === undefined ? {} : { defaultEnvironment }),
      environmentOfHost: hosts(variables, "LEVER_ENVIRONMENT_HOSTS"),
      allowForceEnv: flag(variables, "LEVER_ALLOW_FORCE_ENV"),
      corsOrigins: origins(variables, "LEVER_CORS_ORIGINS"),
      bodyBytesMax: whole(variables, "LEVER_BODY_BYTES_MAX", 1, argsBytesMax, 512 * 1024),
      ...(instance === undefined ? {} : { instance }),
      ...(tokenFile === undefined || trustFile === undefined ? {} : { identityFiles: { tokenFile, trustFile } }),
      ...(zone === undefined ? {} : { zone }),
    },
    drainTimeoutMs: whole(variables, "LEVER_DRAIN_TIMEOUT_MS", 0, 3_600_000, 25_000),
  };
}

/** Set and not empty, as a manifest with a left-out value has it. */
function text(variables: Variables, name: string): string | undefined {
  const value = variables[name]?.trim();
  return value === "" ? undefined : value;
}

function required(variables: Variables, name: string, expected: string): string {
  const value = text(variables, name);
  if (value === undefined) throw new LeverError("INVALID_OPTION", `${name} is not set, expected ${expected}`);
  return value;
}

function whole(variables: Variables, name: string, min: number, max: number, fallback: number): number {
  const value = text(variables, name);
  if (value === undefined) return fallback;
  const number = Number(value);
  if (/^\d{1,10}$/.test(value) && number >= min && number <= max) return number;
  throw invalid(name, value, `a whole number from ${min} to ${max}`);
}

function flag(variables: Variables, name: string): boolean {
  const value = text(variables, name) ?? "false";
  if (value === "true" || value === "false") return value === "true";
  throw invalid(name, value, "true or false");
}

function list(variables: Variables, name: string): string[] {
  return (text(variables, name) ?? "")
    .split(",")
    .map((entry) => entry.trim())
    .filter((entry) => entry !== "");
}

/** `https://app.example.org,https://admin.example.org`, or `*`. */
function origins(variables: Variables, name: string): string[] {
  const entries = list(variables, name);
  for (const entry of entries) {
    // As browsers send it: scheme, host and port, in lower case, without a path.
    if (entry === "*" || entry === "null") continue;
    if (!URL.canParse(entry) || new URL(entry).origin !== entry) {
      throw invalid(name, entry, "origins such as https://app.example.org, or *, separated by commas");
    }
  }
  return entries;
}

/** `shop.example.org=shop,blog.example.org=blog` */
function hosts(variables: Variables, name: string): Record<string, string> {
  const environments: Record<string, string> = Object.create(null) as Record<string, string>;
  for (const entry of list(variables, name)) {
    const [host = "", environment = "", ...rest] = entry.split("=");
    if (!/^[a-z0-9.-]+$/.test(host) || !isEnvironment(environment) || rest.length > 0) {
      throw invalid(name, entry, "host=environment (in lower case, without a port), separated by commas");
    }
    if (Object.hasOwn(environments, host)) throw invalid(name, entry, "each host once");
    environments[host] = environment;
  }
  return environments;
}

function invalid(name: string, value: string, expected: string): LeverError {
  return new LeverError("INVALID_OPTION", `${name} is ${JSON.stringify(value.slice(0, 200))}, expected ${expected}`);
}
