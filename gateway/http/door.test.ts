/** Calls over HTTP, against real agents and a real app: what goes through, and what each error says. */

import { catalogue, type Reason } from "@leveros/protocol/error/catalogue.ts";
import { Client, LeverError } from "leveros";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Probe } from "../probe.fixture.ts";
import { type Rig, startRig } from "../rig.fixture.ts";

const probe = new Probe();
let rig: Rig;

beforeAll(async () => {
  rig = await startRig(
    { "dev/probe": probe.methods, "test/probe": { echo: () => "of test" }, "dev/empty": undefined },
    { environmentOfHost: { "test.example.org": "test" } },
  );
});

afterAll(async () => {
  probe.release();
  await rig.close();
});

interface Init {
  readonly method?: string;
  readonly headers?: Record<string, string>;
  readonly body?: string | Uint8Array<ArrayBuffer>;
  readonly signal?: AbortSignal;
}

const json = { "content-type": "application/json" };
const bytes = { "content-type": "application/octet-stream" };

function post(path: string, init: Init = {}): Promise<Response> {
  return fetch(`${rig.url}${path}`, { method: "POST", ...init, headers: init.headers ?? json });
}

/** The problem details of an error, checked against the headers and the catalogue. */
async function problemOf(response: Response) {
  expect(response.headers.get("content-type")).toBe("application/problem+json");
  const problem = (await response.json()) as {
    type: string;
    title: string;
    status: number;
    detail: string;
    kind: string;
    code: string;
    reason: Reason;
    effect: string;
    value?: unknown;
    details?: Record<string, unknown>;
  };
  const row = catalogue[problem.reason];
  expect(problem).toMatchObject({
    type: `https://leveros.dev/errors#${problem.reason.toLowerCase()}`,
    title: row.meaning,
    kind: row.kind,
    code: row.code,
    status: row.httpStatus,
  });
  expect(response.status).toBe(row.httpStatus);
  expect({
    kind: response.headers.get("lever-kind"),
    code: response.headers.get("lever-code"),
    reason: response.headers.get("lever-reason"),
    effect: response.headers.get("lever-effect"),
  }).toEqual({ kind: problem.kind, code: problem.code, reason: problem.reason, effect: problem.effect });
  expect(response.headers.get("traceparent")).toMatch(/^00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]$/);
  // Whole sentences, with one space and one full stop between them.
  expect(problem.detail).not.toMatch(/\.\.|[a-z)\]] {2}|; [A-Z]/);
  return problem;
}

/** Runs `action` and gives how many methods were entered meanwhile. */
async function runsOf<Result>(action: () => Promise<Result>): Promise<{ result: Result; runs: number }> {
  const before = probe.runs;
  const result = await action();
  return { result, runs: probe.runs - before };
}

