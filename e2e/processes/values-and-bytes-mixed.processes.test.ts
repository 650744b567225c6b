/**
 * Arguments, results, errors, messages and channel errors, each as a JSON value and as bytes, from end to end: what
 * goes in one form comes out in that form, and what mixes the two is refused where it would be sent.
 */

import { LeverError, MethodError } from "leveros";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { shown } from "../fixtures/shown.ts";
import { type FrontEnd, frontEnds } from "../harness/front-end.ts";
import { lever } from "../harness/lever-command.ts";
import { LeverDev } from "../harness/lever-dev.ts";
import { until } from "../harness/until.ts";

const manifests = ["e2e/fixtures/probe/probe.yaml"];
const bytes = Uint8Array.of(0, 1, 2, 128, 254, 255);
const values = [null, true, -0.5, "é\u0000\u{1f600}", [], {}, [1, [2, { a: null }]], { deep: { er: ["x"] } }];

let dev: LeverDev;
let client: ReturnType<LeverDev["client"]>;
let doors: readonly FrontEnd[];

beforeAll(async () => {
  dev = await LeverDev.start({ manifests });
  client = dev.client();
  doors = frontEnds(dev, client);
});

afterAll(async () => {
  await dev?.stop();
});

/** The arguments of the method that was entered with this id, as it got them. */
function argsOf(id: string): unknown {
  return dev.log.find({ event: "entered", id })?.args;
}

describe.each(["node", "http", "cli"] as const)("calls by %s", (name) => {
  const call: FrontEnd["call"] = (...args) => (doors.find((door) => door.name === name) as FrontEnd).call(...args);

  test("values go in and come out as values", async () => {
    const { result } = await call({ path: "/probe/echo", args: values }, `values-${name}`);
    expect(result).toEqual(values);
    expect(argsOf(`values-${name}`)).toEqual(values);
  });

  test("bytes go in and come out as bytes, none at all too", async () => {
    for (const data of [bytes, new Uint8Array(0)]) {
      const id = `bytes-${data.length}-${name}`;
      const { result } = await call({ path: "/probe/echo", args: data }, id);
      expect(result).toEqual(shown(data));
      expect(argsOf(id)).toEqual([shown(data)]);
    }
  });

  test("a method's error is a value or bytes", async () => {
    for (const args of [[values], bytes] as const) {
      const { reason, value } = await call({ path: "/probe/fail", args }, "error");
      expect({ reason, value }).toEqual({ reason: "METHOD_ERROR", value: args === bytes ? shown(bytes) : values });
    }
  });

  test("bytes within a result are refused at the method, with their place", async () => {
    expect(await call({ path: "/probe/mixed", args: [] }, `mixed-${name}`)).toMatchObject({
      reason: "RESULT_NOT_ENCODABLE",
      effect: "ran",
      text: expect.stringContaining("result[1]"),
    });
    expect(dev.log.enteredWith(`mixed-${name}`)).toBe(1);
  });
});

describe("channels by node", () => {
  test.for([
    ["no arguments", []],
    ["values", values],
    ["bytes", [bytes]],
  ] as const)("opened with %s; messages in both forms, in turns", async ([name, args]) => {
    const id = `channel with ${name}`;
    await using channel = await client.openChannel("/probe/echoChan", args, { metadata: { id } });
    expect(await channel.receive()).toMatchObject({ args: args.map(shown) });
    for (const message of [...values, bytes, new Uint8Array(0), ...values, bytes]) {
      await channel.send(message);
      const back = await channel.receive();
      // A Buffer would be equal to it too, and is not what was promised.
      if (message instanceof Uint8Array) expect(back?.constructor).toBe(Uint8Array);
      expect(back).toEqual(message);
    }
    channel.closeWrite();
    expect(await channel.receive()).toBeUndefined();
    expect(argsOf(id)).toEqual(args.map(shown));
  });

  test.for([values, bytes])("the method's error comes after what it sent", async (value) => {
    const channel = await client.openChannel("/probe/failChan", [value]);
    expect(await channel.receive()).toBe("before");
    const error = await channel.receive().catch((thrown: unknown) => thrown);
    expect(MethodError.is(error) && error.value).toEqual(value);
  });

  test.for([{ error: "ENOUGH", values }, bytes])("the caller's error reaches the method", async (value) => {
    const id = `fails with ${value === bytes ? "bytes" : "values"}`;
    const channel = await client.openChannel("/probe/watchChan", [], { metadata: { id } });
    expect(await channel.receive()).toBe("watching");
    channel.fail(value);
    const ended = await until("the method has seen it", () => dev.log.find({ event: "ended", id }));
    expect(ended).toMatchObject({ how: shown(value), kind: "method" });
  });
});

