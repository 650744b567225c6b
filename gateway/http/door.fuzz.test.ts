/**
 * Fuzzing of the HTTP door. Half of the inputs are valid requests of which a part was changed and whose lengths are
 * right again, half are such requests with their bytes changed. Behind each stands a valid request: either that one is
 * answered too, or the connection has ended with an answer that says why.
 *
 * `LEVER_FUZZ_INPUTS` (5,000) and `LEVER_FUZZ_SEED`; a failure names the seed and the input.
 */

import { catalogue, isReason } from "@leveros/protocol/error/catalogue.ts";
import { FuzzRandom } from "@leveros/protocol/vectors/fuzz.fixture.ts";
import { type Channel, MethodError } from "leveros";
import { expect, test } from "vitest";
import { RawConnection, type RawResponse, type Rig, startRig } from "../rig.fixture.ts";

const inputs = Number(process.env.LEVER_FUZZ_INPUTS ?? 5000);
const firstSeed = Number(process.env.LEVER_FUZZ_SEED ?? Math.floor(Math.random() * 2 ** 31));
const connectionsMax = 24;

const methods = {
  echo: (...args: unknown[]) => (args.length === 1 ? args[0] : args),
  fail: (value: unknown) => {
    throw new MethodError(value ?? new Uint8Array(3));
  },
  echoChan: async (channel: Channel) => {
    for await (const message of channel) await channel.send(message);
  },
  failChan: (_channel: Channel, value: unknown) => {
    throw new MethodError(value ?? null);
  },
};

interface Draft {
  method: string;
  target: string;
  headers: string[];
  /** Latin-1, one character per byte. */
  body: string;
  isChunked: boolean;
}

const json = "content-type: application/json";
const bytes = "content-type: application/octet-stream";
const ndjson = "content-type: application/x-ndjson";

const valid: readonly Omit<Draft, "isChunked">[] = [
  { method: "POST", target: "/fuzz/echo", headers: [json], body: '["Ada",{"a":[1,2.5,null]},true]' },
  { method: "POST", target: "/fuzz/echo?forceenv=dev", headers: [json, "Lever-Timeout-Ms: 5000"], body: "[]" },
  { method: "POST", target: "/fuzz/echo", headers: [bytes, "Idempotency-Key: order-1"], body: "\x00\xff\x80bytes" },
  { method: "POST", target: "/fuzz/fail", headers: [json, "Lever-Meta-Tenant: acme"], body: '[{"error":"x"}]' },
  {
    method: "POST",
    target: "/fuzz/fail",
    headers: [json, "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tracestate: a=1"],
    body: "[]",
  },
  { method: "POST", target: "/fuzz/room%2F7/echo", headers: [json, "Origin: https://a.example"], body: "[1]" },
  {
    method: "POST",
    target: "/fuzz/echoChan",
    headers: [ndjson],
    body: '[]\n1\n{"bytes":"AAA="}\n{"value":{"error":1}}\n',
  },
  { method: "POST", target: "/fuzz/failChan", headers: [ndjson], body: '[{"a":1}]\n"x"\n' },
  { method: "POST", target: "/fuzz/echo", headers: [json, "Expect: 100-continue"], body: "[7]" },
  { method: "GET", target: "/fuzz/echo", headers: [], body: "" },
  { method: "HEAD", target: "/", headers: [], body: "" },
  {
    method: "OPTIONS",
    target: "/fuzz/echo",
    headers: ["Origin: null", "Access-Control-Request-Method: POST"],
    body: "",
  },
];

// biome-ignore format: a list
const odd = [
  "", "/", "//", "..", "%", "%2", "%2F", "%00", "%FF", "%C3%BC", "\xc3\xbc", "\xff", "*", "?", "#", "&", "=", ";", ",", '"', "'",
  "\\", "\t", "\0", "\r", "\n", "\r\n", "\r\n\r\n", "constructor", "__proto__", "_x", "then", "chan", "0", "-1", "1e9", "99999999999",
  "NaN", "null", "true", "[]", "{}", "[[", "]]", '"\\ud800"', '{"__proto__":1}', '{"bytes":"AA=="}', '{"bytes":1}', '{"value":{"bytes":""}}',
  '{"error":{}}', "1".repeat(400), "[".repeat(70), "[".repeat(5000), "x".repeat(130), "x".repeat(4100), "\xef\xbb\xbf", "\xf0\x9f\x98\x80",
  "http://", "http://a.example:99999/", "forceenv=", "forceenv=dev", "forceenv=Dev", "gzip", "chunked", "charset=utf-16", "close", "keep-alive",
];