describe("what goes through", () => {
  test.each([
    "null",
    '"Hello, world!"',
    "-1.5e+300",
    "true",
    "[]",
    '{"a":[1,{"b":null}],"__proto__":1,"é":"日"}',
    '"\\u0000\\"\\n\\u2028"',
  ])("a value comes back as JSON.stringify writes it: %s", async (text) => {
    const response = await post("/probe/echo", { body: `[${text}]` });
    expect(response.status).toBe(200);
    expect(response.headers.get("content-type")).toBe("application/json");
    expect(await response.text()).toBe(JSON.stringify(JSON.parse(text)));
  });

  test("several arguments, none, an empty body, and no content-type", async () => {
    expect(await (await post("/probe/echo", { body: "[1,2,null]" })).text()).toBe("[1,2,null]");
    expect(await (await post("/probe/echo", { body: "[]" })).text()).toBe("[]");
    expect(await (await post("/probe/echo")).text()).toBe("[]");
    const plain = await post("/probe/echo", { headers: {}, body: new TextEncoder().encode('["x"]') });
    expect(await plain.text()).toBe('"x"');
  });

  test("nothing is null", async () => {
    expect(await (await post("/probe/nothing")).text()).toBe("null");
  });

  test("bytes in, bytes out, also none", async () => {
    for (const sent of [Uint8Array.of(0, 255, 10), new Uint8Array(0), new Uint8Array(300_000).fill(3)]) {
      const response = await post("/probe/echo", { headers: bytes, body: sent });
      expect(response.headers.get("content-type")).toBe("application/octet-stream");
      expect(new Uint8Array(await response.arrayBuffer())).toEqual(sent);
    }
  });

  test("content types are read without case and parameters", async () => {
    for (const type of ["APPLICATION/JSON", "application/json; charset=utf-8", 'application/json;charset="UTF-8"']) {
      expect((await post("/probe/echo", { headers: { "content-type": type }, body: "[1]" })).status).toBe(200);
    }
  });

  test("a byte order mark is no part of the arguments", async () => {
    const body = new Uint8Array([0xef, 0xbb, 0xbf, ...new TextEncoder().encode("[1]")]);
    expect(await (await post("/probe/echo", { body })).text()).toBe("1");
  });

  test("a result of 1 MiB, and a body of exactly the limit", async () => {
    const large = await post("/probe/bytes", { body: `[${1024 * 1024}]` });
    expect((await large.arrayBuffer()).byteLength).toBe(1024 * 1024);
    const full = new Uint8Array(512 * 1024).fill(1);
    expect((await post("/probe/echo", { headers: bytes, body: full })).status).toBe(200);
  });

  test("the environment is that of the host, of forceenv, or the default one", async () => {
    expect(await (await post("/probe/echo?forceenv=test")).text()).toBe('"of test"');
    expect(await (await post("/probe/echo?forceenv=dev", { body: "[1]" })).text()).toBe("1");
  });

  test("headers reach the method: token, trace, metadata, time, and that it is called from outside", async () => {
    const traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const response = await post("/probe/seen", {
      headers: {
        ...json,
        "Idempotency-Key": "order-1",
        "Lever-Timeout-Ms": "5000",
        "Lever-Meta-Tenant": "acme",
        traceparent,
        tracestate: "vendor=1",
      },
    });
    const seen = (await response.json()) as { timeLeftMs: number };
    expect(seen).toMatchObject({
      token: "order-1",
      metadata: { tenant: "acme" },
      traceparent,
      tracestate: "vendor=1",
      outside: true,
    });
    expect(seen.timeLeftMs).toBeGreaterThan(0);
    expect(seen.timeLeftMs).toBeLessThanOrEqual(5000);
    expect(response.headers.get("traceparent")).toBe(traceparent);
  });

  test("without a traceparent the answer has that of the trace that began", async () => {
    const response = await post("/probe/seen");
    expect(((await response.json()) as { traceparent: string }).traceparent).toBe(response.headers.get("traceparent"));
  });

  test("a GET of / says what this is", async () => {
    const response = await fetch(`${rig.url}/`);
    expect(response.status).toBe(200);
    expect(await response.text()).toContain("Lever gateway");
  });
});

