import type { Transport } from "@leveros/protocol/transport/transport.ts";
import { describe, expect, it } from "vitest";
import { Network } from "./network.ts";
import { SimProcess } from "./sim-process.ts";
import { World } from "./world.ts";

function rig(seed = 1) {
  const world = new World(seed);
  const network = new Network(world);
  const a = new SimProcess(world, world.machine("a", { exact: true }), "a");
  const b = new SimProcess(world, world.machine("b", { exact: true }), "b");
  return { world, network, a, b };
}

async function connected(seed = 1) {
  const world = rig(seed);
  const { network, a, b } = world;
  let far: Transport | undefined;
  const heard: string[] = [];
  network.listen("b:1", b, (transport) => {
    far = transport;
    transport.start({
      onData: (chunk) => heard.push(Buffer.from(chunk).toString()),
      onDrain: () => {},
      onClose: () => heard.push("closed"),
    });
  });
  let near: Transport | undefined;
  const closed: string[] = [];
  void network.dial(a, "b:1").then((transport) => {
    near = transport;
    transport.start({ onData: () => {}, onDrain: () => {}, onClose: () => closed.push("closed") });
  });
  await world.world.run(100);
  if (near === undefined || far === undefined) throw new Error("not connected");
  const say = (text: string) => (near as Transport).write([Buffer.from(text)], () => {});
  return { ...world, near, far, heard, closed, say };
}

describe("time", () => {
  it("runs promises of one callback before the next", async () => {
    const { world, a } = rig();
    const ran: string[] = [];
    a.post(1, () => {
      ran.push("first");
      void Promise.resolve()
        .then(() => {})
        .then(() => ran.push("its promise"));
    });
    a.post(1, () => ran.push("second"));
    await world.run(2);
    expect(ran).toEqual(["first", "its promise", "second"]);
    expect(world.now()).toBe(2);
  });

  it("goes at each machine's own rate", async () => {
    const world = new World(1);
    const rates = new Set<number>();
    for (let i = 0; i < 40; i++) rates.add(world.machine(`m${i}`).face.rate);
    expect(Math.min(...rates)).toBe(0.99);
    expect(Math.max(...rates)).toBe(1.01);
  });

  it("stands still for a stopped process, and then all comes", async () => {
    const { world, a } = rig();
    const ran: number[] = [];
    a.clock.setTimer(() => ran.push(world.now()), 10);
    a.clock.setTimer(() => ran.push(world.now()), 200);
    world.after(5, () => a.stop());
    world.after(50, () => a.go());
    await world.run(300);
    expect(ran).toEqual([50, 200]);
  });

  it("jumps within a callback that is stopped there", async () => {
    const { world, a } = rig();
    const seen: number[] = [];
    a.stopWithin(2, () => world.after(1000, () => a.goOn()));
    const start = a.clock.now();
    a.post(10, () => {
      for (let i = 0; i < 4; i++) seen.push(a.clock.now() - start);
    });
    await world.run(2000);
    expect(seen.map(Math.round)).toEqual([10, 10, 1010, 1010]);
  });

  it("does not count a suspended machine's timers on, while its boot and wall clocks go on", async () => {
    const { world, a } = rig();
    const ran: number[] = [];
    a.clock.setTimer(() => ran.push(world.now()), 100);
    const before = a.leaseClock.read();
    world.after(50, () => {
      a.machine.suspend(world.now());
      a.stop();
    });
    world.after(1050, () => {
      a.machine.wake(world.now());
      a.go();
    });
    await world.run(2000);
    expect(ran.map(Math.round)).toEqual([1100]);
    const after = a.leaseClock.read();
    expect(Math.round(after.monotonicMs - before.monotonicMs)).toBe(1000);
    expect(Math.round(after.bootMs - before.bootMs)).toBe(2000);
    expect(Math.abs(after.wallMs - before.wallMs - 2000)).toBeLessThanOrEqual(1);
  });

  it("ends with a process all that it had set", async () => {
    const { world, a } = rig();
    a.clock.setTimer(() => expect.unreachable(), 10);
    world.after(5, () => a.kill());
    await world.run(100);
  });
});

describe("the network", () => {
  it("keeps the order of bytes", async () => {
    const { world, say, heard } = await connected();
    for (let i = 0; i < 20; i++) say(`${i} `);
    await world.run(200);
    expect(heard.join("").trim()).toBe([...Array(20).keys()].join(" "));
  });

  it("keeps bytes of a silent way until it is healed", async () => {
    const { world, network, a, b, say, heard } = await connected();
    network.silence(a.machine, b.machine, true);
    say("late");
    await world.run(5000);
    expect(heard).toEqual([]);
    network.silence(a.machine, b.machine, false);
    await world.run(5100);
    expect(heard).toEqual(["late"]);
  });

  it("tells of an end that came while the way was silent, afterwards", async () => {
    const { world, network, a, b, near, heard } = await connected();
    network.silence(a.machine, b.machine, true);
    near.destroy();
    await world.run(5000);
    expect(heard).toEqual([]);
    network.silence(a.machine, b.machine, false);
    await world.run(5100);
    expect(heard).toEqual(["closed"]);
  });

  it("tells both ends of a cut, and the peer of a death", async () => {
    const cut = await connected();
    cut.network.cut(cut.a.machine, cut.b.machine);
    await cut.world.run(200);
    expect([cut.heard, cut.closed]).toEqual([["closed"], ["closed"]]);
    const dead = await connected();
    dead.say("last words");
    dead.a.kill();
    await dead.world.run(200);
    expect(dead.heard).toEqual(["last words", "closed"]);
    expect(dead.closed).toEqual([]);
  });

  it("tells nobody when a machine loses its power", async () => {
    const { world, network, a, say, heard } = await connected();
    say("never");
    network.powerOff(a.machine);
    a.kill();
    await world.run(60_000);
    expect(heard).toEqual([]);
  });

  it("refuses where nobody listens", async () => {
    const { world, network, a, b } = rig();
    network.place("b:1", b.machine);
    const refused = expect(network.dial(a, "b:1")).rejects.toThrow("ECONNREFUSED");
    await world.run(100);
    await refused;
  });
});

it("the same seed gives the same trace, another one another", async () => {
  const hashes: string[] = [];
  for (const seed of [7, 7, 8]) {
    const { world, say } = await connected(seed);
    for (let i = 0; i < 50; i++) say("x".repeat(i));
    await world.run(1000);
    hashes.push(world.trace.hash);
  }
  expect(hashes[0]).toBe(hashes[1]);
  expect(hashes[2]).not.toBe(hashes[0]);
});
