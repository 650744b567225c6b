/** Channels over HTTP: NDJSON in both directions, over raw connections where the order of events matters. */

import { catalogue, type Reason } from "@leveros/protocol/error/catalogue.ts";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Probe } from "../probe.fixture.ts";
import { RawConnection, type Rig, startRig } from "../rig.fixture.ts";

const probe = new Probe();
const limitMs = 1000;
let rig: Rig;
let quick: Rig;
const open: RawConnection[] = [];

beforeAll(async () => {
  rig = await startRig({ "dev/probe": probe.methods });
  quick = await startRig({ "dev/probe": probe.methods }, { httpLimits: { exchangeMsMax: limitMs } });
});

afterAll(async () => {
  for (const connection of open) connection.destroy();
  probe.release();
  await rig.close();
  await quick.close();
});

const headers = { "content-type": "application/x-ndjson" };

async function post(method: string, body: string | Uint8Array<ArrayBuffer>) {
  const response = await fetch(`${rig.url}/probe/${method}`, { method: "POST", headers, body });
  return { status: response.status, type: response.headers.get("content-type"), lines: linesOf(await response.text()) };
}

function linesOf(text: string): unknown[] {
  if (text === "") return [];
  expect(text.endsWith("\n")).toBe(true);
  return text
    .slice(0, -1)
    .split("\n")
    .map((line) => JSON.parse(line) as unknown);
}

/** One exchange whose body is written piece by piece. */
class Talk {
  readonly connection: RawConnection;

  private constructor(connection: RawConnection) {
    this.connection = connection;
  }

  static async begin(method: string, on: Rig = rig, extra: readonly string[] = []): Promise<Talk> {
    const connection = await RawConnection.open(on.gateway.httpPort);
    open.push(connection);
    const lines = ["Host: localhost", "content-type: application/x-ndjson", "transfer-encoding: chunked", ...extra];
    connection.write(`POST /probe/${method} HTTP/1.1\r\n${lines.map((line) => `${line}\r\n`).join("")}\r\n`);
    return new Talk(connection);
  }

  write(text: string): void {
    this.connection.write(`${Buffer.byteLength(text).toString(16)}\r\n${text}\r\n`);
  }

  endBody(): void {
    this.connection.write("0\r\n\r\n");
  }

  /** The whole answer. */
  async answer(): Promise<{ status: number; lines: unknown[] }> {
    const response = await this.connection.response();
    if (response === undefined) throw new Error("the connection was closed before the end of the answer");
    return { status: response.status, lines: linesOf(response.body) };
  }
}

function expectLastLine(lines: readonly unknown[], reason: Reason, value?: unknown): void {
  const row = catalogue[reason];
  const last = lines.at(-1) as { error: Record<string, unknown> };
  expect(Object.keys(last)).toEqual(["error"]);
  expect(last.error).toMatchObject({ kind: row.kind, code: row.code, reason, effect: "ran", status: row.httpStatus });
  expect(last.error.detail).toMatch(/\S/);
  if (value !== undefined) expect(last.error.value).toEqual(value);
}

async function newEnd(before: number): Promise<unknown> {
  await probe.when(() => probe.ends.length > before);
  return probe.ends.at(-1);
}

