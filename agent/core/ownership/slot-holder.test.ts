import type { Channel } from "@leveros/protocol/channel/channel.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { Outcome } from "../world.fixture.ts";
import {
  type FakeApp,
  type HolderAgent,
  HolderWorld,
  type LeaderConnection,
  nested,
  type Peer,
  resourceIn,
  row,
  slots,
} from "./holder.fixture.ts";

let world: HolderWorld;
let h1: HolderAgent;

beforeEach(() => {
  world = new HolderWorld();
  h1 = world.addAgent("h1");
});

afterEach(() => world.close());

/** An app with slots 3 (epoch 7) and 4 (epoch 8), and who calls it. */
async function serving(): Promise<{ app: FakeApp; leader: LeaderConnection; peer: Peer }> {
  const app = h1.startApp();
  await world.settle();
  const leader = world.leader.last;
  leader.grant(3, 7);
  leader.grant(4, 8);
  await world.settle();
  const peer = h1.startPeer();
  await world.settle();
  return { app, leader, peer };
}

const in3 = { resource: resourceIn(3), epoch: 7 };
const in4 = { resource: resourceIn(4), epoch: 8 };

function moved(outcome: Outcome): string {
  return `${outcome.text} ${(outcome.error?.details as { epoch?: number } | undefined)?.epoch}`;
}

describe("an incarnation", () => {
  it("begins when the app has answered, and renews from what the app answered", async () => {
    const app = h1.startApp();
    await world.settle();
    expect(app.received[0]).toMatchObject({ type: "config", slots, onLapse: "Abort", servesUncertain: false });
    const { identity } = world.leader.last;
    expect(identity).toMatchObject({
      environment: "dev",
      service: "rooms",
      instance: "h1",
      address: "h1.test:3837",
      process: "p1",
      isSilent: false,
      holds: [],
      released: [],
    });
    expect(identity.incarnation).toMatch(/^[0-9a-z-]+\.0\.1$/);
    expect(world.leader.renewals()).toEqual([{ type: "renew", n: 1, ageMs: 0 }]);
    await world.advance(6000);
    expect(app.ofType("ping").length).toBe(7);
    expect(world.leader.renewals().map(({ n }) => n)).toEqual([1, 2, 3, 4]);
    for (const { ageMs } of world.leader.renewals()) expect(ageMs).toBeLessThanOrEqual(1000);
  });

  it("waits for an app that does not answer", async () => {
    const app = h1.startApp();
    app.answers = false;
    await world.advance(5000);
    expect(world.leader.connections).toEqual([]);
    app.wake();
    await world.settle();
    expect(world.leader.connections.length).toBe(1);
  });

  it("is none of a service without resources, nor of an app that serves none", async () => {
    world.ownership = undefined;
    h1.startApp();
    const plain = world.addAgent("h2").startApp({ resources: false });
    await world.advance(3000);
    expect(world.leader.connections).toEqual([]);
    expect(plain.channel).toBeUndefined();
  });

  it("of another start of the agent has another name", async () => {
    const other = world.addAgent("h1-again");
    h1.startApp();
    other.startApp();
    await world.settle();
    const [a, b] = world.leader.connections.map(({ identity }) => identity.incarnation.split(".")[0]);
    expect(a).not.toBe(b);
  });

  it("answers the app's questions with what is left", async () => {
    const { app } = await serving();
    await world.advance(1000);
    // The ping that the last renewal reported was sent a second before.
    expect(app.lease).toMatchObject({ admitMs: 9000, killMs: 12_000, gateMs: 13_300 });
  });

  it("says that there is no lease while no renewal was answered", async () => {
    world.leader.renews = false;
    const app = h1.startApp();
    await world.advance(1000);
    expect(app.lease).toMatchObject({ admitMs: -1, killMs: -1, gateMs: -1 });
  });

  it("tells the leader at each connect what it holds, and goes on with the same lease", async () => {
    const { app, peer } = await serving();
    world.leader.cut();
    await world.advance(2000);
    const { identity } = world.leader.last;
    expect(world.leader.connections.length).toBe(2);
    expect(identity.incarnation).toBe(world.leader.connections[0]?.identity.incarnation);
    expect(identity.holds).toEqual([
      { slot: 3, epoch: 7, isDraining: false },
      { slot: 4, epoch: 8, isDraining: false },
    ]);
    await world.advance(20_000);
    expect(await world.finish(peer.call("echo", in3, ["still"]))).toBe("still");
    expect(app.ofType("abort")).toEqual([]);
  });

  it("reports nothing of a lease that is over, whether or not it has woken to that", async () => {
    await serving();
    world.leader.cut();
    world.suspend(20_000);
    await world.advance(300);
    expect(world.leader.connections.length).toBe(2);
    expect(world.leader.last.identity.holds).toEqual([]);
  });

  it("tells the leader what has become of its slots while it connected", async () => {
    const { app, leader } = await serving();
    leader.send({ type: "drain", slots: [{ slot: 3, epoch: 7, next: 12 }] });
    await world.settle();
    let accept = () => {};
    world.leader.hesitation = new Promise((resolve) => {
      accept = resolve;
    });
    world.leader.cut();
    await world.advance(1000);
    app.closed(3, 7);
    await world.settle();
    accept();
    await world.settle();
    expect(world.leader.last.identity.holds[0]).toEqual({ slot: 3, epoch: 7, isDraining: true });
    expect(world.leader.last.released).toEqual(["3@7 with state"]);
  });

  it("is over when the leader says so, and another one begins at once", async () => {
    const { app, peer } = await serving();
    world.leader.refusal = new LeverError("LEASE_LAPSED", "over", { effect: "none" });
    world.leader.cut();
    await world.advance(300);
    expect(app.ofType("abort").map(({ slot }) => slot)).toEqual([3, 4]);
    const call = new Outcome(peer.call("echo", in3));
    world.leader.refusal = undefined;
    await world.advance(2000);
    expect(moved(call)).toBe("none MOVED 8");
    expect(world.leader.last.identity.holds).toEqual([]);
    expect(world.leader.last.identity.incarnation).not.toBe(world.leader.connections[0]?.identity.incarnation);
  });
});

