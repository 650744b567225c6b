/** `lever dev` as a process: what it refuses, what it says of services that fail, and that it leaves nothing behind. */

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type Server } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { lever } from "../e2e/harness/lever-command.ts";
import { processesOf } from "../e2e/harness/process-list.ts";
import { until } from "../e2e/harness/until.ts";
import { leverCommand, RunningCommand, root } from "./running-command.fixture.ts";

const ports = ["--http-port", "0", "--port", "0"];
const hello = path.join(root, "examples/hello");

let directory: string;
beforeAll(() => {
  directory = mkdtempSync(path.join(tmpdir(), "lever-dev-"));
});
afterAll(() => rmSync(directory, { recursive: true }));

interface Manifest {
  readonly name: string;
  readonly namespace?: string;
  readonly command: string;
  readonly replicas?: number;
}

let folders = 0;

/** A folder with these manifests. */
function manifests(...services: readonly Manifest[]): string {
  folders++;
  const folder = path.join(directory, String(folders));
  mkdirSync(folder);
  for (const { name, namespace = "dev", command, replicas = 1 } of services) {
    const manifest = {
      apiVersion: "leveros.dev/v1alpha1",
      kind: "LeverService",
      metadata: { name, namespace, annotations: { "leveros.dev/dev-command": command } },
      spec: { replicas, template: { spec: { containers: [{ name: "app", image: "example.org/app:1" }] } } },
    };
    writeFileSync(path.join(folder, `${name}-${namespace}.yaml`), JSON.stringify(manifest));
  }
  return folder;
}

const forever = "exec sleep 1000";
/** Serves what the example serves, from elsewhere. */
const servesHello = `exec node ${path.join(hello, "main.ts")}`;

describe("refuses, and starts nothing:", () => {
  test.each<[string, () => string[], RegExp]>([
    ["a folder that is not there", () => ["-f", "/nowhere"], /-f \/nowhere: there is no such file or folder/],
    ["a folder without manifests", () => ["-f", manifests()], /there is no LeverService in \S+; name its manifest/],
    [
      "two services of one name",
      () => {
        const folder = manifests({ name: "twin", command: forever });
        return ["-f", folder, "-f", manifests({ name: "twin", command: forever })];
      },
      /twin-dev\.yaml:1:\d+ metadata\.name: found a second LeverService twin in dev; the first is at \S+twin-dev\.yaml:1/,
    ],
    [
      "a field that is wrong, by its place",
      () => ["-f", manifests({ name: "one", command: forever, replicas: -1 })],
      /one-dev\.yaml:1:\d+ spec\.replicas: found -1, expected .*\n1 problem in the manifests; nothing was started/,
    ],
    [
      "more instances than a machine runs",
      () => ["-f", manifests({ name: "many", command: forever, replicas: 101 })],
      /spec\.replicas: found 101, expected at most 100/,
    ],
    [
      "an image's command alone",
      () => {
        const folder = manifests();
        const file = path.join(folder, "image.yaml");
        writeFileSync(
          file,
          "apiVersion: leveros.dev/v1alpha1\nkind: LeverService\nmetadata: { name: image }\nspec:\n" +
            "  template: { spec: { containers: [{ name: app, image: x, command: [node, a.js] }] } }\n",
        );
        return ["-f", file];
      },
      /image\.yaml:3:\d+ \S*leveros\.dev\/dev-command\S*: found no local command/,
    ],
    ["a variable that is none", () => ["--env", "a b=c"], /--env.*Expected NAME=value/],
  ])("%s", async (_, args, message) => {
    const { exitCode, stdout, stderr } = await lever(["dev", ...ports, ...args()]);
    expect({ exitCode, stderr }).toEqual({ exitCode: 2, stderr: expect.stringMatching(message) });
    expect(stdout).not.toContain("serves");
  });

  test.each([
    ["--http-port", "--port"],
    ["--port", "--http-port"],
  ])("%s in use: the message names the flag", async (busyFlag, otherFlag) => {
    const server: Server = createServer();
    await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
    const { port } = server.address() as { port: number };
    const started = path.join(directory, `started${busyFlag}`);
    const folder = manifests({ name: "one", command: `touch ${started}; ${forever}` });
    using command = leverCommand(["dev", busyFlag, String(port), otherFlag, "0", "-f", folder]);
    expect(await command.exited).toEqual({ code: 2, signal: null });
    expect(command.stderr).toMatch(new RegExp(`cannot listen on 127.0.0.1:${port} .*in use.*${busyFlag}\\n$`));
    expect(command.stdout).toBe("");
    await command.leavesNothing();
    server.close();
  });
});

