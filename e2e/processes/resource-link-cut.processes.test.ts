/**
 * The link between a caller's agent and the holder's, cut while both live and hold their leases: the room stays where it
 * is. And what a token is for: the effect has happened, its reply is lost.
 */

import { expect, test } from "vitest";
import type { Place, Post } from "../fixtures/rooms/room.ts";
import type { Witness } from "../fixtures/rooms/witness.ts";
import { AgentLinks, linkedAgents } from "../harness/agent-links.ts";
import { type InstanceProcess, LeverDev, type LeverDevOptions } from "../harness/lever-dev.ts";
import { tally } from "../harness/load.ts";
import { roomNames } from "../harness/room-load.ts";
import type { SourcePatch } from "../harness/source-patch.ts";
import { until } from "../harness/until.ts";

const options: LeverDevOptions = { ...linkedAgents, manifests: ["e2e/fixtures/rooms"] };
const rooms = roomNames(20);

/** Channels from the witness to 20 rooms; the link to all holders is cut and healed, and the channels opened again. */
async function cutAndHeal(dev: LeverDev) {
  await dev.serving("rooms", 3);
  await dev.serving("witness", 1);
  using links = await AgentLinks.start(dev);
  await using client = dev.client();
  await dev.spread(client, "rooms", 3);
  const witness = client.service<Witness>("witness").with({ timeoutMs: 60_000 });
  const before = new Map<string, Post>();
  for (const room of rooms) {
    for (let n = 0; n < 3; n++) await witness.say(room);
    before.set(room, await witness.join(room));
  }
  const setMode = (mode: "hold" | "forward") => {
    for (const link of links.to("rooms")) link.mode = mode;
  };
  setMode("hold");
  await Promise.all(rooms.map((room) => witness.ended(room)));
  setMode("forward");
  for (const link of links.to("rooms")) link.cut();
  const same = await Promise.all(
    rooms.map(async (room) => {
      const first = before.get(room) as Post;
      const again = await witness.join(room);
      return again.instance === first.instance && again.epoch === first.epoch && again.n === first.n && first.n === 3;
    }),
  );
  return { same: same.filter(Boolean).length, instances: tally([...before.values()].map(({ instance }) => instance)) };
}

test.concurrent("a link that was cut and healed: channels reach the same holder and its state, 20 of 20", async () => {
  await using dev = await LeverDev.start(options);
  const found = await cutAndHeal(dev);
  console.log(`a link cut and healed: ${JSON.stringify(found)}`);
  expect(found.same).toBe(20);
  expect(Object.keys(found.instances)).toHaveLength(3);
});

test.concurrent("the control: a holder that takes the end of a link for its own has nothing any more", async () => {
  const givesUp: SourcePatch = {
    file: "agent/core/inbound-relay.ts",
    find: 'const isShut = error.reason === "LEASE_LAPSED";',
    replace:
      'const isShut = error.reason === "LEASE_LAPSED"; queueMicrotask(() => this.#resource?.holder.replaceApp());',
  };
  await using dev = await LeverDev.start({ ...options, patches: [givesUp] });
  const found = await cutAndHeal(dev);
  console.log(`a link cut and healed, the control: ${JSON.stringify(found)}`);
  expect(found.same).toBeLessThan(20);
});

interface Once {
  /** How often the method ran, and whether its first outcome came. */
  readonly runs: number;
  readonly isFirst: boolean;
  readonly hasMoved: boolean;
}

/** A call with a token whose link is cut between the effect and the reply, `move`: while the room is moved away. */
async function once(dev: LeverDev, move: boolean): Promise<Once> {
  await dev.serving("rooms", 3);
  await dev.serving("witness", 1);
  using links = await AgentLinks.start(dev);
  await using client = dev.client();
  await dev.spread(client, "rooms", 3);
  const witness = client.service<Witness>("witness").with({ timeoutMs: 60_000 });
  const { instance } = (await witness.where("room-1")) as Place;
  const calling = witness.once("room-1", move ? 3000 : 1000, "order-4711");
  const log = (event: string) => dev.log.entries().filter((each) => each.event === event && each.method === "once");
  await until("the effect has happened", () => log("entered").length > 0);
  const app = dev.apps().find((each) => each.instance === instance) as InstanceProcess;
  if (move) {
    process.kill(app.pid, "SIGTERM");
    await until("its slots are given away", async () => ((await dev.slots(client, "rooms")).get(instance) ?? 0) < 10);
  }
  // The reply is still to come, and there is no way back for it any more.
  expect(log("left")).toHaveLength(0);
  for (const link of links.to(instance)) link.cut();
  const outcome = (await calling) as { run: string };
  const { instance: by } = (await witness.where("room-1")) as Place;
  const runs = log("entered");
  return { runs: runs.length, isFirst: outcome.run === runs[0]?.run, hasMoved: by !== instance };
}

test.concurrent("a token, its link cut before the reply: ran once, the first outcome comes", async () => {
  await using dev = await LeverDev.start(options);
  const found = await once(dev, false);
  console.log(`a token, its link cut: ${JSON.stringify(found)}`);
  expect(found).toEqual({ runs: 1, isFirst: true, hasMoved: false });
});

test.concurrent("the same while its room moves: the next holder answers with the first outcome", async () => {
  await using dev = await LeverDev.start(options);
  const found = await once(dev, true);
  console.log(`a token, its link cut while its room moves: ${JSON.stringify(found)}`);
  expect(found).toEqual({ runs: 1, isFirst: true, hasMoved: true });
});

const forgets: SourcePatch = {
  file: "protocol/invocation/token-memory.ts",
  find: "const outcome = this.#remembered.get(key);",
  replace: 'const outcome = this.#remembered.get(key); if (key !== "") return "run";',
};

test.concurrent("the control: where no token is remembered, it runs twice", async () => {
  await using dev = await LeverDev.start({ ...options, patches: [forgets] });
  const found = await once(dev, false);
  console.log(`a token, the control: ${JSON.stringify(found)}`);
  expect(found.runs).toBe(2);
});