describe("admission", () => {
  it("is to a slot that was granted and opened, under its epoch alone", async () => {
    const app = h1.startApp();
    app.opens = false;
    await world.settle();
    const leader = world.leader.last;
    const peer = h1.startPeer();
    leader.grant(3, 7);
    await world.settle();
    const early = new Outcome(peer.call("echo", in3));
    await world.settle();
    expect(early.text).toBe("none INSTANCE_UNREACHABLE");
    expect(leader.held).toEqual([]);
    app.say({ type: "opened", slot: 3, epoch: 7 });
    await world.settle();
    expect(leader.held).toEqual(["3@7"]);
    expect(await world.finish(peer.call("echo", in3, ["hi"]))).toBe("hi");
    const older = new Outcome(peer.call("echo", { ...in3, epoch: 6 }));
    const newer = new Outcome(peer.call("echo", { ...in3, epoch: 9 }));
    const other = new Outcome(peer.call("echo", { ...in4, epoch: 8 }));
    const unsure = new Outcome(peer.call("echo", { ...in3, epoch: 0 }));
    await world.settle();
    expect([older, newer, other, unsure].map(moved)).toEqual([
      "none MOVED 7",
      "none MOVED 10",
      "none MOVED 9",
      "none MOVED 7",
    ]);
    expect(app.entered.length).toBe(1);
    expect(h1.agent.ownership).toEqual({ held: 1, misrouted: 4, lapses: 0, moved: 0 });
    expect(h1.agent.heldSlots).toEqual([{ slot: 3, epoch: 7, isDraining: false, running: 0 }]);
  });

  it("leaves it to the app which methods a resource has, and passes the fields on", async () => {
    const { app, peer } = await serving();
    await world.finish(peer.call("echo", { ...in3, chain: nested }));
    expect(app.entered[0]?.fields).toMatchObject({ resource: in3.resource, epoch: 7 });
    const missing = new Outcome(peer.call("none", in3));
    const plain = new Outcome(peer.call("echo", {}));
    await world.settle();
    expect(missing.text).toBe("ok");
    expect(plain.text).toBe("none METHOD_NOT_FOUND");
  });

  it("is refused by a service without resources", async () => {
    world.ownership = undefined;
    h1.startApp();
    await world.settle();
    const peer = h1.startPeer();
    const call = new Outcome(peer.call("echo", in3));
    await world.settle();
    expect(call.text).toBe("none NO_RESOURCES");
  });

  it("is refused by an app without resources, and by an agent without an app", async () => {
    const peer = h1.startPeer();
    const early = new Outcome(peer.call("echo", in3));
    await world.settle();
    expect(moved(early)).toBe("none MOVED 8");
    h1.startApp({ resources: false, isSilent: true });
    const late = new Outcome(peer.call("echo", in3));
    await world.settle();
    expect(late.text).toBe("none NO_RESOURCES");
  });

  it("counts against the limits of the instance", async () => {
    const { peer } = await serving();
    const calls = Array.from({ length: 1001 }, () => new Outcome(peer.call("wait", in3)));
    await world.settle();
    expect(calls.filter(({ text }) => text === "none OVERLOADED").length).toBe(1);
    h1.app?.letGo();
    await world.settle();
  });

  it("takes no grant without a lease, and says so", async () => {
    world.leader.renews = false;
    const app = h1.startApp();
    await world.settle();
    world.leader.last.grant(3, 7);
    await world.settle();
    expect(world.leader.last.released).toEqual([]);
    expect(world.leader.last.ofType("neverHeld")).toEqual([{ type: "neverHeld", slots: [{ slot: 3, epoch: 7 }] }]);
    expect(app.ofType("open")).toEqual([]);
  });

  it("never held what its app has not opened: when that goes, what the last holder left is for the next one", async () => {
    const app = h1.startApp();
    app.opens = false;
    await world.settle();
    world.leader.last.grant(3, 7);
    await world.settle();
    expect(app.ofType("open")).toHaveLength(1);
    const { last } = world.leader;
    app.kill();
    await world.settle();
    expect(last.released).toEqual([]);
    expect(last.ofType("neverHeld")).toEqual([{ type: "neverHeld", slots: [{ slot: 3, epoch: 7 }] }]);
  });

  it("says again what is held when it is granted again", async () => {
    const { leader } = await serving();
    leader.grant(3, 7);
    await world.settle();
    expect(leader.held).toEqual(["3@7", "4@8", "3@7"]);
  });
});