// biome-ignore format: a list
const headerNames = [
  "content-type", "content-encoding", "content-length", "transfer-encoding", "connection", "expect", "host", "upgrade", "te", "trailer",
  "lever-timeout-ms", "idempotency-key", "lever-meta-a", "lever-meta-", "lever-meta-__proto__", "traceparent", "tracestate", "origin",
  "access-control-request-headers", "cookie", "x", "accept", "if-none-match", "range", "keep-alive", "http2-settings", "",
];

function changeText(random: FuzzRandom, text: string): string {
  const at = random.below(text.length + 1);
  const to = Math.min(text.length, at + random.below(6));
  switch (random.below(5)) {
    case 0:
      return text.slice(0, at) + random.pick(odd) + text.slice(at);
    case 1:
      return text.slice(0, at) + random.pick(odd) + text.slice(to);
    case 2:
      return text.slice(0, at) + text.slice(to);
    case 3:
      return text.slice(0, at) + text.slice(at, to).repeat(random.below(4)) + text.slice(to);
    default:
      return text.slice(0, at) + String.fromCharCode(random.below(256)) + text.slice(at + 1);
  }
}

function change(random: FuzzRandom, draft: Draft): void {
  switch (random.below(9)) {
    case 0:
      draft.method = random.pick([
        "GET",
        "PUT",
        "DELETE",
        "HEAD",
        "OPTIONS",
        "PATCH",
        "TRACE",
        "PROPFIND",
        "BREW",
        "post",
      ]);
      return;
    case 1:
    case 2:
      draft.target = changeText(random, draft.target);
      return;
    case 3: {
      if (draft.headers.length > 0) draft.headers.splice(random.below(draft.headers.length), 1);
      return;
    }
    case 4:
      draft.headers.push(`${random.pick(headerNames)}: ${random.pick(odd)}`);
      return;
    case 5: {
      const at = random.below(draft.headers.length + 1);
      draft.headers[at] = changeText(random, draft.headers[at] ?? "x: y");
      return;
    }
    case 6:
      draft.isChunked = !draft.isChunked;
      return;
    default:
      draft.body = changeText(random, draft.body);
  }
}

/** The lengths are right for what the body is by now. */
function print(random: FuzzRandom, draft: Draft): string {
  const { method, target, headers, body, isChunked } = draft;
  const lines = [
    "Host: localhost",
    ...headers,
    isChunked ? "transfer-encoding: chunked" : `content-length: ${body.length}`,
  ];
  const head = `${method} ${target} HTTP/1.1\r\n${lines.map((line) => `${line}\r\n`).join("")}\r\n`;
  if (!isChunked) return head + body;
  let chunks = "";
  for (let at = 0; at < body.length; ) {
    const chunk = body.slice(at, at + 1 + random.below(20));
    chunks += `${chunk.length.toString(16)}${random.oneIn(20) ? ";a=b" : ""}\r\n${chunk}\r\n`;
    at += chunk.length;
  }
  return `${head}${chunks}0\r\n${random.oneIn(20) ? "x-trailer: y\r\n" : ""}\r\n`;
}

interface Input {
  readonly text: string;
  readonly isToHead: boolean;
  /** The request does not come to its end, and nothing comes behind it. */
  readonly isCut: boolean;
}

function make(random: FuzzRandom): Input {
  const draft: Draft = { ...random.pick(valid), isChunked: random.oneIn(4) };
  draft.headers = [...draft.headers];
  if (random.oneIn(2)) {
    for (let left = 1 + random.below(3); left > 0; left--) change(random, draft);
    return { text: print(random, draft), isToHead: draft.method === "HEAD", isCut: false };
  }
  let text = print(random, draft);
  const isCut = random.oneIn(20);
  if (isCut) text = text.slice(0, 1 + random.below(text.length - 1));
  else for (let left = 1 + random.below(4); left > 0; left--) text = changeText(random, text);
  return { text, isToHead: /^[\r\n]*HEAD /.test(text), isCut };
}

const seen = new Map<string, number>();