describe("channels by the command line", () => {
  const chan = (method: string, args: readonly string[], input: string | Uint8Array) =>
    lever(["chan", `lever://dev/probe/${method}`, "--gateway", dev.gateway, "-o", "json", ...args], { input });

  test("lines are values, --bytes sends bytes", async () => {
    const lines = await chan("echoChan", [], values.map((value) => `${JSON.stringify(value)}\n`).join(""));
    expect(lines.exitCode).toBe(0);
    expect(lines.stdout.trim().split("\n").slice(1).map(parsed)).toEqual(values);
    const raw = await chan("echoChan", ["--bytes"], bytes);
    expect(raw.stdout.trim().split("\n").slice(1).map(parsed)).toEqual([shown(bytes)]);
  });

  test("a channel's error is the method's own, exit code 1", async () => {
    const { exitCode, stdout } = await chan("failChan", ["--", JSON.stringify(values)], "");
    const [before, error] = stdout.trim().split("\n").map(parsed);
    expect({ exitCode, before, error }).toMatchObject({
      exitCode: 1,
      before: "before",
      error: { error: { reason: "METHOD_ERROR", value: values } },
    });
  });

  test("bytes as the arguments beside values are refused", async () => {
    const { exitCode, stdout } = await chan("echoChan", ["--args-file", "-", "--", "1"], bytes);
    expect({ exitCode, error: parsed(stdout) }).toMatchObject({
      exitCode: 2,
      error: { error: { reason: "ARGS_FORM" } },
    });
  });
});

describe("channels by HTTP", () => {
  const chan = async (method: string, lines: readonly unknown[]) => {
    const response = await fetch(`${dev.httpUrl}/probe/${method}?forceenv=dev`, {
      method: "POST",
      headers: { "content-type": "application/x-ndjson" },
      body: lines.map((line) => `${JSON.stringify(line)}\n`).join(""),
    });
    return (await response.text()).trim().split("\n").map(parsed);
  };

  test("the first line is the arguments, each further line a message", async () => {
    const [first, ...rest] = await chan("echoChan", [values, ...values]);
    expect(first).toMatchObject({ args: values });
    expect(rest).toEqual(values);
  });

  test("a channel's error is the last line", async () => {
    expect(await chan("failChan", [[values]])).toMatchObject([
      "before",
      { error: { reason: "METHOD_ERROR", value: values } },
    ]);
  });
});

describe("what mixes values and bytes is refused where it would be sent, with its index", () => {
  test.for([
    [[1, bytes], 1],
    [[bytes, bytes], 0],
    [[bytes, 1], 0],
    [["a", "b", bytes.buffer], 2],
  ] as const)("as arguments", async ([args, index]) => {
    for (const open of [
      () => client.invoke("/probe/echo", args, { metadata: { id: "refused" } }),
      () => client.openChannel("/probe/echoChan", args, { metadata: { id: "refused" } }),
    ]) {
      const error = await open().catch((thrown: unknown) => thrown);
      expect(LeverError.is(error) && { ...error }).toMatchObject({
        reason: "ARGS_FORM",
        effect: "none",
        details: { index },
      });
    }
    expect(dev.log.enteredWith("refused")).toBe(0);
  });

  test("as a message; the channel goes on", async () => {
    await using channel = await client.openChannel("/probe/echoChan", []);
    await channel.receive();
    const error = await channel.send(["a", bytes]).catch((thrown: unknown) => thrown);
    expect(LeverError.is(error) && error.reason).toBe("VALUE_NOT_ENCODABLE");
    expect((error as Error).message).toContain("message[1]");
    await channel.send("still open");
    expect(await channel.receive()).toBe("still open");
  });

  test("as arguments of an app, and the control: without the check they are not", async () => {
    const refused = await client.invoke("/probe/sendMixed");
    expect(refused).toEqual({ reason: "ARGS_FORM", effect: "none", index: 2 });
    await using sick = await LeverDev.start({
      manifests,
      patches: [
        {
          file: "protocol/value/form.ts",
          find: 'if (typeof arg === "object" && arg !== null && isBinary(arg)) refuseBytes(arg, index, count);',
          replace: "",
        },
      ],
    });
    await using sickClient = sick.client();
    const control = await sickClient.invoke("/probe/sendMixed");
    console.log(`mixed arguments: ${JSON.stringify(refused)}; control: ${JSON.stringify(control)}`);
    expect(control).not.toEqual(refused);
  });
});

function parsed(line: string): unknown {
  return JSON.parse(line) as unknown;
}