describe("a lease that lapses", () => {
  it("when the app hangs: nothing is admitted after 10 s, nothing is heard after 14.3 s, then another begins", async () => {
    const { app, peer, leader } = await serving();
    await world.advance(500);
    app.answers = false;
    const hung = new Outcome(peer.call("wait", in3));
    const slow = new Outcome(peer.call("wait", in4));
    await world.settle();
    // The last ping that was answered, and reported, was sent at the grant.
    await world.advance(9499);
    const last = new Outcome(peer.call("echo", in3, ["last"]));
    await world.settle();
    expect(last.value).toBe("last");
    expect(app.ofType("abort")).toEqual([]);
    await world.advance(2);
    expect(app.ofType("abort")).toEqual([
      { type: "abort", slot: 3, epoch: 7 },
      { type: "abort", slot: 4, epoch: 8 },
    ]);
    const refused = new Outcome(peer.call("echo", in3));
    await world.settle();
    expect(moved(refused)).toBe("none MOVED 8");
    // What was begun before is heard until the gate shuts.
    await world.advance(4000);
    const [, answer] = [...app.running.values()];
    answer?.("in time");
    await world.settle();
    expect(slow.value).toBe("in time");
    expect(hung.text).toBe("open");
    await world.advance(300);
    expect(hung.text).toBe("unknown LEASE_LAPSED");
    app.letGo("too late");
    await world.advance(5000);
    expect(world.leader.connections).toEqual([leader]);
    expect(world.leader.renewals().length).toBe(1);
    app.wake();
    await world.settle();
    await world.advance(1001);
    const { identity } = world.leader.last;
    expect(identity.incarnation).toBe(leader.identity.incarnation.replace(".0.1", ".1.1"));
    expect(identity.holds).toEqual([]);
    expect(h1.agent.ownership.lapses).toBe(1);
  });

  it("leaves nobody waiting where nobody is to wait (onUncertain: Fail), until there is a lease again", async () => {
    if (world.ownership !== undefined) world.ownership = { ...world.ownership, onUncertain: "Fail" };
    const { peer } = await serving();
    const ask = async () => {
      const call = new Outcome(peer.call("echo", in3));
      await world.settle();
      return call.text;
    };
    const elsewhere = new Outcome(peer.call("echo", { resource: resourceIn(6), epoch: 5 }));
    await world.settle();
    expect(moved(elsewhere)).toBe("none MOVED 6");
    world.leader.isAway = true;
    world.leader.cut();
    // No new work, and what was begun may still be heard; then nothing is left of the lease.
    await world.advance(11_000);
    expect(await ask()).toBe("none RESOURCE_UNAVAILABLE");
    await world.advance(30_000);
    expect(await ask()).toBe("none RESOURCE_UNAVAILABLE");
    world.leader.isAway = false;
    await world.advance(2000);
    expect(await ask()).toBe("none MOVED");
  });

  it("when the leader is away, though app and agent are well", async () => {
    const { app, peer } = await serving();
    await world.advance(2500);
    world.leader.isAway = true;
    world.leader.cut();
    const call = new Outcome(peer.call("wait", in3));
    await world.advance(20_000);
    expect(call.text).toBe("unknown LEASE_LAPSED");
    expect(app.ofType("abort").length).toBe(2);
    world.leader.isAway = false;
    await world.advance(2000);
    expect(world.leader.last.identity.holds).toEqual([]);
    world.leader.last.grant(3, 9, { memory: "lost" });
    await world.settle();
    expect(await world.finish(peer.call("echo", { ...in3, epoch: 9 }, ["again"]))).toBe("again");
  });

  it("is not prolonged by a renewal that is answered too late", async () => {
    const { app, leader } = await serving();
    world.leader.renews = false;
    await world.advance(9000);
    const late = world.leader.renewals().at(-1)?.n as number;
    await world.advance(1001);
    leader.send({ type: "renewed", n: late });
    await world.settle();
    expect(app.ofType("abort").length).toBe(2);
  });

  it("is prolonged from what a renewal reported, if its answer is late but in time", async () => {
    const { app, leader } = await serving();
    world.leader.renews = false;
    await world.advance(4100);
    const renewal = world.leader.renewals().findLast(({ n }) => n > 1)?.n as number;
    await world.advance(5000);
    leader.send({ type: "renewed", n: renewal });
    await world.settle();
    await world.advance(3800);
    expect(app.ofType("abort")).toEqual([]);
    await world.advance(200);
    expect(app.ofType("abort").length).toBe(2);
  });

  it("in a suspend shuts the gate before anything else is looked at", async () => {
    const { app, peer } = await serving();
    const call = new Outcome(peer.call("wait", in3));
    const channel = await world.finish(peer.open("echoChan", in4));
    const heard = new Outcome(channel.receive());
    await world.settle();
    world.suspend(14_400);
    app.letGo("from before");
    void channel.send("echo");
    await world.settle();
    expect(call.text).toBe("unknown LEASE_LAPSED");
    expect(heard.text).toBe("ran LEASE_LAPSED");
  });

  it("in a suspend lets nothing out that was under way", async () => {
    const { app, peer } = await serving();
    const call = new Outcome(peer.call("wait", in3));
    await world.settle();
    world.suspend(20_000);
    app.letGo("from before");
    const next = new Outcome(peer.call("echo", in4));
    await world.settle();
    expect(call.text).toBe("unknown LEASE_LAPSED");
    expect(moved(next)).toBe("none MOVED 9");
    await world.advance(2000);
    expect(world.leader.last.identity.holds).toEqual([]);
  });

  it("does not wait for its end when nothing is left of it", async () => {
    const { app } = await serving();
    world.leader.renews = false;
    await world.advance(10_001);
    for (const { slot, epoch } of app.ofType("abort")) app.closed(slot, epoch, { hasState: false, absent: "lost" });
    world.leader.renews = true;
    await world.advance(1001);
    expect(world.leader.connections.length).toBe(2);
    expect(world.leader.last.identity.released).toEqual([
      { slot: 3, epoch: 7, hasState: false },
      { slot: 4, epoch: 8, hasState: false },
    ]);
  });
});

