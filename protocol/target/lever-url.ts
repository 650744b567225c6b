/**
 * Lever URLs: `lever://<environment>[:port]/<service>[/<resource>]/<method>`, or relative to the caller's environment
 * `/<service>[/<resource>]/<method>`.
 *
 * Invariant: `parseUrl` and `printUrl` are inverse to each other. The resource is all that lies between the first and
 * the last slash of the path, so slashes inside and at its end need no escape: `lever://dev/chat/room-7//joinChan` has
 * the resource `room-7/`. The canonical print escapes, as UTF-8 in upper-case hex, each character of the resource but
 * `/` and RFC 3986's unreserved ones (A-Z a-z 0-9 - . _ ~). Dot segments have no meaning: `..` is a name like any.
 *
 * Whether a service or method of that name exists is not looked at here.
 */

import { LeverError } from "../error/lever-error.ts";

export interface LeverUrl {
  /** A DNS label (RFC 1123, lower case); undefined in a relative URL. */
  readonly environment: string | undefined;
  /** 1 to 65535, only together with an environment. */
  readonly port: number | undefined;
  /** A DNS label. */
  readonly service: string;
  /** 1 to 1,024 bytes as UTF-8, any characters; undefined where the URL names none. */
  readonly resource: string | undefined;
  /** `[A-Za-z_$][A-Za-z0-9_$]*`, at most 128 characters. */
  readonly method: string;
}

export interface ParseUrlOptions {
  /** Whether `:port` is legal: only for a client without an agent, where it is the gateway's native port. */
  readonly allowPort?: boolean | undefined;
}

/** The part of a URL that an INVALID_URL blames, in its `details.part`. */
export type UrlPart =
  | "url"
  | "scheme"
  | "environment"
  | "port"
  | "service"
  | "resource"
  | "method"
  | "query"
  | "fragment";

/** The most characters of a URL: every legal one fits, with a resource of 1,024 escaped bytes. */
export const urlCharsMax = 4096;
export const resourceBytesMax = 1024;
export const methodCharsMax = 128;

const dnsLabel = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;
const methodName = /^[A-Za-z_$][A-Za-z0-9_$]{0,127}$/;
const portNumber = /^[1-9][0-9]{0,4}$/;
const dnsLabelRule = "1 to 63 of a-z, 0-9 and -, not beginning or ending with -";
const methodRule = "a letter, _ or $, then letters, digits, _ or $, at most 128 characters";

const textEncoder = new TextEncoder();

/**
 * Raises INVALID_URL (with `details.part`) for whatever is not a Lever URL, and nothing else.
 *
 * Characters beyond ASCII may stand unescaped in the resource; ASCII ones that RFC 3986 does not allow in a path may
 * not.
 */
export function parseUrl(text: string, options: ParseUrlOptions = {}): LeverUrl {
  if (typeof text !== "string") refuse("url", `is ${text === null ? "null" : `a ${typeof text}`}`, "text");
  if (text.length > urlCharsMax) refuse("url", `has ${text.length} characters`, `at most ${urlCharsMax}`);
  const fragment = text.indexOf("#");
  if (fragment !== -1) refuse("fragment", show(text.slice(fragment)), "none; escape # as %23 in a resource");
  const query = text.indexOf("?");
  if (query !== -1) refuse("query", show(text.slice(query)), "none; escape ? as %3F in a resource");

  let environment: string | undefined;
  let port: number | undefined;
  let path = text;
  if (!text.startsWith("/")) {
    if (!/^lever:\/\//i.test(text)) {
      const found = /^[a-z][a-z0-9+.-]*:/i.exec(text)?.[0] ?? text;
      refuse("scheme", show(found), "lever://<environment>/<service>/<method>, or a path that begins with /");
    }
    const slash = text.indexOf("/", 8);
    const authority = slash === -1 ? text.slice(8) : text.slice(8, slash);
    path = slash === -1 ? "" : text.slice(slash);
    const colon = authority.indexOf(":");
    environment = colon === -1 ? authority : authority.slice(0, colon);
    checkLabel("environment", environment);
    if (colon !== -1) port = parsePort(authority.slice(colon + 1), options.allowPort === true);
  }

  const serviceEnd = path.indexOf("/", 1);
  const service = path.slice(1, serviceEnd === -1 ? undefined : serviceEnd);
  checkLabel("service", service);
  if (serviceEnd === -1) refuse("method", "is missing", "/<service>/<method>");
  const methodSlash = path.lastIndexOf("/");
  const method = path.slice(methodSlash + 1);
  checkMethod(method);
  const resource = methodSlash === serviceEnd ? undefined : parseResource(path.slice(serviceEnd + 1, methodSlash));
  return { environment, port, service, resource, method };
}

