/** Which method a request means: from its path as it came in, its host and `?forceenv=`. */

import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { parseUrl } from "@leveros/protocol/target/lever-url.ts";
import { Target } from "@leveros/protocol/target/target.ts";

export interface RequestTarget {
  readonly target: Target;
  readonly resource: string | undefined;
}

export interface TargetRules {
  readonly defaultEnvironment?: string;
  readonly environmentOfHost?: Readonly<Record<string, string>>;
  readonly allowForceEnv: boolean;
}

/** `rawUrl` is the request line's: not decoded, not normalised. Throws HTTP_PATH_INVALID or INVALID_URL. */
export function requestTarget(rawUrl: string, host: string | undefined, rules: TargetRules): RequestTarget {
  const question = rawUrl.indexOf("?");
  const path = question < 0 ? rawUrl : rawUrl.slice(0, question);
  const query = new URLSearchParams(question < 0 ? "" : rawUrl.slice(question + 1));
  const environment = environmentOf(query, host, rules);
  if (path.split("/").length < 3 || !path.startsWith("/")) {
    throw new LeverError(
      "HTTP_PATH_INVALID",
      `the path ${JSON.stringify(path.slice(0, 200))} names no method, expected /<service>[/<resource>]/<method>`,
    );
  }
  const url = parseUrl(`lever://${environment}${path}`);
  return { target: new Target(environment, url.service, url.method), resource: url.resource };
}

function environmentOf(query: URLSearchParams, host: string | undefined, rules: TargetRules): string {
  const name = host?.replace(/:\d+$/, "").toLowerCase();
  const hosts = rules.environmentOfHost;
  const configured = name !== undefined && hosts !== undefined && Object.hasOwn(hosts, name) ? hosts[name] : undefined;
  if (configured !== undefined) return configured;
  const forced = query.get("forceenv");
  if (forced !== null && rules.allowForceEnv) {
    if (/^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/.test(forced)) return forced;
    throw new LeverError(
      "INVALID_URL",
      `forceenv is ${JSON.stringify(forced.slice(0, 200))}, expected an environment: 1 to 63 of a-z, 0-9 and -`,
    );
  }
  if (rules.defaultEnvironment !== undefined) return rules.defaultEnvironment;
  throw new LeverError(
    "HTTP_PATH_INVALID",
    `the host ${JSON.stringify(name ?? "")} stands for no environment, and there is no default` +
      `${forced === null ? "" : "; forceenv is not allowed here"}`,
  );
}
