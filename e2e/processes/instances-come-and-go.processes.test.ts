/**
 * A channel without a resource stays with the one instance that it was opened to, while others are drained and added;
 * an instance that is to end waits for the channel's own end. Half-closes, each way.
 */

import { setTimeout as sleep } from "node:timers/promises";
import { LeverError } from "leveros";
import { expect, test } from "vitest";
import { lever } from "../harness/lever-command.ts";
import { type InstanceProcess, LeverDev, type LeverDevOptions } from "../harness/lever-dev.ts";
import { until } from "../harness/until.ts";

const trio: LeverDevOptions = { manifests: ["e2e/fixtures/probe/trio.yaml"], agents: "process" };
const messages = 1000;

interface Conversation {
  /** Answers that came, in order and each from the channel's one instance. */
  readonly answered: number;
  /** Instances that ended, and that served for the first time, while it lasted. */
  readonly drained: number;
  readonly added: number;
  readonly error: string | undefined;
}

/** 1,000 messages, one after the other; meanwhile one instance after the other is told to end. */
async function converse(dev: LeverDev, killHolder: boolean): Promise<Conversation> {
  await dev.serving("trio", 3);
  await using client = dev.client();
  const channel = await client.openChannel<{ instance: string; message: number }, number>("/trio/whoChan");
  const servedBefore = served(dev).size;
  let holder: string | undefined;
  let answered = 0;
  let drained = 0;
  let isOver = false;
  const comeAndGo = async () => {
    while (!isOver) {
      const app = dev.apps().find(({ instance }) => instance !== holder);
      if (app === undefined) continue;
      process.kill(app.pid, "SIGTERM");
      await until("it has ended, and another serves", () => isOver || !dev.apps().some(({ pid }) => pid === app.pid));
      if (!isOver) drained++;
      await until("there are three again", () => isOver || servingNow(dev).length === 3);
      if (isOver || !killHolder || drained !== 2) continue;
      process.kill(dev.apps().find(({ instance }) => instance === holder)?.pid as number, "SIGKILL");
      await until("the channel has ended", () => isOver);
    }
  };
  const changes = until("the channel has its instance", () => holder !== undefined).then(comeAndGo);
  let error: string | undefined;
  try {
    for (let message = 0; message < messages; message++) {
      await channel.send(message);
      const answer = await channel.receive();
      holder ??= answer?.instance;
      if (answer?.instance !== holder || answer?.message !== message)
        throw new Error(`answer ${JSON.stringify(answer)}`);
      answered++;
      await sleep(8);
    }
    channel.closeWrite();
    expect(await channel.receive()).toBeUndefined();
  } catch (thrown) {
    error = LeverError.is(thrown) ? `${thrown.kind} ${thrown.reason}` : String(thrown);
  }
  isOver = true;
  await changes;
  return { answered, drained, added: served(dev).size - servedBefore, error };
}

function served(dev: LeverDev): Set<string> {
  return new Set([...dev.output.text.matchAll(/^(\S+) serves /gm)].map(([, instance]) => instance as string));
}

function servingNow(dev: LeverDev): InstanceProcess[] {
  const all = served(dev);
  return dev.apps().filter(({ instance }) => all.has(instance));
}

test("1,000 messages reach one instance while others are added and drained", async () => {
  await using dev = await LeverDev.start(trio);
  const found = await converse(dev, false);
  console.log(`a channel among ${found.drained} instances that end and ${found.added} that start: ${found.answered}`);
  expect(found).toMatchObject({ answered: messages, error: undefined });
  expect(found.drained).toBeGreaterThanOrEqual(3);
  expect(found.added).toBeGreaterThanOrEqual(3);
  expect(dev.log.entries().filter(({ method }) => method === "whoChan")).toHaveLength(1);
});

test("the control: with its own instance killed, it ends with a network error", async () => {
  await using dev = await LeverDev.start(trio);
  const found = await converse(dev, true);
  console.log(`the control: ${found.answered} answers, then ${found.error}`);
  expect(found.error).toBe("network APP_GONE");
  expect(found.answered).toBeLessThan(messages);
});

