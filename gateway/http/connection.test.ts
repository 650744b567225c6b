/** What HTTP/1.1 itself can do wrong, byte by byte: whatever comes in, what goes out is well-formed, and seen. */

import { catalogue, type Reason } from "@leveros/protocol/error/catalogue.ts";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Probe } from "../probe.fixture.ts";
import { RawConnection, type RawResponse, type Rig, startRig } from "../rig.fixture.ts";

const probe = new Probe();
let rig: Rig;
/** With little time for a request to come in, and with little room for bodies. */
let quick: Rig;
let small: Rig;
const open: RawConnection[] = [];

beforeAll(async () => {
  const services = { "dev/probe": probe.methods };
  rig = await startRig(services, { httpLimits: { headersMax: 50 } });
  quick = await startRig(services, { httpLimits: { headersMsMax: 400, bodyMsMax: 300 } });
  small = await startRig(services, { httpLimits: { heldBytesMax: 2 * 1024 * 1024 } });
});

afterAll(async () => {
  for (const connection of open) connection.destroy();
  probe.release();
  for (const each of [rig, quick, small]) await each.close();
});

async function connection(to = rig): Promise<RawConnection> {
  const made = await RawConnection.open(to.gateway.httpPort);
  open.push(made);
  return made;
}

function post(path: string, body: string, headers: readonly string[] = ["content-type: application/json"]): string {
  return head(path, [...headers, `content-length: ${Buffer.byteLength(body)}`]) + body;
}

function head(path: string, headers: readonly string[], method = "POST"): string {
  return `${method} ${path} HTTP/1.1\r\nHost: localhost\r\n${headers.map((line) => `${line}\r\n`).join("")}\r\n`;
}

function expectProblem(response: RawResponse | undefined, reason: Reason, effect = "none"): void {
  if (response === undefined) throw new Error("the connection was closed without an answer");
  const row = catalogue[reason];
  expect(response.headers).toMatchObject({
    "content-type": "application/problem+json",
    "lever-kind": row.kind,
    "lever-code": row.code,
    "lever-reason": reason,
    "lever-effect": effect,
  });
  expect(response.status).toBe(row.httpStatus);
  expect(JSON.parse(response.body)).toMatchObject({ reason, effect, status: row.httpStatus });
}

async function answers(connected: RawConnection, value: unknown): Promise<void> {
  connected.write(post("/probe/echo", JSON.stringify([value])));
  const response = await connected.response();
  expect(response?.status).toBe(200);
  expect(response?.body).toBe(JSON.stringify(value));
}