describe("a drain", () => {
  it("refuses root calls, takes nested ones, and releases when the app has closed the slot", async () => {
    const { app, peer, leader } = await serving();
    const running = new Outcome(peer.call("wait", in3));
    await world.settle();
    leader.send({ type: "drain", slots: [{ slot: 3, epoch: 7, next: 12 }] });
    await world.settle();
    expect(app.ofType("drain")).toEqual([{ type: "drain", slot: 3, epoch: 7 }]);
    const root = new Outcome(peer.call("echo", in3));
    const inner = new Outcome(peer.call("echo", { ...in3, chain: nested }, ["inner"]));
    const elsewhere = new Outcome(peer.call("echo", in4, ["elsewhere"]));
    await world.settle();
    expect(moved(root)).toBe("none MOVED 12");
    expect([inner.value, elsewhere.value]).toEqual(["inner", "elsewhere"]);
    expect(h1.agent.heldSlots[0]).toEqual({ slot: 3, epoch: 7, isDraining: true, running: 1 });
    expect(leader.released).toEqual([]);
    app.letGo("done");
    app.closed(3, 7);
    await world.settle();
    expect(running.value).toBe("done");
    expect(leader.released).toEqual(["3@7 with state"]);
    const after = new Outcome(peer.call("echo", { ...in3, chain: nested }));
    await world.settle();
    expect(moved(after)).toBe("none MOVED 8");
    expect(h1.agent.ownership).toMatchObject({ held: 1, moved: 1, misrouted: 1 });
  });

  it("is the end of its epoch: granted once more, it is released once more", async () => {
    const { app, peer, leader } = await serving();
    leader.send({ type: "drain", slots: [{ slot: 3, epoch: 7, next: 12 }] });
    await world.settle();
    app.closed(3, 7);
    await world.settle();
    leader.grant(3, 7);
    await world.settle();
    expect(leader.released).toEqual(["3@7 with state", "3@7 with state"]);
    const call = new Outcome(peer.call("echo", in3));
    await world.settle();
    expect(moved(call)).toBe("none MOVED 8");
  });

  it("is called off", async () => {
    const { app, peer, leader } = await serving();
    leader.send({ type: "drain", slots: [{ slot: 3, epoch: 7, next: 12 }] });
    leader.send({ type: "resume", slots: [{ slot: 3, epoch: 7 }] });
    await world.settle();
    expect(app.received.slice(-2).map(({ type }) => type)).toEqual(["drain", "resume"]);
    expect(await world.finish(peer.call("echo", in3, ["on"]))).toBe("on");
    await world.advance(11_000);
    expect(leader.released).toEqual([]);
  });

  it("that is called off too late for the app ends in a release all the same", async () => {
    const { app, leader } = await serving();
    leader.send({ type: "drain", slots: [{ slot: 3, epoch: 7, next: 12 }] });
    await world.settle();
    app.closed(3, 7);
    leader.send({ type: "resume", slots: [{ slot: 3, epoch: 7 }] });
    await world.settle();
    expect(leader.released).toEqual(["3@7 with state"]);
  });

  it("of a slot that is just being opened waits for that", async () => {
    const app = h1.startApp();
    app.opens = false;
    await world.settle();
    const leader = world.leader.last;
    leader.grant(3, 7);
    leader.send({ type: "drain", slots: [{ slot: 3, epoch: 7, next: 9 }] });
    await world.settle();
    expect(app.ofType("drain")).toEqual([]);
    app.say({ type: "opened", slot: 3, epoch: 7 });
    await world.settle();
    expect(app.ofType("drain").length).toBe(1);
  });

  it("of a slot that is not here is answered", async () => {
    const { leader } = await serving();
    leader.send({ type: "drain", slots: [{ slot: 5, epoch: 2, next: 9 }] });
    await world.settle();
    expect(leader.released).toEqual(["5@2"]);
  });

  it("tells channels to move, and ends after 5 s those that do not", async () => {
    const { app, peer, leader } = await serving();
    const willing = await world.finish(peer.open("echoChan", in3));
    const stubborn = await world.finish(peer.open("waitChan", in3));
    const other = await world.finish(peer.open("echoChan", in4));
    leader.send({ type: "drain", slots: [{ slot: 3, epoch: 7, next: 12 }] });
    await world.settle();
    const late = await world.finish(peer.open("waitChan", { ...in3, chain: nested }));
    await world.settle();
    // What a caller does that was told to move.
    willing.closeWrite();
    await world.advance(4900);
    const end = new Outcome(willing.receive());
    await world.settle();
    expect(end.text).toContain("MOVED");
    expect([stubborn.isEnded, late.isEnded]).toEqual([false, false]);
    const ends = [new Outcome(stubborn.receive()), new Outcome(late.receive())];
    await world.advance(200);
    expect(ends.map(moved)).toEqual(["ran MOVED 12", "ran MOVED 12"]);
    expect(other.isEnded).toBe(false);
    expect(leader.released).toEqual([]);
    app.letGo();
    app.closed(3, 7);
    await world.settle();
    expect(leader.released).toEqual(["3@7 with state"]);
    other.cancel();
  });

  it("tells a channel to move that is entered late, and does not end it before", async () => {
    const { app, peer, leader } = await serving();
    let enter = () => {};
    app.hesitation = new Promise((resolve) => {
      enter = resolve;
    });
    const opening = new Outcome(peer.open("waitChan", in3));
    await world.settle();
    leader.send({ type: "drain", slots: [{ slot: 3, epoch: 7, next: 12 }] });
    await world.advance(7000);
    expect(opening.text).toBe("open");
    enter();
    await world.settle();
    const channel = opening.value as Channel;
    await world.advance(2900);
    expect(channel.isEnded).toBe(false);
    const end = new Outcome(channel.receive());
    await world.advance(200);
    expect(moved(end)).toBe("ran MOVED 12");
  });

  it("releases nothing while answers wait for their callers' credit, and after 2 s drops those", async () => {
    const { app, peer, leader } = await serving();
    const large = "x".repeat(120_000);
    // A caller that reads nothing: more than a stream's window of messages is under way, and then an answer.
    const channel = await world.finish(peer.openUnread("echoChan", in3));
    for (let i = 0; i < 4; i++) channel.send(large);
    await world.settle();
    leader.send({ type: "drain", slots: [{ slot: 3, epoch: 7, next: 12 }] });
    await world.settle();
    app.closed(3, 7);
    await world.advance(1900);
    expect(leader.released).toEqual([]);
    await world.advance(200);
    expect(leader.released).toEqual(["3@7 with state"]);
    expect(channel.ends).toEqual(["RESET MOVED"]);
  });

  it("repeats its release at each connect until a higher epoch is seen", async () => {
    const { app, leader } = await serving();
    leader.send({ type: "drain", slots: [{ slot: 3, epoch: 7, next: 12 }] });
    await world.settle();
    app.closed(3, 7);
    await world.settle();
    world.leader.cut();
    await world.advance(2000);
    expect(world.leader.last.identity).toMatchObject({
      holds: [{ slot: 4, epoch: 8, isDraining: false }],
      released: [{ slot: 3, epoch: 7, hasState: true }],
    });
    await world.advance(10_000);
    world.leader.cut();
    await world.advance(2000);
    expect(world.leader.last.identity.released).toEqual([{ slot: 3, epoch: 7, hasState: false }]);
    world.rows[3] = row(3, { holder: "h2", epoch: 12, issued: 12 });
    world.publish();
    world.leader.cut();
    await world.advance(2000);
    expect(world.leader.last.identity.released).toEqual([]);
  });

  it("withdraws what was never granted, and gives up what was", async () => {
    const { app, leader } = await serving();
    leader.send({
      type: "withdraw",
      slots: [
        { slot: 5, epoch: 9 },
        { slot: 3, epoch: 7 },
      ],
    });
    await world.settle();
    expect(leader.ofType("neverHeld")).toEqual([{ type: "neverHeld", slots: [{ slot: 5, epoch: 9 }] }]);
    expect(app.ofType("abort")).toEqual([{ type: "abort", slot: 3, epoch: 7 }]);
    app.closed(3, 7);
    await world.settle();
    expect(leader.released).toEqual(["3@7"]);
  });

  it("drops what is another's: nothing of it is heard any more, and it is released when the app has closed it", async () => {
    const { app, peer, leader } = await serving();
    const call = new Outcome(peer.call("wait", in3));
    const other = new Outcome(peer.call("wait", in4));
    await world.settle();
    leader.send({ type: "drop", slots: [{ slot: 3, epoch: 7 }] });
    await world.settle();
    expect(call.text).toBe("unknown LEASE_LAPSED");
    const refused = new Outcome(peer.call("echo", in3));
    await world.settle();
    expect(moved(refused)).toBe("none MOVED 8");
    expect(leader.released).toEqual([]);
    app.letGo();
    app.closed(3, 7);
    await world.settle();
    expect(leader.released).toEqual(["3@7"]);
    expect(other.value).toBe("done");
  });
});