describe("errors, and whether the method ran", () => {
  const unitRows: [name: string, path: string, init: Init, reason: Reason, effect: string, runs: number][] = [
    ["a wrong argument", "/probe/sayHello", { body: "[5]" }, "INVALID_ARGUMENTS", "none", 0],
    ["bytes where values are wanted", "/probe/sayHello", { headers: bytes, body: "x" }, "ARGS_FORM", "none", 0],
    ["a method's own error", "/probe/failJson", { body: '[{"e":[1]}]' }, "METHOD_ERROR", "ran", 1],
    ["what a method throws otherwise", "/probe/throws", {}, "METHOD_THREW", "ran", 1],
    ["a result that has no JSON", "/probe/notJson", {}, "RESULT_NOT_ENCODABLE", "ran", 1],
    ["a result of 1 MiB and 1 byte", "/probe/bytes", { body: "[1048577]" }, "RESULT_TOO_LARGE", "ran", 1],
    ["an unknown method", "/probe/nosuch", {}, "METHOD_NOT_FOUND", "none", 0],
    ["a private method", "/probe/_secret", {}, "METHOD_NOT_FOUND", "none", 0],
    ["an inherited name", "/probe/constructor", {}, "METHOD_NOT_FOUND", "none", 0],
    ["an unknown service", "/nosuch/x", {}, "SERVICE_NOT_FOUND", "none", 0],
    ["an unknown environment", "/probe/echo?forceenv=nosuch", {}, "SERVICE_NOT_FOUND", "none", 0],
    ["a service without an instance", "/empty/x", {}, "NO_INSTANCES", "none", 0],
    ["a resource", "/probe/room-7/echo", {}, "NO_RESOURCES", "none", 0],
    ["a body of 512 KiB and 1 byte", "/probe/echo", { body: "[".padEnd(524_289) }, "ARGS_TOO_LARGE", "none", 0],
    ["no JSON", "/probe/echo", { body: "[1,]" }, "BODY_INVALID", "none", 0],
    ["no array", "/probe/echo", { body: '{"name":"Ada"}' }, "BODY_INVALID", "none", 0],
    ["no UTF-8", "/probe/echo", { body: Uint8Array.of(0x5b, 0x22, 0xff, 0x22, 0x5d) }, "BODY_INVALID", "none", 0],
    ["half a character", "/probe/echo", { body: '["\\ud800"]' }, "VALUE_NOT_ENCODABLE", "none", 0],
    ["65 levels", "/probe/echo", { body: "[".repeat(65) + "]".repeat(65) }, "VALUE_NOT_ENCODABLE", "none", 0],
    ["200,000 levels", "/probe/echo", { body: "[".repeat(2e5) + "]".repeat(2e5) }, "VALUE_NOT_ENCODABLE", "none", 0],
    ["a form", "/probe/echo", { headers: { "content-type": "text/plain" } }, "CONTENT_TYPE_UNSUPPORTED", "none", 0],
    [
      "another charset",
      "/probe/echo",
      { headers: { "content-type": "application/json; charset=iso-8859-1" }, body: "[]" },
      "CONTENT_TYPE_UNSUPPORTED",
      "none",
      0,
    ],
    [
      "a compressed body",
      "/probe/echo",
      { headers: { ...bytes, "content-encoding": "gzip" }, body: "x" },
      "CONTENT_TYPE_UNSUPPORTED",
      "none",
      0,
    ],
    ["a call of a streaming method", "/probe/echoChan", {}, "METHOD_KIND_MISMATCH", "none", 0],
    [
      "a channel to a method that is none",
      "/probe/echo",
      { headers: { "content-type": "application/x-ndjson" } },
      "METHOD_KIND_MISMATCH",
      "none",
      0,
    ],
    ["a path without a method", "/probe", {}, "HTTP_PATH_INVALID", "none", 0],
    ["a path that is no URL", "/Probe/echo", {}, "INVALID_URL", "none", 0],
    ["a bad time", "/probe/echo", { headers: { "lever-timeout-ms": "soon" } }, "INVALID_OPTION", "none", 0],
    [
      "a token too long",
      "/probe/echo",
      { headers: { "idempotency-key": "x".repeat(129) } },
      "INVALID_OPTION",
      "none",
      0,
    ],
    ["much metadata", "/probe/echo", { headers: { "lever-meta-a": "x".repeat(17e3) } }, "HEADER_TOO_LARGE", "none", 0],
  ];
  test.each(unitRows)("%s", async (_, path, init, reason, effect, expectedRuns) => {
    const { result: problem, runs } = await runsOf(async () => problemOf(await post(path, init)));
    expect(problem).toMatchObject({ reason, effect });
    expect(runs).toBe(expectedRuns);
  });

  test("the value of a method's error is in the problem details", async () => {
    for (const value of [{ error: "TOO_LONG", max: 500 }, "text", 0, null, { bytes: "AAAA" }]) {
      const problem = await problemOf(await post("/probe/failJson", { body: JSON.stringify([value]) }));
      expect(problem.value).toEqual(value);
    }
  });

  test("an error of bytes is the answer itself, with the rest in headers", async () => {
    const { result, runs } = await runsOf(() => post("/probe/failBytes"));
    expect(result.status).toBe(422);
    expect(result.headers.get("content-type")).toBe("application/octet-stream");
    expect(result.headers.get("lever-kind")).toBe("method");
    expect(result.headers.get("lever-code")).toBe("UNKNOWN");
    expect(result.headers.get("lever-reason")).toBe("METHOD_ERROR");
    expect(result.headers.get("lever-effect")).toBe("ran");
    expect(new Uint8Array(await result.arrayBuffer())).toEqual(Uint8Array.of(1, 2, 3));
    expect(runs).toBe(1);
  });

  test("what a method throws by mistake stays at the instance, with the trace", async () => {
    const response = await post("/probe/throws");
    const text = await response.text();
    expect(text).not.toContain("secret");
    expect(text).toContain((response.headers.get("traceparent") as string).split("-")[1]);
    expect(rig.thrown.at(-1)).toMatchObject({ message: "a secret of the instance" });
  });

  test("a passed deadline: the method may have run, and learns of it", async () => {
    const before = probe.aborts.length;
    const { result: problem, runs } = await runsOf(async () =>
      problemOf(await post("/probe/waits", { headers: { ...json, "lever-timeout-ms": "50" } })),
    );
    expect(problem).toMatchObject({ reason: "DEADLINE_EXCEEDED", effect: "unknown" });
    expect(runs).toBe(1);
    await probe.when(() => probe.aborts.length > before);
  });

  test("a client that goes away cancels its call", async () => {
    const before = { aborts: probe.aborts.length, runs: probe.runs };
    const gone = new AbortController();
    const call = post("/probe/waits", { signal: gone.signal }).catch(() => "gone");
    await probe.whenRuns(before.runs + 1);
    gone.abort();
    expect(await call).toBe("gone");
    await probe.when(() => probe.aborts.length > before.aborts);
    expect(probe.aborts.at(-1)).toMatchObject({ reason: "CANCELLED" });
  });

  test("an instance that is killed during a call: the method may have run", async () => {
    const other = await startRig({ "dev/probe": probe.methods });
    try {
      const before = probe.runs;
      const call = fetch(`${other.url}/probe/waits`, { method: "POST" });
      await probe.whenRuns(before + 1);
      await other.kill("dev/probe");
      expect(await problemOf(await call)).toMatchObject({ effect: "unknown", kind: "network" });
    } finally {
      await other.close();
    }
  });

  test("the detail says what was found, what was expected and what to do, in sentences", async () => {
    const tooLarge = await problemOf(await post("/probe/echo", { headers: bytes, body: new Uint8Array(600_000) }));
    expect(tooLarge.detail).toBe(
      "the body is larger than 524288 bytes, the gateway's limit. Send large data over a channel " +
        "(a method whose name ends in Chan), which has no total limit.",
    );
    expect(tooLarge.details).toEqual({ limit: "bodyBytes", bytesMax: 524_288 });
    const url = await problemOf(await post("/Probe/echo"));
    expect(url.details).toEqual({ part: "service" });
    expect(url.detail).toContain('"Probe"');
  });
});