describe("what is no request", () => {
  test.each<[name: string, text: string, reason: Reason]>([
    ["no HTTP at all", "hello\r\n\r\n", "HTTP_REQUEST_INVALID"],
    ["TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "HTTP_REQUEST_INVALID"],
    ["a space in the path", "POST /a b HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP_REQUEST_INVALID"],
    ["no Host", "POST /probe/echo HTTP/1.1\r\n\r\n", "HTTP_REQUEST_INVALID"],
    ["two Hosts", "POST /probe/echo HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "HTTP_REQUEST_INVALID"],
    ["a header without a name", "POST /probe/echo HTTP/1.1\r\nHost: x\r\n: x\r\n\r\n", "HTTP_REQUEST_INVALID"],
    ["a folded header", "POST /probe/echo HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", "HTTP_REQUEST_INVALID"],
    ["a NUL in a header", "POST /probe/echo HTTP/1.1\r\nHost: x\r\nA: \0\r\n\r\n", "HTTP_REQUEST_INVALID"],
    ["two lengths", head("/probe/echo", ["content-length: 2", "content-length: 3"]), "HTTP_REQUEST_INVALID"],
    ["a length and chunks", head("/a/b", ["content-length: 2", "transfer-encoding: chunked"]), "HTTP_REQUEST_INVALID"],
    ["a length that is none", head("/probe/echo", ["content-length: -1"]), "HTTP_REQUEST_INVALID"],
    ["a coding that is not known", head("/probe/echo", ["transfer-encoding: gzip"]), "HTTP_REQUEST_INVALID"],
    ["40 KiB of headers", head("/probe/echo", [`a: ${"x".repeat(40_000)}`]), "HEADER_TOO_LARGE"],
    ["a URL of 40 KiB", head(`/probe/${"x".repeat(40_000)}`, []), "HEADER_TOO_LARGE"],
    [
      "51 headers",
      head(
        "/probe/echo",
        Array.from({ length: 50 }, (_, i) => `a${i}: x`),
      ),
      "HEADER_TOO_LARGE",
    ],
    ["CONNECT", "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example\r\n\r\n", "HTTP_METHOD_NOT_ALLOWED"],
  ])("%s", async (_, text, reason) => {
    const connected = await connection();
    const before = probe.runs;
    connected.write(text);
    expectProblem(await connected.response(), reason);
    expect(probe.runs).toBe(before);
  });

  test("a URL of 8 KiB is taken as HTTP and refused as a URL", async () => {
    const connected = await connection();
    connected.write(post(`/probe/${"x".repeat(8000)}/echo`, "[]"));
    expectProblem(await connected.response(), "INVALID_URL");
    await answers(connected, 1);
  });

  test("50 headers are taken", async () => {
    const connected = await connection();
    connected.write(
      post(
        "/probe/echo",
        "[]",
        Array.from({ length: 48 }, (_, i) => `a${i}: x`),
      ),
    );
    expect((await connected.response())?.status).toBe(200);
  });

  test("headers that do not come to their end", async () => {
    const connected = await connection(quick);
    connected.write("POST /probe/echo HTTP/1.1\r\nHost: x\r\nA: ");
    expectProblem(await connected.response(), "HTTP_REQUEST_TIMEOUT");
    await connected.closed();
  });

  test("large headers arrive although the client goes on sending", async () => {
    const connected = await connection();
    connected.write(`POST /probe/echo HTTP/1.1\r\nHost: x\r\nA: ${"x".repeat(2_000_000)}`);
    expectProblem(await connected.response(), "HEADER_TOO_LARGE");
  });
});

describe("a connection after an error", () => {
  test("goes on where the request was whole", async () => {
    const connected = await connection();
    for (const text of [
      post("/probe/nosuch", "[]"),
      post("/probe/echo", "nonsense"),
      post("/Probe/echo", "[1]"),
      post("/probe/echo", "[1]", ["content-type: text/plain"]),
      post("/probe/failJson", "[1]"),
      head("/probe/echo", [], "GET"),
      head("/probe/echo", ["expect: something-else", "content-length: 0"]),
    ]) {
      connected.write(text);
      const response = await connected.response();
      expect(response?.headers.connection).not.toBe("close");
      await answers(connected, "still here");
    }
  });

  test("goes on where a short body came after the answer", async () => {
    const connected = await connection();
    connected.write(head("/nosuch", ["content-length: 400000"]));
    expectProblem(await connected.response(), "HTTP_PATH_INVALID");
    for (let i = 0; i < 40; i++) connected.write("x".repeat(10_000));
    await answers(connected, "still here");
  });

  test("pipelined requests are answered in their order", async () => {
    const connected = await connection();
    connected.write(
      post("/probe/echo", "[1]") + post("/probe/nosuch", "[]") + head("/", [], "GET") + post("/probe/echo", "[2]"),
    );
    const statuses = [];
    for (let i = 0; i < 4; i++) statuses.push((await connected.response())?.status);
    expect(statuses).toEqual([200, 404, 200, 200]);
  });

  test("nonsense behind a request that runs is not answered in its place", async () => {
    const connected = await connection();
    const before = probe.runs;
    connected.write(post("/probe/waits", "[]"));
    await probe.whenRuns(before + 1);
    connected.write("nonsense\r\n\r\n");
    await new Promise((resolve) => setTimeout(resolve, 50));
    probe.release();
    const response = await connected.response();
    expect(response?.status).toBe(200);
    expect(response?.body).toBe('"released"');
    expect(await connected.closed()).toBe("");
  });

  test("HTTP/1.0 gets an answer, and its end", async () => {
    const connected = await connection();
    connected.write("POST /probe/echo HTTP/1.0\r\nContent-Length: 3\r\n\r\n[1]");
    expect(await connected.closed()).toMatch(/^HTTP\/1\.1 200 OK\r\n.*\r\n\r\n1$/s);
  });
});

describe("a body that is too large", () => {
  test("is refused by its declared length alone, and a client that sends all the same sees it", async () => {
    const connected = await connection();
    connected.write(head("/probe/echo", ["content-type: application/json", "content-length: 60000000"]));
    expectProblem(await connected.response(), "ARGS_TOO_LARGE");
    // A client that does not look before all is sent: the answer was read, and nothing was reset meanwhile.
    for (let i = 0; i < 30; i++) {
      if (!connected.socket.write(Buffer.alloc(1_000_000))) {
        await new Promise((resolve) => connected.socket.once("drain", resolve));
      }
    }
    expect(connected.isClosed).toBe(false);
  });

  test("is refused in chunks as soon as it is known, with the connection's end announced", async () => {
    const connected = await connection();
    connected.write(head("/probe/echo", ["content-type: application/json", "transfer-encoding: chunked"]));
    for (let i = 0; i < 60; i++) connected.write(`2710\r\n${"x".repeat(10_000)}\r\n`);
    const response = await connected.response();
    expectProblem(response, "ARGS_TOO_LARGE");
    expect(response?.headers.connection).toBe("close");
    expect(JSON.parse(response?.body as string).detail).toContain("over a channel");
    connected.write("0\r\n\r\n");
    await connected.closed();
  });

  test("a request behind it does not run: it was told that the connection ends", async () => {
    const connected = await connection();
    const before = probe.runs;
    connected.write(head("/probe/echo", ["content-type: application/json", "content-length: 600000"]));
    expectProblem(await connected.response(), "ARGS_TOO_LARGE");
    connected.write("x".repeat(600_000) + post("/probe/echo", "[1]"));
    expect(await connected.closed()).toBe("");
    expect(probe.runs).toBe(before);
  });

  test("chunks of one byte are put together, and cost no more than they hold", async () => {
    const connected = await connection();
    const text = `["${"x".repeat(20_000)}"]`;
    connected.write(head("/probe/echo", ["transfer-encoding: chunked"]));
    connected.write(`${[...text].map((character) => `1\r\n${character}\r\n`).join("")}0\r\n\r\n`);
    expect((await connected.response())?.body).toBe(JSON.stringify("x".repeat(20_000)));
    await answers(connected, 1);
  });

  test("more than the gateway may hold for all clients is OVERLOADED", async () => {
    const holding: RawConnection[] = [];
    for (let i = 0; i < 4; i++) {
      const connected = await connection(small);
      connected.write(head("/probe/echo", ["content-type: application/octet-stream", "content-length: 500000"]));
      connected.write("x".repeat(499_999));
      holding.push(connected);
    }
    const connected = await connection(small);
    connected.write(post("/probe/echo", "x".repeat(500_000), ["content-type: application/octet-stream"]));
    expectProblem(await connected.response(), "OVERLOADED");
    for (const each of holding) each.destroy();
  });
});

describe("a body that is late", () => {
  test("by the gateway's limit", async () => {
    const connected = await connection(quick);
    connected.write(head("/probe/echo", ["content-type: application/json", "content-length: 10"]));
    connected.write("[");
    expectProblem(await connected.response(), "HTTP_REQUEST_TIMEOUT");
  });

  test("by the caller's own time", async () => {
    const connected = await connection();
    connected.write(head("/probe/echo", ["lever-timeout-ms: 50", "content-length: 10"]));
    expectProblem(await connected.response(), "DEADLINE_EXCEEDED");
  });

  test("the time that the body took is the call's no more", async () => {
    const connected = await connection();
    connected.write(head("/probe/seen", ["lever-timeout-ms: 5000", "content-length: 2"]));
    await new Promise((resolve) => setTimeout(resolve, 200));
    connected.write("[]");
    const seen = JSON.parse((await connected.response())?.body as string) as { timeLeftMs: number };
    expect(seen.timeLeftMs).toBeLessThan(4850);
  });

  test("a body whose chunks are none says so, and that nothing ran", async () => {
    const connected = await connection();
    const before = probe.runs;
    connected.write(head("/probe/echo", ["transfer-encoding: chunked"]));
    connected.write("5\r\n[1,2,\r\nnonsense\r\n");
    const response = await connected.response();
    expectProblem(response, "HTTP_REQUEST_INVALID");
    expect(response?.headers.connection).toBe("close");
    expect(probe.runs).toBe(before);
    // More of the same does not reset the connection before the answer was read.
    for (let i = 0; i < 20; i++) connected.write("nonsense\r\n".repeat(1000));
    await new Promise((resolve) => setTimeout(resolve, 50));
    expect(connected.isClosed).toBe(false);
  });

  test("a body that ends early is no call", async () => {
    const connected = await connection();
    const before = probe.runs;
    connected.write(head("/probe/echo", ["content-length: 10"]));
    connected.write("[1]");
    connected.socket.end();
    await connected.closed();
    expect(probe.runs).toBe(before);
  });
});

describe("Expect: 100-continue", () => {
  const expecting = ["content-type: application/json", "expect: 100-continue"];

  test("gets the word to go on when the body is wanted", async () => {
    const connected = await connection();
    connected.write(head("/probe/echo", [...expecting, "content-length: 3"]));
    expect(await connected.until("\r\n\r\n")).toBe("HTTP/1.1 100 Continue\r\n\r\n");
    connected.write("[1]");
    expect((await connected.response())?.body).toBe("1");
    await answers(connected, 2);
  });

  test("is refused without it when the body is not, and the connection ends: what comes next may be that body", async () => {
    for (const [path, length, reason] of [
      ["/probe/echo", 600_000, "ARGS_TOO_LARGE"],
      ["/nosuch", 3, "HTTP_PATH_INVALID"],
      ["/probe/echoChan", 3, "METHOD_KIND_MISMATCH"],
    ] as const) {
      const connected = await connection();
      connected.write(head(path, [...expecting, `content-length: ${length}`]));
      await connected.until("\r\n\r\n{");
      expect(connected.text).not.toContain("100 Continue");
      const response = await connected.response();
      expectProblem(response, reason);
      expect(response?.headers.connection).toBe("close");
    }
  });

  test("of HTTP/1.0 is no expectation", async () => {
    const connected = await connection();
    connected.write("POST /probe/echo HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n[1]");
    expect(await connected.closed()).toMatch(/^HTTP\/1\.1 200 OK/);
  });
});