describe("what a slot had", () => {
  const item = (slot: number, epoch: number, resource: string) => ({
    type: "state",
    slot,
    epoch,
    resource,
    form: "value",
  });

  async function handedOver(app: FakeApp, leader: LeaderConnection, bytes = Uint8Array.of(1, 2, 3)): Promise<void> {
    leader.send({ type: "drain", slots: [{ slot: 3, epoch: 7, next: 12 }] });
    await world.settle();
    app.say(item(3, 7, "room-a"));
    app.say(bytes);
    app.say({
      type: "token",
      slot: 3,
      epoch: 7,
      resource: "room-a",
      method: "say",
      token: "t1",
      flags: 0,
      forgetAt: 9,
    });
    app.say(Uint8Array.of(9));
    app.closed(3, 7, { absent: "fresh", tokensSince: 77 });
    await world.settle();
  }

  it("is fetched by the next holder's agent, and opened with it", async () => {
    const { app, leader } = await serving();
    await handedOver(app, leader);
    const h2 = world.addAgent("h2");
    const next = h2.startApp({ holder: { process: "p2", holds: [] } });
    await world.settle();
    world.leader.last.grant(3, 12, { memory: "state", address: h1.address, epoch: 7 });
    await world.settle();
    expect(next.received.slice(-3)).toEqual([
      item(3, 12, "room-a"),
      { type: "token", slot: 3, epoch: 12, resource: "room-a", method: "say", token: "t1", flags: 0, forgetAt: 9 },
      { type: "open", slot: 3, epoch: 12, absent: "fresh", tokensSince: 77 },
    ]);
    expect(next.bytes).toEqual([Uint8Array.of(1, 2, 3), Uint8Array.of(9)]);
    expect(world.leader.last.held).toEqual(["3@12"]);
  });

  it("is lost when it was never there, or was kept for too long", async () => {
    const { app, leader } = await serving();
    await handedOver(app, leader);
    const h2 = world.addAgent("h2");
    const next = h2.startApp({ holder: { process: "p2", holds: [] } });
    await world.advance(10_001);
    const last = world.leader.connections.find(({ identity }) => identity.instance === "h2") as LeaderConnection;
    last.grant(3, 12, { memory: "state", address: h1.address, epoch: 7 });
    last.grant(5, 12, { memory: "state", address: h1.address, epoch: 6 });
    last.grant(6, 12, { memory: "state", address: "gone.test:1", epoch: 6 });
    await world.settle();
    for (const slot of [3, 5, 6]) {
      expect(next.opened(slot)).toMatchObject({ absent: "lost", tokensSince: Math.floor(world.wallMs) });
    }
    expect(next.bytes).toEqual([]);
  });

  it("is lost when it does not come within 2 s", async () => {
    h1.startApp();
    await world.settle();
    const leader = world.leader.last;
    // Somebody listens there and says nothing.
    const silent = world.addAgent("silent");
    silent.connect = () => {
      const transport = Object.getPrototypeOf(silent).connect.call(silent);
      silent.agent.close();
      return transport;
    };
    leader.grant(3, 12, { memory: "state", address: silent.address, epoch: 7 });
    await world.advance(2100);
    expect(h1.app?.opened(3)).toMatchObject({ absent: "lost" });
  });

  it("goes back to the same holder without the network", async () => {
    const { app, leader } = await serving();
    await handedOver(app, leader);
    leader.grant(3, 12, { memory: "state", address: h1.address, epoch: 7 });
    await world.settle();
    expect(app.opened(3)).toMatchObject({ epoch: 12, absent: "fresh", tokensSince: 77 });
    expect(app.bytes).toEqual([Uint8Array.of(1, 2, 3), Uint8Array.of(9)]);
  });

  it("is all or nothing: above 1 MiB of one resource, or the limit of all, it is lost", async () => {
    h1 = world.addAgent("small", { handOverBytesMax: 200_000 });
    const { app, leader } = await serving();
    await handedOver(app, leader, new Uint8Array(250_000));
    expect(leader.released).toEqual(["3@7"]);
    leader.send({ type: "drain", slots: [{ slot: 4, epoch: 8, next: 13 }] });
    await world.settle();
    app.say(item(4, 8, "room-b"));
    app.say(new Uint8Array(190_000));
    app.closed(4, 8);
    await world.settle();
    expect(leader.released).toEqual(["3@7", "4@8 with state"]);
  });

  it("stays in the process through a restart of its agent", async () => {
    const holder = { process: "p1", holds: [{ slot: 3, epoch: 7, running: 0 }] };
    const app = h1.startApp({ holder });
    await world.settle();
    expect(world.leader.last.identity).toMatchObject({ process: "p1", holds: [], released: [] });
    world.leader.last.grant(3, 12, { memory: "state", address: h1.address, epoch: 7 });
    world.leader.last.grant(4, 12, { memory: "state", address: h1.address, epoch: 7 });
    await world.settle();
    expect(app.opened(3)).toMatchObject({ epoch: 12, keeps: 7 });
    expect(app.opened(4)?.keeps).toBeUndefined();
    expect(app.opened(4)).toMatchObject({ absent: "lost" });
  });

  it("of a fresh slot is fresh, and of a lost one lost", async () => {
    const { app, leader } = await serving();
    leader.grant(5, 9, { memory: "lost" });
    await world.settle();
    expect(app.opened(3)).toMatchObject({ absent: "fresh", tokensSince: 0 });
    expect(app.opened(5)).toMatchObject({ absent: "lost", tokensSince: Math.floor(world.wallMs) });
  });
});