describe("other HTTP methods", () => {
  test.each(["GET", "PUT", "DELETE", "PATCH"])("%s on a method is 405, with what to do", async (method) => {
    const response = await post("/probe/echo?forceenv=dev", { method });
    expect(response.headers.get("allow")).toBe("POST, OPTIONS");
    const problem = await problemOf(response);
    expect(problem.reason).toBe("HTTP_METHOD_NOT_ALLOWED");
    expect(problem.detail).toContain(
      `curl '${rig.url}/probe/echo?forceenv=dev' -H 'content-type: application/json' -d '[]'`,
    );
  });

  test("HEAD is 405 without a body", async () => {
    const response = await post("/probe/echo", { method: "HEAD" });
    expect(response.status).toBe(405);
    expect(response.headers.get("lever-reason")).toBe("HTTP_METHOD_NOT_ALLOWED");
    expect(await response.text()).toBe("");
  });

  test("the command to copy has nothing in it that a shell would run", async () => {
    const response = await fetch(`${rig.url}/probe/x'$(id)'/echo`);
    expect((await problemOf(response)).detail).not.toContain("curl");
  });
});

describe("other origins", () => {
  const preflight = { "access-control-request-method": "POST", "access-control-request-headers": "content-type" };

  test("any origin may read answers where * is allowed, without credentials", async () => {
    for (const path of ["/probe/echo", "/nosuch/x"]) {
      const response = await post(path, { headers: { ...json, origin: "https://app.example.org" } });
      expect(response.headers.get("access-control-allow-origin")).toBe("*");
      expect(response.headers.get("access-control-allow-credentials")).toBeNull();
      expect(response.headers.get("access-control-expose-headers")).toContain("lever-effect");
    }
  });

  test.each(["/probe/echo", "/Nosuch", "/", "/a%"])("a preflight of %s is answered", async (path) => {
    const response = await post(path, { method: "OPTIONS", headers: { ...preflight, origin: "https://a.example" } });
    expect(response.status).toBe(204);
    expect(response.headers.get("access-control-allow-origin")).toBe("*");
    expect(response.headers.get("access-control-allow-methods")).toBe("POST");
    expect(response.headers.get("access-control-allow-headers")).toBe("content-type");
  });

  test("only those that are configured, else", async () => {
    const other = await startRig({ "dev/probe": probe.methods }, { corsOrigins: ["https://app.example.org"] });
    try {
      const of = async (origin: string, method: string) => {
        const { headers } = await fetch(`${other.url}/probe/echo`, { method, headers: { ...preflight, origin } });
        return [headers.get("access-control-allow-origin"), headers.get("vary")];
      };
      for (const method of ["POST", "OPTIONS"]) {
        expect(await of("https://app.example.org", method)).toEqual(["https://app.example.org", "origin"]);
        expect(await of("https://app.example.org.evil.example", method)).toEqual([null, "origin"]);
        expect(await of("null", method)).toEqual([null, "origin"]);
      }
    } finally {
      await other.close();
    }
  });
});

