/** `lever invoke` and `lever chan` as processes, against a running `lever dev` with the examples. */

import { execFile, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import path from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { lever } from "../e2e/harness/lever-command.ts";
import { LeverDev } from "../e2e/harness/lever-dev.ts";
import { peakBytes, residentBytes } from "../e2e/harness/process-list.ts";
import { until } from "../e2e/harness/until.ts";
import { bin, leverCommand, RunningCommand, root } from "./running-command.fixture.ts";

let dev: LeverDev;
beforeAll(async () => {
  dev = await LeverDev.start({ manifests: ["examples"] });
});
afterAll(async () => {
  await dev[Symbol.asyncDispose]();
});

const at = () => ["--gateway", dev.gateway];
const json = (text: string) => JSON.parse(text) as unknown;
const haggle = (...more: string[]) => ["chan", "/negotiate/haggleChan", '"a carpet"', "100", ...at(), ...more];

describe("lever invoke", () => {
  test("prints the result", async () => {
    expect(await lever(["invoke", "lever://dev/hello/sayHello", '"world"', ...at()])).toEqual({
      exitCode: 0,
      stdout: '"Hello, world!"\n',
      stderr: "",
    });
    const { stdout } = await lever(["invoke", "/greeter/greetAll", '["Ada"]', ...at()]);
    expect(stdout).toBe('[\n  "Hello, Ada!"\n]\n');
  });

  test("takes bytes from a file or standard input, and prints bytes as they are, or as base64", async () => {
    const bytes = ["invoke", "/hello/reverse", "--args-file", "-", ...at()];
    expect(await lever(bytes, { input: "abc" })).toMatchObject({ exitCode: 0, stdout: "cba" });
    const { stdout } = await lever([...bytes, "-o", "json"], { input: "abc" });
    expect(json(stdout)).toEqual({ bytes: Buffer.from("cba").toString("base64") });
  });

  test("a port in the URL is the gateway's", async () => {
    const port = dev.gateway.split(":")[1];
    const { stdout } = await lever(["invoke", `lever://dev:${port}/hello/sayHello`, '"x"']);
    expect(stdout).toBe('"Hello, x!"\n');
  });

  test.each([
    ["the method's error", ["/hello/divide", "1", "0"], 1, "METHOD_ERROR", "ran"],
    ["an unknown service", ["/helo/sayHello"], 2, "SERVICE_NOT_FOUND", "none"],
    ["an unknown method", ["/hello/sayHelo"], 2, "METHOD_NOT_FOUND", "none"],
    ["a streaming method", ["/upload/putChan"], 2, "METHOD_KIND_MISMATCH", "none"],
    ["a URL that is none", ["hello/sayHello"], 2, "INVALID_URL", "none"],
    ["an argument that is no JSON", ["/hello/sayHello", "world"], 2, "INVALID_ARGUMENTS", "none"],
    ["an option out of its range", ["/hello/sayHello", "-t", "0"], 2, "INVALID_OPTION", "none"],
    ["an unknown flag", ["/hello/sayHello", "--bogus"], 2, "INVALID_OPTION", "none"],
    ["a gateway that is not there", ["/hello/sayHello", "--gateway", "127.0.0.1:1"], 3, "AGENT_UNREACHABLE", "none"],
  ])("%s: exit code and JSON", async (_, args, exitCode, reason, effect) => {
    const gateway = args.includes("--gateway") ? [] : at();
    const { stdout, ...result } = await lever(["invoke", ...args, ...gateway, "-o", "json"]);
    expect(result).toEqual({ exitCode, stderr: "" });
    expect(json(stdout)).toMatchObject({ error: { reason, effect } });
  });

  test("an error is text for people on standard error: what, whether the method ran, what to do", async () => {
    const { exitCode, stdout, stderr } = await lever(["invoke", "/hello/sayHelo", ...at()]);
    expect({ exitCode, stdout }).toEqual({ exitCode: 2, stdout: "" });
    expect(stderr.split("\n")).toEqual([
      expect.stringMatching(/^METHOD_NOT_FOUND: dev\/hello has no method sayHelo; it has .*sayHello/),
      "  arguments error, UNIMPLEMENTED; the method did not run (effect: none)",
      expect.stringMatching(/^ {2}Check the name/),
      "",
    ]);
  });

  test("a port that does not speak Lever is no gateway", async () => {
    const { host } = new URL(dev.httpUrl);
    expect(await lever(["invoke", "/hello/sayHello", '"x"', "--gateway", host])).toMatchObject({
      exitCode: 3,
      stderr: expect.stringContaining("is the peer a Lever peer?"),
    });
  });

  test("a gateway that is not there: what to start", async () => {
    const { stderr } = await lever(["invoke", "/hello/sayHello", "--gateway", "127.0.0.1:1"]);
    expect(stderr).toMatch(/ECONNREFUSED.*`lever dev`/s);
  });

  test("output that cannot be written is an error, a reader that has gone is none", async () => {
    const run = (redirect: string) =>
      promisify(execFile)(
        "/bin/sh",
        ["-c", `lever invoke /hello/sayHello '"x"' --gateway ${dev.gateway} ${redirect}`],
        {
          env: { ...process.env, PATH: `${bin}:${process.env["PATH"]}` },
        },
      ).catch((error: { code: number; stderr: string }) => error);
    expect(await run("> /dev/full")).toMatchObject({ code: 4, stderr: expect.stringContaining("no space left") });
    expect(await run("| true")).toMatchObject({ stderr: "" });
  });
});

describe("lever chan", () => {
  test("lines are messages both ways; the end of the input half-closes", async () => {
    expect(await lever(haggle(), { input: '{"price":60}\n\n{"price":76}\n' })).toEqual({
      exitCode: 0,
      stdout: '{"price":100}\n{"price":80}\n{"price":78}\n{"price":76}\n',
      stderr: "",
    });
  });

  test("the method's error comes last: exit code 1", async () => {
    const input = '{"price":1}\n';
    expect(await lever(haggle(), { input })).toMatchObject({
      exitCode: 1,
      stdout: '{"price":100}\n',
      stderr: expect.stringContaining('{"error":"INSULTED"'),
    });
    const { exitCode, stdout } = await lever(haggle("-o", "json"), { input });
    expect({ exitCode, last: json(stdout.split("\n").at(-2) as string) }).toMatchObject({
      exitCode: 1,
      last: { error: { reason: "METHOD_ERROR", value: { error: "INSULTED", offered: 1 } } },
    });
  });

  test("a line that is no JSON ends it, and is named: exit code 2", async () => {
    const { exitCode, stdout } = await lever(haggle("-o", "json"), { input: '{"price":60}\nnonsense\n' });
    expect({ exitCode, last: json(stdout.split("\n").at(-2) as string) }).toMatchObject({
      exitCode: 2,
      last: { error: { reason: "INVALID_ARGUMENTS", message: expect.stringMatching(/^line 2 .*nonsense/) } },
    });
  });

  test("the other side ends first: so does the command, though its input is open", async () => {
    using command = leverCommand(haggle(), { writesInput: true });
    command.child.stdin?.write('{"price":100}\n');
    expect(await command.exited).toEqual({ code: 0, signal: null });
    expect(command.stdout).toBe('{"price":100}\n{"price":100}\n');
  });

  test("the other side half-closes and goes on reading: what the input holds still reaches it", async () => {
    // 50 brings the seller down to its lowest price, at which it half-closes; 75 takes it.
    const before = dev.output.text.length;
    expect(await lever(haggle(), { input: '{"price":50}\n{"price":75}\n' })).toMatchObject({
      exitCode: 0,
      stdout: '{"price":100}\n{"price":75}\n',
    });
    await until("it is sold", () => dev.output.text.slice(before).includes("a carpet: sold for 75"));
  });

  test.each(["SIGINT", "SIGTERM"] as const)("%s cancels: the method learns of it, exit code 3", async (signal) => {
    const before = dev.output.text.length;
    using command = leverCommand(haggle("-o", "json"), { writesInput: true });
    await command.shows('{"price":100}');
    command.signal(signal);
    expect(await command.exited).toEqual({ code: 3, signal: null });
    expect(json(command.stdout.split("\n")[1] as string)).toMatchObject({
      error: { reason: "CANCELLED", effect: "ran" },
    });
    // It did not go on as if the buyer had half-closed.
    expect(dev.output.text.slice(before)).not.toContain("sold");
  });

  test("a reader that has had enough ends it quietly", async () => {
    using command = leverCommand(["chan", "/upload/getChan", "1000000000", ...at()]);
    await until("something has come", () => command.stdout !== "");
    command.child.stdout?.destroy();
    expect(await command.exited).toEqual({ code: 0, signal: null });
    expect(command.stderr).toBe("");
  });

  test("128 MiB up from a pipe: all of it arrives, and little of it is held", async () => {
    const command = spawn(path.join(bin, "lever"), ["chan", "/upload/putChan", "--bytes", ...at()], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    const hash = createHash("sha256");
    const part = Buffer.alloc(1024 * 1024);
    let answer = "";
    command.stdout.on("data", (chunk: Buffer) => {
      answer += chunk.toString();
    });
    let peak = 0;
    for (let i = 0; i < 128; i++) {
      for (let at = 0; at < part.length; at += 4)
        part.writeUInt32LE(Math.imul(i * part.length + at, 2654435761) >>> 0, at);
      hash.update(part);
      if (!command.stdin.write(Uint8Array.from(part))) await new Promise((go) => command.stdin.once("drain", go));
      if (i > 100) peak = peakBytes(command.pid as number);
    }
    command.stdin.end();
    await new Promise((done) => command.once("close", done));
    expect(json(answer)).toEqual({ bytes: 128 * part.length, sha256: hash.digest("hex") });
    expect(peak).toBeLessThan((await idleBytes()) + 64 * 1024 ** 2);
  });

  test("a reader that stalls stops the writer, and loses nothing", async () => {
    const command = spawn(path.join(bin, "lever"), ["chan", "/upload/getChan", String(64 * 1024 ** 2), ...at()], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    const { pid, stdout } = command;
    await new Promise((readable) => stdout.once("readable", readable));
    let before = -1;
    // It fills what there is of windows and buffers, and then holds still.
    await until("it holds still", () => {
      const now = residentBytes(pid as number);
      const isStill = now === before;
      before = now;
      return isStill;
    });
    expect(peakBytes(pid as number)).toBeLessThan((await idleBytes()) + 64 * 1024 ** 2);
    const parts: Buffer[] = [];
    for await (const part of stdout) parts.push(part as Buffer);
    const all = Buffer.concat(parts);
    const data = all.subarray(0, 64 * 1024 ** 2);
    expect(json(all.subarray(data.length).toString())).toEqual({
      bytes: data.length,
      sha256: createHash("sha256").update(data).digest("hex"),
    });
  });

  test.skipIf(!existsSync("/usr/bin/script"))("at a terminal who mistypes goes on", async () => {
    const line = `lever ${haggle()
      .map((word) => `'${word}'`)
      .join(" ")}`;
    using terminal = new RunningCommand("/usr/bin/script", ["-qec", line, "/dev/null"], { writesInput: true });
    const type = (text: string) => terminal.child.stdin?.write(text);
    await terminal.shows('{"price":100}');
    type("oops\r");
    await terminal.shows("which is no JSON value");
    type('{"price":60}\r');
    await terminal.shows('{"price":80}');
    type('{"price":80}\r');
    await terminal.shows("the other side has ended");
    expect(await terminal.exited).toMatchObject({ code: 0 });
  });
});

describe("what `lever dev` prints to try", () => {
  test("works when it is pasted", async () => {
    const lines = dev.output.text.split("\n").filter((line) => /^ {2}(curl|npx|echo|head) /.test(line));
    expect(lines.length).toBeGreaterThanOrEqual(5);
    const answers = new Map<string, string>();
    for (const line of lines) {
      // As a user has it: the system's Node, and npx.
      const { stdout } = await promisify(execFile)("/bin/sh", ["-c", line], { cwd: root }).catch(
        (error: { code: number; stdout: string; stderr: string }) => {
          if (error.code === 1 && line.includes("/divide 1 0")) return error;
          throw error;
        },
      );
      answers.set(
        line
          .trim()
          .split(" --gateway")[0]
          ?.replace(/127\.0\.0\.1:\d+/, "HOST") as string,
        stdout,
      );
    }
    expect([...answers.values()].slice(0, 3)).toEqual(['"Hello, world!"', '"Hello, world!"\n', ""]);
    expect(answers.get(`npx lever invoke lever://dev/greeter/greetAll '["Ada","Grace"]'`)).toContain("Hello, Grace!");
    const upload = [...answers.keys()].find((line) => line.startsWith("head -c 10000000 ")) as string;
    expect(answers.get(upload)).toMatch(/^\{"bytes":10000000,"sha256":"[0-9a-f]{64}"\}\n$/);
    expect(answers.get("npx lever invoke lever://dev/chat/room-7/history")).toContain('"hi all"');
    expect(answers.get("npx lever explain lever://dev/chat/room-7/")).toMatch(/^resource {4}"room-7" of dev\/chat\n/);
  });
});

/** A `lever chan` that has nothing to do. */
async function idleBytes(): Promise<number> {
  using command = leverCommand(haggle(), { writesInput: true });
  await command.shows('{"price":100}');
  return peakBytes(command.pid);
}