describe("the app's end", () => {
  it("releases at once the slots in which nothing runs, and no other", async () => {
    const { app, peer, leader } = await serving();
    const call = new Outcome(peer.call("wait", in3));
    await world.settle();
    app.kill();
    await world.settle();
    expect(call.text).toBe("unknown APP_GONE");
    expect(leader.released).toEqual(["4@8"]);
    const refused = new Outcome(peer.call("echo", in3));
    await world.settle();
    expect(moved(refused)).toBe("none MOVED 8");
    // It says so to a leader that asks anew, until its lease is over.
    world.leader.cut();
    await world.advance(1500);
    expect(world.leader.last.identity.holds).toEqual([{ slot: 3, epoch: 7, isDraining: true }]);
    const connects = world.leader.connections.length;
    await world.advance(15_000);
    world.leader.cut();
    await world.advance(5000);
    expect(world.leader.connections.length).toBe(connects);
  });

  it("is told to the leader, at each connect, once nothing that it had said is still to go out", async () => {
    const { app, peer, leader } = await serving();
    await world.finish(peer.openUnread("waitChan", in3));
    await world.settle();
    app.kill();
    await world.settle();
    expect(leader.isSilent).toBe(true);
    world.leader.cut();
    await world.advance(1500);
    expect(world.leader.last).not.toBe(leader);
    expect(world.leader.last.identity.isSilent).toBe(true);
  });

  it("while something of it waits for its caller's credit is not told; after 2 s that is dropped", async () => {
    const { app, peer, leader } = await serving();
    const channel = await world.finish(peer.openUnread("echoChan", in3));
    for (let i = 0; i < 4; i++) channel.send("x".repeat(40_000));
    channel.end();
    await world.settle();
    app.kill();
    await world.advance(1900);
    expect(leader.isSilent).toBe(false);
    await world.advance(200);
    expect(leader.isSilent).toBe(true);
  });

  it("counts a method whose caller has gone as running, until the app says that it has returned", async () => {
    const { app, peer, leader } = await serving();
    const first = new Outcome(peer.call("wait", in3));
    const second = new Outcome(peer.call("wait", in4));
    await world.settle();
    peer.session.destroy(new LeverError("CONNECTION_LOST", "cut"));
    await world.settle();
    expect([first.isSettled, second.isSettled]).toEqual([true, true]);
    app.say({ type: "left", slot: 4, epoch: 8, count: 1 });
    await world.settle();
    app.kill();
    await world.settle();
    expect(leader.released).toEqual(["4@8"]);
  });

  it("knows exactly what still runs from an app that names it", async () => {
    const { app, peer, leader } = await serving();
    app.orphans = [];
    await world.advance(1000);
    void new Outcome(peer.call("wait", in3));
    void new Outcome(peer.call("wait", in4));
    await world.settle();
    const [inSlot3] = app.entered.map((invocation) => invocation.streamId);
    peer.session.destroy(new LeverError("CONNECTION_LOST", "cut"));
    await world.settle();
    app.orphans = [inSlot3 as number];
    await world.advance(1001);
    app.kill();
    await world.settle();
    expect(leader.released).toEqual(["4@8"]);
  });

  it("does not believe an answer about what runs that was given before a caller went", async () => {
    const { app, peer, leader } = await serving();
    app.orphans = [];
    await world.advance(1000);
    void new Outcome(peer.call("wait", in3));
    await world.settle();
    app.answers = false;
    await world.advance(1000);
    const { n } = app.ofType("ping").at(-1) as { n: number };
    peer.session.destroy(new LeverError("CONNECTION_LOST", "cut"));
    app.pong(n);
    await world.settle();
    app.kill();
    await world.settle();
    expect(leader.released).toEqual(["4@8"]);
  });

  it("a new connection of an app is a new incarnation that holds nothing", async () => {
    const { app, leader } = await serving();
    app.kill();
    await world.settle();
    const next = h1.startApp({ holder: { process: "p2", holds: [] } });
    await world.settle();
    const { identity } = world.leader.last;
    expect(identity.incarnation).toBe(leader.identity.incarnation.replace(".0.1", ".0.2"));
    expect(identity).toMatchObject({ process: "p2", holds: [] });
    expect(identity.released.map(({ slot }) => slot)).toEqual([3, 4]);
    world.leader.last.grant(3, 9, { memory: "lost" });
    await world.settle();
    expect(next.opened(3)?.epoch).toBe(9);
  });

  it("that breaks the rules loses its channel, and can open another", async () => {
    const { app, peer } = await serving();
    app.say({ type: "state", slot: 3, epoch: 7, resource: "room-a", form: "value" });
    app.say({ no: "bytes" });
    await world.settle();
    const refused = new Outcome(peer.call("echo", in3));
    await world.settle();
    expect(moved(refused)).toBe("none MOVED 8");
    expect(app.session.isClosed).toBe(false);
    void app.open({ process: "p1", holds: [] });
    await world.settle();
    world.leader.last.grant(3, 9, { memory: "lost" });
    await world.settle();
    expect(await world.finish(peer.call("echo", { ...in3, epoch: 9 }, ["on"]))).toBe("on");
  });
});