/** Messages that pass after the channel's own instance was told to end, and how the channel and the instance end. */
async function drainHolder(dev: LeverDev) {
  await dev.serving("trio", 3);
  await using client = dev.client();
  const channel = await client.openChannel<{ instance: string }, number>("/trio/whoChan");
  await channel.send(0);
  const holder = (await channel.receive())?.instance;
  const { pid } = dev.apps().find(({ instance }) => instance === holder) as InstanceProcess;
  process.kill(pid, "SIGTERM");
  let passed = 0;
  let error: string | undefined;
  try {
    for (let i = 0; i < 20; i++) {
      await sleep(50);
      await channel.send(i);
      if ((await channel.receive())?.instance === holder) passed++;
    }
    // Nobody else is sent there.
    const others = await Promise.all(Array.from({ length: 60 }, () => client.invoke("/trio/instance")));
    expect(others).not.toContain(holder);
    channel.closeWrite();
    expect(await channel.receive()).toBeUndefined();
  } catch (thrown) {
    error = LeverError.from(thrown).reason;
  }
  await until("the instance has ended", () => !dev.apps().some((app) => app.pid === pid));
  return { passed, error };
}

test("an instance that is to end lets its channel end first", async () => {
  await using dev = await LeverDev.start(trio);
  expect(await drainHolder(dev)).toEqual({ passed: 20, error: undefined });
});

test("the control: one that does not wait breaks it", async () => {
  await using dev = await LeverDev.start({ ...trio, appEnv: { E2E_DRAIN_MS: "0" } });
  const found = await drainHolder(dev);
  console.log(`an instance that is to end: 20 of 20 messages pass; control: ${found.passed}, then ${found.error}`);
  expect(found.passed).toBeLessThan(20);
  expect(found.error).toBe("APP_GONE");
});

/** What came back after the caller's half-close, and what arrived after the method's. */
async function halfClose(dev: LeverDev) {
  await using client = dev.client();
  const counting = await client.openChannel("/probe/countChan");
  for (let i = 0; i < 10; i++) await counting.send(i);
  counting.closeWrite();
  const answers: unknown[] = [];
  try {
    for await (const answer of counting) answers.push(answer);
  } catch (error) {
    answers.push(LeverError.from(error).reason);
  }
  const listening = await client.openChannel("/probe/listenChan", [], { metadata: { id: "listen" } });
  const heard: unknown[] = [];
  for await (const message of listening) heard.push(message);
  // The other direction has ended; this one goes on.
  for (let i = 0; i < 10; i++) await listening.send(i).catch(() => {});
  listening.closeWrite();
  const listened = await until("the method has heard all", () => dev.log.find({ event: "listened", id: "listen" }));
  return { answers, heard, listened: listened.count };
}

const probe: LeverDevOptions = { manifests: ["e2e/fixtures/probe/probe.yaml"], agents: "process" };

test("half-close from either side: the other direction goes on", async () => {
  await using dev = await LeverDev.start(probe);
  expect(await halfClose(dev)).toEqual({ answers: ["counted", "all", 10], heard: ["go on"], listened: 10 });
  const { stdout, exitCode } = await lever(
    ["chan", "lever://dev/probe/countChan", "--gateway", dev.gateway, "-o", "json"],
    { input: "1\n2\n3\n" },
  );
  expect({ stdout, exitCode }).toEqual({ stdout: '"counted"\n"all"\n3\n', exitCode: 0 });
});

test("the control: where a half-close ends both directions, nothing comes back", async () => {
  await using dev = await LeverDev.start({
    ...probe,
    patches: [
      {
        file: "protocol/channel/channel.ts",
        find: "return this.#break(moved());\n    this.#isReadEnded = true;",
        replace: "return this.#break(moved());\n    this.closeWrite();\n    this.#isReadEnded = true;",
      },
    ],
  });
  const { answers } = await halfClose(dev);
  console.log(`half-close: 3 answers; control: ${JSON.stringify(answers)}`);
  expect(answers).not.toContain("counted");
});