function check(response: RawResponse): void {
  const { status, headers, body } = response;
  const type = headers["content-type"];
  seen.set(headers["lever-reason"] ?? String(status), (seen.get(headers["lever-reason"] ?? String(status)) ?? 0) + 1);
  if (type === "application/x-ndjson") {
    for (const line of body.split("\n").slice(0, -1)) {
      const value = JSON.parse(line) as unknown;
      if (typeof value === "object" && value !== null && Object.keys(value).join() === "error") {
        checkProblem((value as { error: Record<string, unknown> }).error);
      }
    }
  } else if (status >= 400) {
    const reason = headers["lever-reason"] ?? "";
    expect(isReason(reason)).toBe(true);
    if (type === "application/octet-stream") expect(reason).toBe("METHOD_ERROR");
    else {
      expect(type).toBe("application/problem+json");
      if (body !== "") checkProblem(JSON.parse(body) as Record<string, unknown>);
    }
    expect(headers["lever-effect"]).toMatch(/^(none|unknown|ran)$/);
    if (isReason(reason))
      expect([headers["lever-kind"], status]).toEqual([catalogue[reason].kind, catalogue[reason].httpStatus]);
    expect(reason).not.toBe("INTERNAL");
  } else if (status === 200) {
    expect(type).toMatch(/^(application\/(json|octet-stream)|text\/plain; charset=utf-8)$/);
    if (type === "application/json") JSON.parse(body);
  } else expect(status).toBe(204);
}

function checkProblem({ reason, effect, detail }: Record<string, unknown>): void {
  expect(isReason(String(reason))).toBe(true);
  expect(reason).not.toBe("INTERNAL");
  expect(effect).toMatch(/^(none|unknown|ran)$/);
  expect(typeof detail).toBe("string");
}

/** One input; gives the connection if it can carry the next one. */
async function run(rig: Rig, seed: number, open: RawConnection | undefined): Promise<RawConnection | undefined> {
  const { text, isToHead, isCut } = make(new FuzzRandom(seed));
  const connection = open ?? (await RawConnection.open(rig.gateway.httpPort));
  const sentinel = JSON.stringify(`sentinel ${seed}`);
  const last = `POST /fuzz/echo HTTP/1.1\r\nHost: localhost\r\ncontent-length: ${sentinel.length + 2}\r\n\r\n[${sentinel}]`;
  let answers = 0;
  let isLate = false;
  const timer = setTimeout(() => {
    isLate = true;
    connection.destroy();
  }, 5000);
  try {
    connection.write(isCut ? text : text + last);
    for (;;) {
      const response = await connection.response(isToHead && answers === 0);
      if (response === undefined) {
        // The valid request has become a part of this one, or there was no answer at all.
        if (answers > 0) return undefined;
        throw new Error(isLate ? "no answer" : "the connection was closed without an answer");
      }
      check(response);
      answers++;
      if (isCut || response.headers.connection === "close") {
        connection.destroy();
        return undefined;
      }
      if (response.body === sentinel) return connection;
    }
  } catch (cause) {
    connection.destroy();
    const shown = JSON.stringify(text.slice(0, 2000));
    throw new Error(`LEVER_FUZZ_SEED=${seed} LEVER_FUZZ_INPUTS=1: ${String(cause)}\nthe input: ${shown}`, { cause });
  } finally {
    clearTimeout(timer);
  }
}

test(`fuzz: ${inputs} requests get well-formed answers (LEVER_FUZZ_SEED=${firstSeed})`, async () => {
  const rig = await startRig(
    { "dev/fuzz": methods },
    { httpLimits: { headersMsMax: 200, bodyMsMax: 100, exchangeMsMax: 150 } },
  );
  try {
    let next = 0;
    const worker = async () => {
      let connection: RawConnection | undefined;
      while (next < inputs) connection = await run(rig, firstSeed + next++, connection);
      connection?.destroy();
    };
    await Promise.all(Array.from({ length: connectionsMax }, worker));
    expect(rig.thrown).toEqual([]);
    // Nothing is left behind.
    for (let isClean = false; !isClean; ) {
      const metrics = await (await fetch(`http://127.0.0.1:${rig.gateway.adminPort}/metrics`)).text();
      isClean = ["requests_running", "held_bytes", "connections"].every((name) =>
        metrics.includes(`_http_${name} 0\n`),
      );
      if (!isClean) await new Promise((resolve) => setTimeout(resolve, 50));
    }
    // The inputs reach what they are meant to reach.
    if (inputs >= 5000) {
      for (const reason of [
        "200",
        "204",
        "METHOD_ERROR",
        "BODY_INVALID",
        "HTTP_REQUEST_INVALID",
        "HTTP_REQUEST_TIMEOUT",
        "INVALID_URL",
        "INVALID_OPTION",
        "CONTENT_TYPE_UNSUPPORTED",
        "HTTP_METHOD_NOT_ALLOWED",
        "NO_RESOURCES",
        "METHOD_NOT_FOUND",
        "SERVICE_NOT_FOUND",
        "METHOD_KIND_MISMATCH",
        "HTTP_PATH_INVALID",
      ]) {
        expect(seen.get(reason), reason).toBeGreaterThan(0);
      }
    }
  } finally {
    await rig.close();
  }
}, 3_600_000);