describe("an app that leaves", () => {
  it("takes no plain calls, serves its slots until they are closed, and says so at each connect", async () => {
    const { app, peer, leader } = await serving();
    app.say({ type: "leaving" });
    await world.settle();
    expect(leader.ofType("leaving").length).toBe(1);
    expect(h1.agent.isDraining).toBe(true);
    const plain = new Outcome(peer.call("plain", {}));
    await world.settle();
    expect(plain.text).toBe("none DRAINING");
    expect(await world.finish(peer.call("echo", in3, ["served"]))).toBe("served");
    world.leader.cut();
    await world.advance(2000);
    expect(world.leader.last.ofType("leaving").length).toBe(1);
  });

  it("is what an agent that stops says, which waits for the slots and what was in them", async () => {
    const { app, leader } = await serving();
    let isDrained = false;
    void h1.agent.drain().then(() => {
      isDrained = true;
    });
    await world.settle();
    expect(leader.ofType("leaving").length).toBe(1);
    for (const [slot, epoch] of [
      [3, 7],
      [4, 8],
    ] as const) {
      expect(isDrained).toBe(false);
      leader.send({ type: "drain", slots: [{ slot, epoch, next: 12 }] });
      await world.settle();
      app.closed(slot, epoch);
      await world.settle();
    }
    // Whoever holds them next has 2 s to fetch what was in them.
    expect(isDrained).toBe(false);
    await world.advance(2000);
    expect(isDrained).toBe(true);
  });
});