describe("what goes through", () => {
  test("messages come back as they were sent, in order; the end of the body is the method's", async () => {
    const before = probe.ends.length;
    const messages = [1, "é\u2028", null, { a: [true] }, { bytes: "AAA=" }, { value: { bytes: "x" } }, [{ error: 1 }]];
    const { status, type, lines } = await post(
      "echoChan",
      `[]\n${messages.map((each) => JSON.stringify(each)).join("\n")}`,
    );
    expect(status).toBe(200);
    expect(type).toBe("application/x-ndjson");
    expect(lines).toEqual(messages);
    expect(await newEnd(before)).toBe("clean");
  });

  test("the arguments: some, none, an empty body, bytes", async () => {
    expect((await post("echoChan", '["a",1]\n2\n')).lines).toEqual([["a", 1], 2]);
    expect((await post("echoChan", "[]")).lines).toEqual([]);
    expect((await post("echoChan", "")).lines).toEqual([]);
    expect((await post("echoChan", "\n\n[7]\n")).lines).toEqual([7]);
    expect((await post("echoChan", '{"bytes":"AQI="}\n{"bytes":""}')).lines).toEqual([
      { bytes: "AQI=" },
      { bytes: "" },
    ]);
  });

  test("line ends of Windows, blank lines, no line end at the end", async () => {
    expect((await post("echoChan", "[]\r\n1\r\n\r\n   \r\n2")).lines).toEqual([1, 2]);
  });

  test("a line that comes in pieces, within a character", async () => {
    const talk = await Talk.begin("echoChan");
    const text = Buffer.from('[]\n"zürich"\n', "utf8");
    for (const byte of text) {
      talk.connection.write("1\r\n");
      talk.connection.write(Uint8Array.of(byte));
      talk.connection.write("\r\n");
    }
    talk.endBody();
    const response = await talk.connection.response();
    expect(Buffer.from(response?.body ?? "", "latin1").toString("utf8")).toBe('"zürich"\n');
  });

  test("an answer begins when the method has been entered, and messages arrive while the body is open", async () => {
    const talk = await Talk.begin("echoChan");
    talk.write("[]\n");
    expect(await talk.connection.until("\r\n\r\n")).toMatch(/^HTTP\/1\.1 200 OK/);
    for (const message of [1, 2, 3]) {
      talk.write(`${message}\n`);
      await talk.connection.until(`\n${message}\n`);
    }
    talk.endBody();
    expect((await talk.answer()).lines).toEqual([1, 2, 3]);
  });

  test("the connection carries the next request", async () => {
    const talk = await Talk.begin("echoChan");
    talk.write("[]\n1\n");
    talk.endBody();
    await talk.answer();
    talk.connection.write("POST /probe/echo HTTP/1.1\r\nHost: x\r\ncontent-length: 3\r\n\r\n[1]");
    expect((await talk.connection.response())?.body).toBe("1");
  });
});

describe("ends", () => {
  test("the method may return while the client still sends: the answer ends, the connection goes on", async () => {
    const talk = await Talk.begin("firstChan");
    talk.write("[]\n1\n");
    expect((await talk.answer()).lines).toEqual([1]);
    talk.write("2\n3\n");
    talk.endBody();
    talk.connection.write("POST /probe/echo HTTP/1.1\r\nHost: x\r\ncontent-length: 3\r\n\r\n[9]");
    expect((await talk.connection.response())?.body).toBe("9");
  });

  test("the method may end its direction first and read on: nothing of what is sent is lost", async () => {
    const before = { ends: probe.ends.length, taken: probe.taken };
    const talk = await Talk.begin("takeChan");
    talk.write("[]\n1\n");
    expect((await talk.answer()).lines).toEqual([]);
    for (let i = 0; i < 100; i++) talk.write(`${i}\n`);
    talk.endBody();
    expect(await newEnd(before.ends)).toBe("clean");
    expect(probe.taken - before.taken).toBe(101);
  });

  test("a client that goes away cancels the channel", async () => {
    const before = probe.ends.length;
    const talk = await Talk.begin("echoChan");
    talk.write("[]\n1\n");
    await talk.connection.until("\n1\n");
    talk.connection.destroy();
    expect(await newEnd(before)).toMatchObject({ reason: "CANCELLED" });
  });

  test("a client that goes away after the answer's end cancels what is left", async () => {
    const before = probe.ends.length;
    const talk = await Talk.begin("takeChan");
    talk.write("[]\n1\n");
    await talk.answer();
    talk.connection.destroy();
    expect(await newEnd(before)).toMatchObject({ reason: "CANCELLED" });
  });

  test("a client that stops its body within a line has gone, not ended", async () => {
    const before = probe.ends.length;
    const talk = await Talk.begin("echoChan");
    talk.write('[]\n1\n"half');
    await talk.connection.until("\n1\n");
    talk.connection.socket.end();
    expect(await newEnd(before)).toMatchObject({ reason: "CANCELLED" });
  });
});

