/** `client.resource`: what its calls name, and which names there are. */

import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { afterEach, beforeEach, expect, it } from "vitest";
import { Outcome, World } from "./agent-end.fixture.ts";

interface Room {
  say(user: string, text: string): number;
}

let world: World;
beforeEach(async () => {
  world = await World.start(undefined, { any: () => 0 });
});
afterEach(() => world.close());

async function said(call: Promise<unknown>): Promise<unknown> {
  world.answer = ({ args }) => args.length;
  const outcome = new Outcome(call);
  await world.settle();
  if (outcome.error !== undefined) throw outcome.error;
  return outcome.value;
}

it.each(["room-7", "a/b//c/", "/", "100%/%41", "Grüße an 🙂 ?#[]", "x".repeat(1024), "é".repeat(512)])(
  "names %s as it is, also by URL",
  async (name) => {
    const room = world.client.resource<Room>("chat", name);
    expect(await said(room.say("Ada", "hi"))).toBe(2);
    expect(await said(world.client.invoke(`lever://test/chat/${encodeURIComponent(name)}/say`, [1]))).toBe(1);
    const calls = world.callsTo("say").map(({ fields, invocation }) => [invocation.target.text, fields.resource]);
    expect(calls).toEqual([
      ["/chat/say", name],
      ["test/chat/say", name],
    ]);
  },
);

it.each([
  ["", /is empty/],
  ["x".repeat(1025), /1025 bytes/],
  ["é".repeat(513), /1026 bytes/],
  ["\ud800", /surrogate/],
  [undefined as unknown as string, /undefined/],
  [7 as unknown as string, /number/],
])("refuses the name %s", (name, message) => {
  expect(() => world.client.resource<Room>("chat", name)).toThrow(
    expect.objectContaining({ reason: "INVALID_URL", effect: "none", message: expect.stringMatching(message) }),
  );
});

it("names another environment, and is shown by its name", async () => {
  const room = world.client.resource<Room>("shop/chat", "room-7/");
  await said(room.with({ timeoutMs: 500 }).say("Ada", "hi"));
  expect(world.callsTo("say")[0]?.invocation.target.text).toBe("shop/chat/say");
  expect(String(room)).toBe("[Remote shop/chat/room-7/]");
  expect(() => world.client.resource<Room>("no such", "room-7")).toThrow(LeverError);
});