describe("a service that serves while nobody knows who holds a resource", () => {
  beforeEach(() => {
    if (world.ownership !== undefined) world.ownership = { ...world.ownership, onUncertain: "Serve" };
  });

  it("takes calls of callers that do not know, and keeps no lease", async () => {
    const { app, peer } = await serving();
    expect(app.ofType("config")[0]?.servesUncertain).toBe(true);
    world.leader.isAway = true;
    world.leader.cut();
    await world.advance(60_000);
    expect(app.ofType("abort")).toEqual([]);
    expect(await world.finish(peer.call("echo", in3, ["held"]))).toBe("held");
    expect(await world.finish(peer.call("echo", { ...in3, epoch: 0 }, ["unsure"]))).toBe("unsure");
    expect(await world.finish(peer.call("echo", { resource: resourceIn(6), epoch: 0 }, ["elsewhere"]))).toBe(
      "elsewhere",
    );
    const wrong = new Outcome(peer.call("echo", { resource: resourceIn(6), epoch: 5 }));
    await world.settle();
    expect(moved(wrong)).toBe("none MOVED 6");
  });

  it("begins anew when it is to keep leases from now on", async () => {
    const { app, peer, leader } = await serving();
    if (world.ownership !== undefined) world.ownership = { ...world.ownership, onUncertain: "Wait", idleMs: 5000 };
    world.publish();
    await world.settle();
    expect(app.ofType("config").at(-1)).toMatchObject({ servesUncertain: false, idleMs: 5000 });
    expect(app.ofType("abort").map(({ slot }) => slot)).toEqual([3, 4]);
    const calls = [in3, { ...in3, epoch: 0 }].map((fields) => new Outcome(peer.call("echo", fields)));
    await world.settle();
    expect(calls.map(moved)).toEqual(["none MOVED 8", "none MOVED 1"]);
    await world.advance(1001);
    expect(world.leader.last.identity.incarnation).not.toBe(leader.identity.incarnation);
    expect(world.leader.last.identity.holds).toEqual([]);
  });

  it("begins anew also if what it serves had no lease any more", async () => {
    const { app, peer } = await serving();
    world.leader.isAway = true;
    world.leader.cut();
    await world.advance(14_000);
    // Until it is granted slots anew, it serves on without an incarnation that is connected, and at times without any.
    const isBetween = () => h1.agent.ownership.lapses === 1;
    while (!isBetween()) await world.advance(10);
    if (world.ownership !== undefined) world.ownership = { ...world.ownership, onUncertain: "Wait" };
    world.publish();
    await world.settle();
    expect(app.ofType("abort").map(({ slot }) => slot)).toEqual([3, 4]);
    const call = new Outcome(peer.call("echo", in3));
    await world.settle();
    expect(moved(call)).toBe("none MOVED 8");
    expect(h1.agent.heldSlots).toEqual([]);
  });

  it("goes on where it was when the leader is back", async () => {
    const { app, peer } = await serving();
    world.leader.isAway = true;
    world.leader.cut();
    const call = new Outcome(peer.call("wait", in3));
    await world.advance(30_000);
    world.leader.isAway = false;
    await world.advance(2000);
    expect(world.leader.last.identity.holds).toEqual([]);
    world.leader.last.grant(3, 20, { memory: "lost" });
    await world.settle();
    expect(app.ofType("abort")).toEqual([]);
    app.letGo("all the time");
    await world.settle();
    expect(call.value).toBe("all the time");
    expect(await world.finish(peer.call("echo", { ...in3, epoch: 20 }, ["new"]))).toBe("new");
  });
});