describe("errors before the method was entered are problem details", () => {
  test.each<[name: string, method: string, body: string, reason: Reason]>([
    ["no JSON", "echoChan", "[1,\n", "BODY_INVALID"],
    ["no array", "echoChan", '{"a":1}\n', "BODY_INVALID"],
    ["bytes that are none", "echoChan", '{"bytes":"?"}\n', "BODY_INVALID"],
    ["a wrong argument", "textChan", "[5]\n", "INVALID_ARGUMENTS"],
    ["arguments of 512 KiB and more", "echoChan", `["${"x".repeat(524_288)}"]\n`, "ARGS_TOO_LARGE"],
    ["arguments without an end", "echoChan", `["${"x".repeat(600_000)}`, "ARGS_TOO_LARGE"],
    ["an unknown method", "nosuchChan", "[]\n", "METHOD_NOT_FOUND"],
  ])("%s", async (_, method, body, reason) => {
    const before = probe.runs;
    const response = await fetch(`${rig.url}/probe/${method}`, { method: "POST", headers, body });
    expect(response.status).toBe(catalogue[reason].httpStatus);
    expect(response.headers.get("content-type")).toBe("application/problem+json");
    expect(response.headers.get("lever-effect")).toBe("none");
    expect(await response.json()).toMatchObject({ reason, effect: "none" });
    expect(probe.runs).toBe(before);
  });

  test("arguments that do not come in the caller's time", async () => {
    const talk = await Talk.begin("echoChan", rig, ["lever-timeout-ms: 50"]);
    talk.write("[");
    const response = await talk.connection.response();
    expect(response?.headers["lever-reason"]).toBe("DEADLINE_EXCEEDED");
    expect(response?.headers["lever-effect"]).toBe("none");
  });
});

describe("errors afterwards are the last line", () => {
  test.each<[name: string, body: string, reason: Reason, detail: string]>([
    ["no JSON", "[]\n1\nnope\n2\n", "BODY_INVALID", "line 3"],
    ["half a character", '[]\n"\\ud800"\n', "VALUE_NOT_ENCODABLE", "line 2"],
    ["bytes that are none", '[]\n\n{"bytes":"?"}\n', "BODY_INVALID", "line 3"],
    ["a line that is too long", `[]\n"${"x".repeat(524_288)}"\n`, "MESSAGE_TOO_LARGE", "line 2"],
  ])("%s: both sides learn of it", async (_, body, reason, detail) => {
    const before = { ends: probe.ends.length, runs: probe.runs };
    const { status, lines } = await post("echoChan", body);
    expect(status).toBe(200);
    expectLastLine(lines, reason);
    expect((lines.at(-1) as { error: { detail: string } }).error.detail).toContain(detail);
    expect(await newEnd(before.ends)).toMatchObject({ reason });
    expect(probe.runs - before.runs).toBe(1);
  });

  test("bytes that are no UTF-8", async () => {
    const { lines } = await post("echoChan", new Uint8Array([...Buffer.from("[]\n"), 0x22, 0xff, 0x22, 0x0a]));
    expectLastLine(lines, "BODY_INVALID");
  });

  test.each([{ e: 1 }, "text", null, { bytes: "AAAA" }])("a method's error, after its messages: %j", async (value) => {
    const { lines } = await post("failChan", `[3,${JSON.stringify(value)}]\n`);
    expect(lines.slice(0, -1)).toEqual([0, 1, 2]);
    // As in any line, a value that looks like bytes is put into `value`.
    const isLikeBytes = JSON.stringify(value) === '{"bytes":"AAAA"}';
    expectLastLine(lines, "METHOD_ERROR", isLikeBytes ? { value } : value);
  });

  test("a method's error of bytes", async () => {
    expectLastLine((await post("failBytesChan", "[]\n")).lines, "METHOD_ERROR", { bytes: "CQ==" });
  });

  test("what a method throws by mistake stays at the instance", async () => {
    const { lines } = await post("refusesChan", "[]\n");
    expectLastLine(lines, "METHOD_THREW");
    expect(JSON.stringify(lines)).not.toContain("secret");
  });

  test("an instance that is killed", async () => {
    const other = await startRig({ "dev/probe": probe.methods });
    try {
      const talk = await Talk.begin("echoChan", other);
      talk.write("[]\n1\n");
      await talk.connection.until("\n1\n");
      await other.kill("dev/probe");
      const { lines } = await talk.answer();
      expect(lines[0]).toBe(1);
      expect((lines.at(-1) as { error: object }).error).toMatchObject({ kind: "network", effect: "ran" });
    } finally {
      await other.close();
    }
  });

  test("the rest of a body that nobody reads does not hold the answer back", async () => {
    const talk = await Talk.begin("failChan");
    talk.write("[0,1]\n");
    for (let i = 0; i < 50; i++) talk.write(`"${"x".repeat(100_000)}"\n`);
    expectLastLine((await talk.answer()).lines, "METHOD_ERROR");
  });
});

