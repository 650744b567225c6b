/** Commands that move resources: `evict`, `scale` and `run`, while the resources are called. */

import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Client } from "leveros";
import { LeverError } from "leveros";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Room } from "../fixtures/rooms/room.ts";
import { type CommandResult, lever } from "../harness/lever-command.ts";
import { LeverDev, root } from "../harness/lever-dev.ts";
import { until } from "../harness/until.ts";

const rooms = Array.from({ length: 40 }, (_, n) => `room ${n} /100%\u{1f600}/`);

let dev: LeverDev;
let client: Client;
beforeAll(async () => {
  dev = await LeverDev.start({ manifests: ["e2e/fixtures/rooms/rooms.yaml"] });
  client = dev.client();
});
afterAll(async () => {
  await client[Symbol.asyncDispose]();
  await dev[Symbol.asyncDispose]();
});

interface Report {
  readonly holders: readonly { readonly instance: string; readonly slots: number; readonly moving: number }[];
}

const command = (...args: string[]) => lever([...args, "--gateway", dev.gateway]);
async function holders(): Promise<Report["holders"]> {
  const { stdout } = await command("resources", "dev/rooms", "-o", "json");
  return (JSON.parse(stdout) as [Report])[0].holders;
}
/** All slots are held and at rest, evenly, by so many. */
const settled = (count: number) =>
  until(`${count} instances share all slots`, async () => {
    const all = await holders();
    const isEven = Math.max(...all.map(({ slots }) => slots)) - Math.min(...all.map(({ slots }) => slots)) <= 1;
    return all.length === count && isEven && all.every(({ instance, moving }) => instance !== "" && moving === 0);
  });
const room = (name: string) => client.resource<Room>("rooms", name);

interface Said {
  readonly failures: string[];
  readonly counts: number[];
}

/** Each room is spoken in, one post after the other, while `change` goes on; none may fail or be lost. */
async function speak(change: () => Promise<unknown>): Promise<Said> {
  let isOver = false;
  const failures: string[] = [];
  const speaker = async (name: string) => {
    let count = 0;
    while (!isOver) {
      const post = await room(name)
        .say()
        .catch((error: unknown) => void failures.push(`${name}: ${LeverError.from(error).message}`));
      if (post !== undefined) count++;
      await sleep(20);
    }
    return count;
  };
  const before = await Promise.all(rooms.map((name) => room(name).where()));
  const speakers = rooms.map(speaker);
  await change();
  isOver = true;
  const said = await Promise.all(speakers);
  const after = await Promise.all(rooms.map((name) => room(name).where()));
  return { failures, counts: rooms.map((_, n) => (after[n]?.count ?? 0) - (before[n]?.count ?? 0) - (said[n] ?? 0)) };
}

const nothingLost: Said = { failures: [], counts: rooms.map(() => 0) };

test("evict of a holder: its rooms go on elsewhere with what they had", async () => {
  await settled(3);
  const { instance } = await room(rooms[0] as string).where();
  const said = await speak(async () => {
    expect(await command("evict", instance)).toMatchObject({ exitCode: 0 });
    await settled(3);
  });
  expect(said).toEqual(nothingLost);
  expect((await room(rooms[0] as string).where()).instance).not.toBe(instance);
});

test("scale up and down", async () => {
  const said = await speak(async () => {
    await command("scale", "rooms", "5");
    await settled(5);
    await command("scale", "rooms", "3");
    await settled(3);
  });
  expect(said).toEqual(nothingLost);
});

test("a process of lever run takes its share, and gives it back at Ctrl-C", async () => {
  let result: CommandResult | undefined;
  const said = await speak(async () => {
    let pid = 0;
    const program = [process.execPath, path.join(root, "e2e/fixtures/rooms/main.ts")];
    const running = lever(
      ["run", "-s", "rooms", "--gateway", dev.gateway, "--", "env", `E2E_LOG=${dev.log.file}`, ...program],
      {
        onStart: (started) => {
          pid = started;
        },
      },
    );
    await settled(4);
    process.kill(pid, "SIGINT");
    result = await running;
    await settled(3);
  });
  expect(result).toMatchObject({ exitCode: 0 });
  expect(said).toEqual(nothingLost);
});

test("without instances a call waits, lever explain counts it, and the next instance serves it", async () => {
  const name = rooms[0] as string;
  const explain = async () => {
    const url = `lever://dev/rooms/${encodeURIComponent(name)}/`;
    const { stdout } = await command("explain", url, "-o", "json");
    return JSON.parse(stdout) as { holder: string; heldCalls: { agent: string; calls: number }[] };
  };
  const { count } = await room(name).where();
  await command("scale", "rooms", "0");
  await until("nobody is left", async () => (await explain()).holder === "");
  const waiting = room(name).with({ timeoutMs: 60_000 }).where();
  await until("it is held", async () => (await explain()).heldCalls.length > 0);
  expect((await explain()).heldCalls).toEqual([{ agent: "gateway", calls: 1 }]);
  expect(count).toBeGreaterThan(0);
  await command("scale", "rooms", "1");
  expect(await waiting).toMatchObject({ name });
  expect((await explain()).heldCalls).toEqual([]);
});