describe("the native port", () => {
  test("limits: 1 MiB of arguments and of a result pass, one byte more does not", async () => {
    await using client = new Client({ gateway: `127.0.0.1:${rig.gateway.port}`, environment: "dev" });
    const mebibyte = new Uint8Array(1024 * 1024);
    const failed = async (call: Promise<unknown>) => {
      const error = await call.then(() => undefined).catch((thrown: unknown) => thrown);
      if (!LeverError.is(error)) throw new Error(`no error: ${String(error)}`);
      return error;
    };
    const passed = await runsOf(() => client.invoke<Uint8Array>("/probe/echo", [mebibyte]));
    expect(passed.result.length).toBe(mebibyte.length);
    expect(passed.runs).toBe(1);
    const args = await runsOf(() => failed(client.invoke("/probe/echo", [new Uint8Array(1024 * 1024 + 1)])));
    expect(args.result).toMatchObject({ reason: "ARGS_TOO_LARGE", effect: "none" });
    expect(args.result.rawMessage).toContain("channel");
    expect(args.runs).toBe(0);
    const result = await runsOf(() => failed(client.invoke("/probe/bytes", [1024 * 1024 + 1])));
    expect(result.result).toMatchObject({ reason: "RESULT_TOO_LARGE", effect: "ran" });
    expect(result.result.rawMessage).toContain("channel");
    expect(result.runs).toBe(1);
  });
});
