import { environment, Outcome, service, World } from "@leveros/agent/core/world.fixture.ts";
import { Target } from "@leveros/protocol/target/target.ts";
import { encodeArgs } from "@leveros/protocol/value/form.ts";
import { expect, test } from "vitest";
import { DoorSession } from "./door-session.ts";

test("HTTP is served however many clients have sessions, and nothing is once the gateway ends", async () => {
  const world = new World();
  world.declare({});
  const gateway = world.addNode("gateway", { role: "gateway", limits: { sessionsMax: 1 } });
  world.addNode("server").startApp({ work: () => null });
  const clients = [gateway.startClient(), gateway.startClient()];
  await world.settle();
  expect(clients.map((client) => client.closedWith?.reason)).toEqual([undefined, "CONNECTION_LOST"]);
  const door = new DoorSession(gateway.agent, world.clock);
  const call = async () => {
    const options = { timeoutMs: 1000, fields: new Uint8Array(0) };
    const outcome = new Outcome(door.call(new Target(environment, service, "work"), encodeArgs([]), options));
    await world.advance(100);
    return outcome.text;
  };
  expect(await call()).toBe("ok");
  gateway.agent.close();
  await world.settle();
  expect(await call()).toBe("none DRAINING");
});