describe("the time limit", () => {
  test("ends an open exchange with a line that says so; the method learns it too", async () => {
    const before = probe.ends.length;
    const talk = await Talk.begin("echoChan", quick);
    talk.write("[]\n1\n");
    const { lines } = await talk.answer();
    expect(lines[0]).toBe(1);
    expectLastLine(lines, "CHANNEL_TIME_LIMIT");
    expect(await newEnd(before)).toMatchObject({ reason: "CHANNEL_TIME_LIMIT" });
  });

  test("ends a wait for the arguments", async () => {
    const talk = await Talk.begin("echoChan", quick);
    const response = await talk.connection.response();
    expect(response?.status).toBe(504);
    expect(response?.headers).toMatchObject({ "lever-reason": "CHANNEL_TIME_LIMIT", "lever-effect": "none" });
  });

  test("ends an opening: the method may have been entered", async () => {
    const talk = await Talk.begin("neverChan", quick);
    talk.write("[]\n");
    const response = await talk.connection.response();
    expect(response?.status).toBe(504);
    expect(response?.headers).toMatchObject({ "lever-reason": "CHANNEL_TIME_LIMIT", "lever-effect": "unknown" });
  });

  test("ends what goes on after the answer's end, by closing the connection", async () => {
    const before = probe.ends.length;
    const talk = await Talk.begin("takeChan", quick);
    talk.write("[]\n1\n");
    await talk.answer();
    expect(await talk.connection.closed()).toBe("");
    expect(await newEnd(before)).toMatchObject({ reason: "CHANNEL_TIME_LIMIT" });
  });

  test("ends a client that reads nothing", async () => {
    const before = { ends: probe.ends.length, taken: probe.taken };
    const talk = await Talk.begin("pourChan", quick);
    talk.write("[100000]\n");
    talk.connection.socket.pause();
    expect(await newEnd(before.ends)).toMatchObject({ reason: "CHANNEL_TIME_LIMIT" });
    const taken = probe.taken - before.taken;
    // Windows and the kernel's buffers, and no more: 200 of these are 20 MB.
    expect(taken).toBeLessThan(200);
    expect(taken).toBeGreaterThan(0);
  });
});

describe("back-pressure", () => {
  test("a method that does not read stops its client; when it reads, all arrives", async () => {
    const before = { taken: probe.taken, ends: probe.ends.length };
    const talk = await Talk.begin("stallChan");
    talk.write("[]\n");
    const count = 600;
    const line = `"${"x".repeat(100_000)}"\n`;
    const sent = (async () => {
      for (let i = 0; i < count; i++) {
        talk.write(line);
        if (talk.connection.socket.writableLength > 1_000_000) {
          await new Promise((resolve) => talk.connection.socket.once("drain", resolve));
        }
      }
      talk.endBody();
    })();
    const written = () => talk.connection.socket.bytesWritten - talk.connection.socket.writableLength;
    for (let last = -1; last !== written(); ) {
      last = written();
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
    // 60 MB are to be sent: most of them are still here.
    expect(written()).toBeLessThan(30_000_000);
    expect(probe.taken).toBe(before.taken);
    probe.release();
    await sent;
    expect(await newEnd(before.ends)).toBe("clean");
    expect(probe.taken - before.taken).toBe(count);
    expect((await talk.answer()).lines).toEqual([]);
  });

  test("a client that does not read stops the method", async () => {
    const before = probe.taken;
    const talk = await Talk.begin("pourChan");
    talk.write("[100000]\n");
    talk.connection.socket.pause();
    let last = -1;
    while (last !== probe.taken || probe.taken === before) {
      last = probe.taken;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    expect(probe.taken - before).toBeLessThan(200);
    talk.connection.destroy();
  });
});
