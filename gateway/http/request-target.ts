/** Which method a request means: from its request target as it came in, its host and `?forceenv=`. */

import { operatorEnvironment } from "@leveros/protocol/control/discovery.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { parseUrl } from "@leveros/protocol/target/lever-url.ts";
import { Target } from "@leveros/protocol/target/target.ts";
import { textOfLatin1 } from "./byte-text.ts";

export interface RequestTarget {
  readonly target: Target;
  readonly resource: string | undefined;
}

export interface TargetRules {
  /** The environment of requests that name none. */
  readonly defaultEnvironment?: string;
  /** Hosts (in lower case, without a port) that stand for environments. */
  readonly environmentOfHost?: Readonly<Record<string, string>>;
  /** `?forceenv=` is honoured; where it is not, it is refused. */
  readonly allowForceEnv: boolean;
}

/** What a request line and Host say, apart. */
export interface RequestPlace {
  /** As it came in: not decoded, not normalised. */
  readonly path: string;
  /** Without the `?`. */
  readonly query: string;
  /** In lower case, without a port. */
  readonly host: string;
}

const environmentPattern = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;
const environmentRule = "an environment: 1 to 63 of a-z, 0-9 and -, not beginning or ending with -";
const shownCharsMax = 200;

/** `rawUrl` is the request line's. Its own host, as proxies send it, is stronger than the header's (RFC 9112, 3.2.2). */
export function requestPlace(rawUrl: string, hostHeader: string | undefined): RequestPlace {
  const absolute = /^https?:\/\/([^/?#]*)/i.exec(rawUrl);
  const rest = absolute === null ? rawUrl : rawUrl.slice(absolute[0].length);
  const authority = absolute?.[1] ?? hostHeader ?? "";
  const question = rest.indexOf("?");
  const path = question < 0 ? rest : rest.slice(0, question);
  return {
    path: path === "" ? "/" : path,
    query: question < 0 ? "" : rest.slice(question + 1),
    host: authority.replace(/:\d*$/, "").replace(/\.$/, "").toLowerCase(),
  };
}

/** Throws HTTP_PATH_INVALID, INVALID_URL (with `details.part`) or INVALID_OPTION (for the query). */
export function requestTarget({ path, query, host }: RequestPlace, rules: TargetRules): RequestTarget {
  const environment = environmentOf(query, host, rules);
  if (!path.startsWith("/") || path.indexOf("/", 1) < 0) {
    throw new LeverError(
      "HTTP_PATH_INVALID",
      `the path ${shown(path)} names no method, expected /<service>[/<resource>]/<method>`,
    );
  }
  const text = textOfLatin1(path);
  if (text === undefined) {
    throw new LeverError("INVALID_URL", "the URL's path has bytes that are not UTF-8; expected it percent-encoded", {
      details: { part: "resource" },
    });
  }
  const url = parseUrl(`lever://${environment}${text}`);
  return { target: new Target(environment, url.service, url.method), resource: url.resource };
}

function environmentOf(query: string, host: string, rules: TargetRules): string {
  const forced = forcedEnvironment(query, rules.allowForceEnv);
  const hosts = rules.environmentOfHost;
  if (hosts !== undefined && Object.hasOwn(hosts, host)) return hosts[host] as string;
  const environment = forced ?? rules.defaultEnvironment;
  if (environment !== undefined) return environment;
  throw new LeverError(
    "HTTP_PATH_INVALID",
    `the host ${shown(host)} stands for no environment, and this gateway has no default one`,
  );
}

/** A parameter that is not known is refused: a misspelt `forceenv` must not reach the default environment. */
function forcedEnvironment(query: string, isAllowed: boolean): string | undefined {
  if (query === "") return undefined;
  let forced: string | undefined;
  for (const [name, value] of new URLSearchParams(query)) {
    if (name !== "forceenv") {
      throw new LeverError("INVALID_OPTION", `the query has ${shown(name)}, expected forceenv or no query`);
    }
    if (!isAllowed) {
      throw new LeverError(
        "INVALID_OPTION",
        "forceenv is not allowed at this gateway; send the request to the host of the environment",
      );
    }
    if (forced !== undefined) throw new LeverError("INVALID_OPTION", "forceenv is there twice, expected it once");
    if (!environmentPattern.test(value)) {
      throw new LeverError("INVALID_OPTION", `forceenv is ${shown(value)}, expected ${environmentRule}`);
    }
    if (value === operatorEnvironment) {
      // Any page that a browser shows could call it here.
      throw new LeverError(
        "INVALID_OPTION",
        `forceenv is ${operatorEnvironment}, Lever's own environment, which is not called over HTTP; use the lever command`,
      );
    }
    forced = value;
  }
  return forced;
}

function shown(text: string): string {
  return JSON.stringify(text.length > shownCharsMax ? `${text.slice(0, shownCharsMax)}…` : text);
}

export function isEnvironment(text: string): boolean {
  return environmentPattern.test(text);
}
