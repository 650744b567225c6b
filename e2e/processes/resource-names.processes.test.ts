/** Names of resources, by every door. */

import { expect, test } from "vitest";
import { frontEnds } from "../harness/front-end.ts";
import { LeverDev, type LeverDevOptions } from "../harness/lever-dev.ts";
import { tally } from "../harness/load.ts";

const options: LeverDevOptions = { manifests: ["e2e/fixtures/rooms/rooms.yaml"] };

const bytesOf = (text: string) => new TextEncoder().encode(text).length;
const filled = (text: string, bytes: number) => "x".repeat(bytes - bytesOf(text)) + text;

/** Of 1,024 bytes, with all that a path could take for its own. */
const longest = filled("/a//b/%2F/%/100%25/../?q=1#f&;+ \u{1f600}é\\\"'/", 1024);
const names = ["/", "a/", "/a", "a/b", "a%2Fb", "100%", "\u{1f600}", longest];
/** At the quick doors only. */
const more = ["a", "//", "%", "a b", "é", "?", "#", "..", "."];

/** Which name each door brought to the room, of those that were given; what was not brought right is named. */
async function asked(dev: LeverDev, resources: readonly string[], doorNames: readonly string[]) {
  await dev.serving("rooms", 3);
  await using client = dev.client();
  const doors = frontEnds(dev, client).filter(({ name }) => doorNames.includes(name));
  const wrong: string[] = [];
  for (const name of resources) {
    const places = new Set<unknown>();
    for (const door of doors) {
      // What asks over HTTP takes these for folders, however they are written, and leaves them out.
      if (door.name === "http" && (name === "." || name === "..")) continue;
      const outcome = await door.call({ path: `/rooms/${encodeURIComponent(name)}/where`, args: [] }, "");
      const result = outcome.result as { name?: string; instance?: string; epoch?: number } | undefined;
      places.add(`${result?.instance} ${result?.epoch}`);
      if (result?.name !== name)
        wrong.push(`${door.name}: ${name.slice(-60)}: ${JSON.stringify(outcome).slice(0, 300)}`);
    }
    // Typed, the name is given as it is.
    const {
      name: typed,
      instance,
      epoch,
    } = await client.resource<{ where(): { name: string; instance: string; epoch: number } }>("rooms", name).where();
    places.add(`${instance} ${epoch}`);
    if (typed !== name) wrong.push(`typed: ${name.slice(-60)}: ${typed}`);
    if (places.size !== 1) wrong.push(`${name.slice(-60)}: reached ${[...places].join(", ")}`);
  }
  return wrong;
}

test("every name reaches its room by every door, up to 1,024 bytes", async () => {
  expect(bytesOf(longest)).toBe(1024);
  await using dev = await LeverDev.start(options);
  expect(await asked(dev, names, ["node", "http", "cli"])).toEqual([]);
  expect(await asked(dev, more, ["node", "http"])).toEqual([]);
  // One byte more is refused, at each door in its way.
  const tooLong = `x${longest}`;
  await using client = dev.client();
  for (const door of frontEnds(dev, client)) {
    const outcome = await door.call({ path: `/rooms/${encodeURIComponent(tooLong)}/where`, args: [] }, "");
    const { kind, reason, effect, httpStatus, exitCode } = outcome;
    expect([door.name, kind, reason, effect]).toEqual([door.name, "arguments", "INVALID_URL", "none"]);
    if (door.name === "http") expect(httpStatus).toBe(400);
    if (door.name === "cli") expect(exitCode).toBe(2);
  }
  expect(() => client.resource("rooms", tooLong)).toThrow("1024");
});

test("the control: with a smaller limit the longest name does not arrive", async () => {
  await using dev = await LeverDev.start({
    ...options,
    patches: [
      { file: "protocol/target/lever-url.ts", find: "resourceBytesMax = 1024", replace: "resourceBytesMax = 1000" },
    ],
  });
  const wrong = await asked(dev, ["a/b", longest], ["node", "http"]).catch((error: unknown) => [String(error)]);
  console.log(`names, the control: ${JSON.stringify(tally(wrong.map((each) => each.slice(0, 40))))}`);
  expect(wrong.length).toBeGreaterThan(0);
});