/** The canonical URL. Raises INVALID_URL (with `details.part`) where `url` has a part that no URL can have. */
export function printUrl(url: LeverUrl): string {
  const { environment, port, service, resource, method } = url;
  let text = "";
  if (environment !== undefined) {
    checkLabel("environment", environment);
    text = `lever://${environment}`;
  }
  if (port !== undefined) {
    if (environment === undefined) refuse("port", `is ${port} without an environment`, "an environment before a port");
    if (!Number.isInteger(port) || port < 1 || port > 65535) refuse("port", show(String(port)), "1 to 65535");
    text += `:${port}`;
  }
  checkLabel("service", service);
  text += `/${service}`;
  if (resource !== undefined) text += `/${printResource(resource)}`;
  checkMethod(method);
  return `${text}/${method}`;
}

/** Whether a method of this name is streaming: it ends in `Chan` or `_chan`, or is `chan`. */
export function isStreamingName(method: string): boolean {
  return method.endsWith("Chan") || method.endsWith("_chan") || method === "chan";
}

/**
 * Whether a method of this name may ever be called from outside: a method name without a leading `_` that is not
 * `constructor`, `then`, `toJSON` or `with`. That the name is not only Object.prototype's is the server's to check.
 */
export function isCallableName(method: string): boolean {
  return isMethodName(method) && !method.startsWith("_") && !uncallable.has(method);
}

const uncallable = new Set(["constructor", "then", "toJSON", "with"]);

/** Whether an environment or a service may have this name: a DNS label (RFC 1123, lower case). */
export function isDnsLabel(text: string): boolean {
  return dnsLabel.test(text);
}

/** Whether a method may have this name, called from outside or not. */
export function isMethodName(text: string): boolean {
  return methodName.test(text);
}

function checkLabel(part: "environment" | "service", found: unknown): void {
  if (typeof found !== "string") refuse(part, `is ${describe(found)}`, dnsLabelRule);
  if (!isDnsLabel(found)) refuse(part, found === "" ? "is empty" : show(found), dnsLabelRule);
}

function checkMethod(found: unknown): void {
  if (typeof found !== "string") refuse("method", `is ${describe(found)}`, methodRule);
  if (!isMethodName(found)) refuse("method", found === "" ? "is empty" : show(found), methodRule);
}

function parsePort(text: string, isAllowed: boolean): number {
  const port = Number(text);
  if (!portNumber.test(text) || port > 65535) refuse("port", text === "" ? "is empty" : show(text), "1 to 65535");
  if (!isAllowed) refuse("port", show(text), "none: only a client without an agent takes one, for its gateway");
  return port;
}

/** What RFC 3986 lets stand in a path, the slash, and everything beyond ASCII. */
const resourceText = /^[A-Za-z0-9\-._~!$&'()*+,;=:@/%\u0080-\u{10FFFF}]*$/u;

function parseResource(text: string): string {
  if (!text.isWellFormed()) refuse("resource", "has a lone surrogate", "valid Unicode");
  if (!resourceText.test(text)) {
    const at = [...text].find((character) => !resourceText.test(character)) as string;
    refuse("resource", `has ${show(at)} unescaped`, `it percent-encoded: ${encodeURIComponent(at)}`);
  }
  let resource: string;
  try {
    resource = decodeURIComponent(text);
  } catch {
    const malformed = /%(?![0-9A-Fa-f]{2}).{0,2}/su.exec(text);
    if (malformed !== null) refuse("resource", `has ${show(malformed[0])}`, "two hex digits after each %");
    refuse("resource", `has escapes that are not UTF-8: ${show(text)}`, "percent-encoded UTF-8");
  }
  checkResourceLength(resource);
  return resource;
}

function printResource(resource: unknown): string {
  if (typeof resource !== "string") refuse("resource", `is ${describe(resource)}`, "text");
  if (!resource.isWellFormed()) refuse("resource", "has a lone surrogate", "valid Unicode");
  checkResourceLength(resource);
  // encodeURIComponent leaves five characters that RFC 3986 reserves, and escapes the slash.
  return encodeURIComponent(resource)
    .replaceAll("%2F", "/")
    .replace(/[!'()*]/g, (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`);
}

function checkResourceLength(resource: string): void {
  const bytes = resource.length > resourceBytesMax ? resource.length : textEncoder.encode(resource).length;
  if (bytes === 0) refuse("resource", "is empty", "1 to 1024 bytes, or /<service>/<method> without a resource");
  if (bytes > resourceBytesMax)
    refuse("resource", `has ${bytes} bytes or more`, `1 to ${resourceBytesMax} bytes of UTF-8`);
}

const shownCharsMax = 80;

function show(text: string): string {
  return JSON.stringify(text.length > shownCharsMax ? `${text.slice(0, shownCharsMax)}…` : text);
}

function describe(value: unknown): string {
  return value === undefined || value === null ? String(value) : `a ${typeof value}`;
}

/** `found`: what the part is or has, in words or quoted. */
function refuse(part: UrlPart, found: string, expected: string): never {
  const subject = part === "url" ? "the URL" : `the URL's ${part}`;
  const is = found.startsWith('"') ? "is " : "";
  throw new LeverError("INVALID_URL", `${subject} ${is}${found}; expected ${expected}`, { details: { part } });
}