test("services of several environments, with none, failing and silent instances: each is told of, others go on", async () => {
  const folder = manifests(
    { name: "hello", namespace: "shop", command: servesHello },
    { name: "hello", namespace: "blog", command: `echo seen: $SEEN; ${servesHello}`, replicas: 2 },
    { name: "none", command: forever, replicas: 0 },
    { name: "crash", command: "echo its last words; exit 3" },
    { name: "silent", command: forever },
  );
  using command = leverCommand(["dev", ...ports, "-f", folder, "--env", "SEEN=no", "--env", "SEEN=yes"]);
  await command.shows(/crash: crash-1-\w{4} ended with exit code 3 after .* It is started again in 0\.5 s/);
  await command.shows(/crash-1-\w{4} \| its last words/);
  await command.shows("dev/silent runs and has registered nothing for 10 s: does its program reach `await serve(…)`?");
  await command.shows("dev/crash has not come up within 10 s");
  await command.shows(/hello-2-\w{4} \| seen: yes/);
  const gateway = /gateway answers at http:\/\/127\.0\.0\.1:\d+ and (127\.0\.0\.1:\d+)/.exec(
    command.output,
  )?.[1] as string;
  const call = (url: string) => lever(["invoke", url, '"x"', "--gateway", gateway, "-o", "json"]);
  const [shop, blog, other, none, crash] = await Promise.all([
    call("lever://shop/hello/sayHello"),
    call("lever://blog/hello/sayHello"),
    call("lever://dev/hello/sayHello"),
    call("lever://dev/none/sayHello"),
    call("lever://dev/crash/sayHello"),
  ]);
  expect([shop, blog]).toMatchObject([{ stdout: '"Hello, x!"\n' }, { stdout: '"Hello, x!"\n' }]);
  expect(other).toMatchObject({ exitCode: 2, stdout: expect.stringContaining("SERVICE_NOT_FOUND") });
  for (const { exitCode, stdout } of [none, crash]) {
    expect({ exitCode, stdout }).toEqual({ exitCode: 3, stdout: expect.stringContaining("NO_INSTANCES") });
  }
  // It ends again and again: that is said once.
  expect(command.output.match(/ended with exit code 3/g)).toHaveLength(1);
  command.signal("SIGTERM");
  expect(await command.exited).toEqual({ code: 0, signal: null });
  await command.leavesNothing();
});

describe("leaves nothing behind", () => {
  async function up(args: readonly string[] = ["-f", hello], program?: readonly [string, ...string[]]) {
    const all = ["dev", ...ports, ...args];
    const command =
      program === undefined
        ? leverCommand(all)
        : new RunningCommand(program[0], [...program.slice(1), ...all.slice(program.includes("start") ? 1 : 0)]);
    await command.shows(/Lever is up|ready for signals/);
    return command;
  }

  test.each(["SIGINT", "SIGTERM", "SIGHUP"] as const)("after %s", async (signal) => {
    using command = await up();
    expect(processesOf(command.mark).length).toBeGreaterThan(2);
    command.signal(signal);
    expect(await command.exited).toEqual({ code: 0, signal: null });
    await command.leavesNothing();
  });

  test("after SIGKILL, with agents as processes and a channel open", async () => {
    using command = await up(["-f", path.join(root, "examples/negotiate"), "--agent", "process"]);
    const gateway = /client libraries (\S+)/.exec(command.stdout)?.[1] as string;
    using channel = leverCommand(["chan", "/negotiate/haggleChan", "1", "2", "--gateway", gateway], {
      writesInput: true,
    });
    await channel.shows('{"price":2}');
    command.signal("SIGKILL");
    await command.leavesNothing();
    expect(await channel.exited).toEqual({ code: 3, signal: null });
    expect(channel.stderr).toContain("CONNECTION_LOST");
  });

  test("after its output has lost its reader", async () => {
    using command = await up([
      "-f",
      manifests({ name: "loud", command: `(while :; do echo x; sleep 0.2; done) & ${servesHello}` }),
    ]);
    command.child.stdout?.destroy();
    expect(await command.exited).toEqual({ code: 0, signal: null });
    await command.leavesNothing();
  });

  test.each([
    ["SIGTERM", ["npm", "start", "--"]],
    ["SIGKILL", ["npx", "lever"]],
  ] as const)("after %s to the npm that runs it", async (signal, program) => {
    using command = await up(program[0] === "npm" ? [] : ["-f", hello], program);
    command.signal(signal);
    await command.leavesNothing();
  });

  test("of an instance that ignores SIGTERM, when asked a second time", async () => {
    const stubborn = "trap '' TERM; echo ready for signals; while :; do sleep 1; done";
    using command = await up(["-f", manifests({ name: "stubborn", command: stubborn })]);
    command.signal("SIGINT");
    // npm and `timeout` send theirs twice; that is one wish.
    command.signal("SIGINT");
    await command.shows(/waiting for stubborn-1-\w{4}; Ctrl-C again/);
    command.signal("SIGINT");
    await command.shows("ending at once");
    expect(await command.exited).toEqual({ code: 0, signal: null });
    await command.leavesNothing();
  });
});

test("an agent process that dies is started again, and its app attaches to it", async () => {
  using command = leverCommand(["dev", ...ports, "--agent", "process", "-f", path.join(root, "examples/upload")]);
  await command.shows("Lever is up");
  const isAgent = ({ args }: { readonly args: readonly string[] }) =>
    args.some((arg) => arg.endsWith("/agent/main.ts"));
  const [agent] = processesOf(command.mark).filter(isAgent);
  process.kill(agent?.pid as number, "SIGKILL");
  await command.shows(/the agent of upload-1-\w{4} ended \(SIGKILL\) and is started again/);
  const gateway = /client libraries (\S+)/.exec(command.stdout)?.[1] as string;
  await until("it serves again", async () => {
    const { exitCode } = await lever(["chan", "/upload/putChan", "--bytes", "--gateway", gateway], { input: "x" });
    if (exitCode !== 0) await sleep(100);
    return exitCode === 0;
  });
  command.signal("SIGTERM");
  await command.exited;
  await command.leavesNothing();
});
