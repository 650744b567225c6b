/** What `lever explain` and `lever resources` say of resources is where calls go, while they move too. */

import type { Client } from "leveros";
import { expect, test } from "vitest";
import type { Room } from "../fixtures/rooms/room.ts";
import { lever } from "../harness/lever-command.ts";
import { type InstanceProcess, LeverDev } from "../harness/lever-dev.ts";
import { roomNames } from "../harness/room-load.ts";
import { until } from "../harness/until.ts";

const manifests = ["e2e/fixtures/rooms/rooms.yaml"];

interface Explained {
  readonly slot: number;
  readonly slots: number;
  readonly holder: string;
  readonly epoch: number;
  readonly move: { readonly to: string; readonly epoch: number } | null;
  readonly heldCalls: readonly { readonly agent: string; readonly calls: number }[];
}

interface Listed {
  readonly holders: readonly { readonly instance: string; readonly runs: readonly (readonly [number, number])[] }[];
}

async function report<Report>(dev: LeverDev, ...args: string[]): Promise<Report> {
  const { exitCode, stdout, stderr } = await lever([...args, "--gateway", dev.gateway, "-o", "json"]);
  expect(exitCode, stderr).toBe(0);
  return JSON.parse(stdout) as Report;
}

function explain(dev: LeverDev, room: string): Promise<Explained> {
  return report<Explained>(dev, "explain", `lever://dev/rooms/${room}/`);
}

function listed([{ holders }]: readonly [Listed], slot: number): string | undefined {
  return holders.find(({ runs }) => runs.some(([first, last]) => first <= slot && slot <= last))?.instance;
}

function at(client: Client, room: string) {
  return client.resource<Room>("rooms", room).where();
}

test.concurrent("explain and resources name the holder and the epoch that answer", async () => {
  await using dev = await LeverDev.start({ manifests });
  await using client = dev.client();
  await dev.spread(client, "rooms", 3);
  for (const room of roomNames(3)) {
    const { instance, epoch } = await at(client, room);
    const explained = await explain(dev, room);
    expect(explained).toMatchObject({ holder: instance, epoch, slots: 256, move: null });
    const resources = await report<[Listed]>(dev, "resources", "dev/rooms");
    expect(listed(resources, explained.slot)).toBe(instance);
  }
  const { holders } = (await report<[Listed]>(dev, "resources"))[0];
  const sizes = holders.map(({ runs }) => runs.reduce((sum, [first, last]) => sum + last - first + 1, 0));
  expect(sizes.toSorted((a, b) => a - b)).toEqual([85, 85, 86]);
});

interface Moved {
  readonly from: { readonly instance: string; readonly epoch: number };
  readonly during: Explained;
  readonly to: { readonly instance: string; readonly epoch: number };
  readonly after: Explained;
  readonly held: number;
  readonly wasAnsweredEarly: boolean;
}

/** A room is to move while a method runs in it: what is said meanwhile, and afterwards. */
async function move(dev: LeverDev): Promise<Moved> {
  await using client = dev.client();
  await dev.spread(client, "rooms", 3);
  const { instance, epoch } = await at(client, "room-1");
  const holding = client.resource<Room>("rooms", "room-1").hold(4000);
  await until("the method runs", () => dev.log.find({ event: "entered", method: "hold" }));
  process.kill((dev.apps().find((app) => app.instance === instance) as InstanceProcess).pid, "SIGTERM");
  await until("it is to move", async () => (await explain(dev, "room-1")).move !== null);
  let isAnswered = false;
  const waiting = at(client, "room-1").finally(() => {
    isAnswered = true;
  });
  const during = await until("the call is held", async () => {
    const explained = await explain(dev, "room-1");
    return explained.heldCalls.length > 0 ? explained : undefined;
  });
  const wasAnsweredEarly = isAnswered;
  expect((await holding).instance).toBe(instance);
  const to = await waiting;
  const after = await explain(dev, "room-1");
  const held = during.heldCalls.reduce((sum, { calls }) => sum + calls, 0);
  return {
    from: { instance, epoch },
    during,
    to: { instance: to.instance, epoch: to.epoch },
    after,
    held,
    wasAnsweredEarly,
  };
}

test.concurrent("while a room moves: the holder that finishes, where it goes, and the call that waits", async () => {
  await using dev = await LeverDev.start({ manifests });
  const { from, during, to, after, held, wasAnsweredEarly } = await move(dev);
  expect({ instance: during.holder, epoch: during.epoch }).toEqual(from);
  expect({ instance: during.move?.to, epoch: during.move?.epoch }).toEqual(to);
  expect({ instance: after.holder, epoch: after.epoch }).toEqual(to);
  expect(after.move).toBeNull();
  expect(to.instance).not.toBe(from.instance);
  expect({ held, wasAnsweredEarly }).toEqual({ held: 1, wasAnsweredEarly: false });
});

test.concurrent("the control: one that says where the room is to be is wrong while it moves", async () => {
  await using dev = await LeverDev.start({
    manifests,
    patches: [
      {
        file: "operator/admin/admin-methods.ts",
        find: 'holder: row?.holder ?? "",',
        replace: 'holder: facts?.move?.to ?? row?.holder ?? "",',
      },
    ],
  });
  const { from, during } = await move(dev);
  console.log(`explain during a move, the control: ${during.holder}, and the holder is ${from.instance}`);
  expect(during.holder).not.toBe(from.instance);
});
