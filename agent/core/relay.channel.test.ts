/** Channels through two agents: how they open, that what was sent before an end arrives before it, and how they end. */

import type { Channel } from "@leveros/protocol/channel/channel.ts";
import { encodeFault } from "@leveros/protocol/error/fault.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { MethodError } from "@leveros/protocol/error/method-error.ts";
import { describe, expect, it } from "vitest";
import { type App, type Methods, type Node, Outcome, World } from "./world.fixture.ts";

type Strings = Channel<string, string>;

class Rig {
  readonly world = new World();
  readonly caller: Node;
  readonly app: App;
  readonly server: Node;
  /** What methods saw: messages, and how their reading ended. */
  readonly seen: unknown[] = [];
  readonly methods: Methods;
  openGate!: () => void;
  readonly gate = new Promise<void>((resolve) => {
    this.openGate = resolve;
  });

  constructor(policy: Parameters<World["declare"]>[0] = {}) {
    this.methods = {
      work: (_context, value: unknown) => value,
      echoChan: async (_context, channel: Strings) => {
        for await (const message of channel) await channel.send(message);
      },
      /** Reads, once the gate is open, until the end, and notes it. */
      readChan: async (_context, channel: Strings) => {
        await this.gate;
        try {
          for await (const message of channel) this.seen.push(message);
          this.seen.push("end");
        } catch (error) {
          this.seen.push(error);
        }
      },
      /** Sends this many messages of 1,000 characters and ends as it is told. */
      sendChan: async (_context, channel: Strings, count: number, end: string) => {
        for (let index = 0; index < count; index++) await channel.send(`${index} ${"x".repeat(1000)}`);
        if (end === "throw") throw new MethodError("enough");
        if (end === "bug") throw new TypeError("a bug");
        if (end === "cancel") channel.cancel();
        if (end === "hold") await this.gate;
      },
      largeChan: async (_context, channel: Strings, bytes: number) => {
        try {
          await channel.send("x".repeat(bytes));
          for await (const _message of channel) {
            // To its end.
          }
        } catch (error) {
          this.seen.push(error);
        }
      },
    };
    this.world.declare(policy);
    this.caller = this.world.addNode("caller", { service: "caller" });
    this.app = this.caller.startApp();
    this.server = this.world.addNode("server");
    this.server.startApp(this.methods);
  }

  async open(method: string, ...args: unknown[]): Promise<Strings> {
    const opened = new Outcome(this.app.open(method, args));
    await this.world.advance(100);
    expect(opened.text).toBe("ok");
    return opened.value as Strings;
  }

  /** Reads to the end; gives the messages and, last, how it ended. */
  async read(channel: Strings): Promise<unknown[]> {
    const messages: unknown[] = [];
    const reading = (async () => {
      try {
        for await (const message of channel) messages.push(message);
        messages.push("end");
      } catch (error) {
        messages.push(error);
      }
    })();
    await this.world.advance(100);
    await reading;
    return messages;
  }

  /** All ends as the caller's agent and the instance's count them; nothing is left behind. */
  async ends(): Promise<{ caller: string[]; served: string[] }> {
    this.openGate();
    await this.world.advance(1000);
    const { caller, server } = this;
    this.world.checkIdle();
    await this.world.close();
    return {
      caller: caller.notes.ends.map((end) => end.replace(" dev/test", "")),
      served: server.notes.servedCodes,
    };
  }
}

const counted = (count: number) => Array.from({ length: count }, (_, index) => `${index} ${"x".repeat(1000)}`);

describe("the ends of a channel", () => {
  it("half-closes from either side", async () => {
    const rig = new Rig();
    const echo = await rig.open("echoChan");
    await echo.send("a");
    await echo.send("b");
    echo.closeWrite();
    expect(await rig.read(echo)).toEqual(["a", "b", "end"]);

    const source = await rig.open("sendChan", 3, "return");
    expect(await rig.read(source)).toEqual([...counted(3), "end"]);
    // The method has returned, and its caller has not said that it sends nothing more.
    expect(rig.caller.agent.counts.outgoing).toBe(1);
    source.close();
    expect(await rig.ends()).toEqual({ caller: ["open OK", "close OK", "open OK", "close OK"], served: ["OK", "OK"] });
  });

  it.each([
    ["throw", new MethodError("enough"), "UNKNOWN"],
    ["bug", expect.objectContaining({ reason: "METHOD_THREW", effect: "ran" }), "INTERNAL"],
  ])("the method's error comes after all that was sent before: %s", async (end, error, code) => {
    const rig = new Rig();
    const channel = await rig.open("sendChan", 400, end);
    // Nobody reads meanwhile: the last messages and the error wait at several places.
    expect(rig.server.agent.counts.channels).toBe(1);
    expect(await rig.read(channel)).toEqual([...counted(400), error]);
    expect(await rig.ends()).toEqual({ caller: ["open OK", `close ${code}`], served: [code] });
  });

  it("the caller's error comes after all that was sent before, even when the caller is gone by then", async () => {
    const rig = new Rig();
    const channel = await rig.open("readChan");
    const sent = counted(150);
    for (const message of sent) void channel.send(message);
    channel.fail("enough");
    await rig.world.settle();
    expect(rig.seen).toEqual([]);
    rig.openGate();
    await rig.world.advance(100);
    expect(rig.seen).toEqual([...sent, new MethodError("enough")]);
    expect(await rig.ends()).toEqual({ caller: ["open OK", "close UNKNOWN"], served: ["UNKNOWN"] });
  });

  it("a caller that has ended its channel with an error and is gone has still ended it with that error", async () => {
    const rig = new Rig();
    const channel = await rig.open("readChan");
    for (const message of counted(50)) void channel.send(message);
    channel.fail("enough");
    await rig.world.settle();
    rig.app.kill();
    await rig.world.settle();
    rig.openGate();
    await rig.world.advance(100);
    expect(rig.seen).toEqual([...counted(50), new MethodError("enough")]);
    expect(await rig.ends()).toEqual({ caller: ["open OK", "close UNKNOWN"], served: ["UNKNOWN"] });
  });

  it("a cancel reaches the other side, from either", async () => {
    const rig = new Rig();
    const channel = await rig.open("readChan");
    rig.openGate();
    await channel.send("a");
    await rig.world.settle();
    channel.cancel();
    await rig.world.settle();
    expect(rig.seen).toEqual(["a", expect.objectContaining({ reason: "CANCELLED", effect: "ran" })]);

    const source = await rig.open("sendChan", 0, "cancel");
    expect(await rig.read(source)).toEqual([expect.objectContaining({ reason: "CANCELLED", effect: "ran" })]);
    expect(await rig.ends()).toEqual({
      caller: ["open OK", "close CANCELLED", "open OK", "close CANCELLED"],
      served: ["CANCELLED", "CANCELLED"],
    });
  });

  it("a lost link is an error at both ends", async () => {
    const rig = new Rig();
    const channel = await rig.open("readChan");
    rig.openGate();
    await channel.send("a");
    await rig.world.settle();
    rig.server.cut();
    expect(await rig.read(channel)).toEqual([expect.objectContaining({ reason: "CONNECTION_LOST", effect: "ran" })]);
    expect(rig.seen).toEqual(["a", expect.objectContaining({ kind: "network" })]);
    expect(await rig.ends()).toEqual({ caller: ["open OK", "close UNAVAILABLE"], served: ["UNAVAILABLE"] });
  });

  it("a link that falls silent is an error at both ends within 5 s", async () => {
    const rig = new Rig();
    const channel = await rig.open("readChan");
    rig.openGate();
    const reading = new Outcome(channel.receive());
    rig.world.latencyMs = () => 10_000;
    await rig.world.advance(5000);
    expect(reading.text).toBe("ran CONNECTION_LOST");
    expect(rig.seen).toEqual([expect.objectContaining({ kind: "network" })]);
    rig.world.latencyMs = () => 0;
    await rig.world.advance(10_000);
    expect(await rig.ends()).toEqual({ caller: ["open OK", "close UNAVAILABLE"], served: ["UNAVAILABLE"] });
  });

  it("the end of the app is an error at the caller, the caller's at the method", async () => {
    const rig = new Rig();
    const first = await rig.open("readChan");
    rig.server.app?.kill();
    expect(await rig.read(first)).toEqual([expect.objectContaining({ reason: "APP_GONE", effect: "ran" })]);
    rig.server.startApp(rig.methods);
    await rig.world.settle();
    await rig.open("readChan");
    rig.openGate();
    rig.app.kill();
    await rig.world.settle();
    expect(rig.seen).toEqual([
      expect.objectContaining({ reason: "CONNECTION_LOST" }),
      expect.objectContaining({ reason: "CONNECTION_LOST" }),
    ]);
    expect(await rig.ends()).toEqual({
      caller: ["open OK", "close UNAVAILABLE", "open OK", "close CANCELLED"],
      served: ["UNAVAILABLE", "UNAVAILABLE"],
    });
  });

  it("a message above the limit ends it, from either side; one at the limit passes", async () => {
    const rig = new Rig({ limits: { messageBytes: 100_005 } });
    const tooLarge = expect.objectContaining({ reason: "MESSAGE_TOO_LARGE", effect: "ran" });
    // 5 bytes of the value's own.
    const good = await rig.open("echoChan");
    await good.send("x".repeat(100_000));
    good.closeWrite();
    expect(await rig.read(good)).toEqual(["x".repeat(100_000), "end"]);

    const sending = await rig.open("largeChan", 10);
    void sending.send("x".repeat(100_001)).catch(() => {});
    expect(await rig.read(sending)).toEqual(["x".repeat(10), tooLarge]);
    expect(rig.seen).toEqual([tooLarge]);

    const receiving = await rig.open("largeChan", 100_001);
    expect(await rig.read(receiving)).toEqual([tooLarge]);
    expect(rig.seen).toEqual([tooLarge, tooLarge]);
    expect(await rig.ends()).toEqual({
      caller: ["OK", "RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED"].flatMap((code) => ["open OK", `close ${code}`]),
      served: ["OK", "RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED"],
    });
  });
});

describe("an open channel", () => {
  it("has no deadline, and needs no traffic", async () => {
    const rig = new Rig();
    const opened = new Outcome(rig.app.open("echoChan", [], { timeoutMs: 1000 }));
    await rig.world.advance(10 * 60_000);
    const channel = opened.value as unknown as Strings;
    // There is no retry any more, and nothing is kept for one.
    expect(rig.caller.agent.counts.retainedBytes).toBe(0);
    await channel.send("still there");
    channel.closeWrite();
    expect(await rig.read(channel)).toEqual(["still there", "end"]);
    await rig.ends();
  });

  it("goes on when its instance leaves the table, for as long as it likes", async () => {
    const rig = new Rig();
    const channel = await rig.open("echoChan");
    rig.world.setState(rig.server, undefined);
    await rig.world.advance(5 * 60_000);
    await channel.send("still there");
    channel.closeWrite();
    expect(await rig.read(channel)).toEqual(["still there", "end"]);
    const after = new Outcome(rig.app.call("work", [1]));
    await rig.world.advance(100);
    expect(after.text).toBe("none NO_INSTANCES");
    // The link has gone with the last stream.
    expect(rig.server.agent.counts.sessions).toBe(1);
    await rig.ends();
  });

  it("stays at its instance while others come and drain, and holds up the draining of its own", async () => {
    const rig = new Rig();
    const channel = await rig.open("echoChan");
    const other = rig.world.addNode("other");
    other.startApp(rig.methods);
    await rig.world.settle();
    const drained = new Outcome(rig.server.agent.drain());
    for (let count = 0; count < 100; count++) {
      await channel.send(`${count}`);
      const reply = new Outcome(channel.receive());
      const call = new Outcome(rig.app.call("work", [count]));
      await rig.world.advance(10);
      expect([reply.value, call.text]).toEqual([`${count}`, "ok"]);
    }
    expect(other.notes.servedCodes).toHaveLength(100);
    expect(drained.text).toBe("open");
    channel.closeWrite();
    await rig.read(channel);
    expect(drained.text).toBe("ok");
    await rig.ends();
  });

  it("stops its writer when its reader stalls, and slows no call", async () => {
    const rig = new Rig();
    const channel = await rig.open("readChan");
    let sent = 0;
    void (async () => {
      for (const message of counted(2000)) {
        await channel.send(message);
        sent++;
      }
      channel.closeWrite();
    })();
    await rig.world.advance(1000);
    const stalledAt = sent;
    await rig.world.advance(1000);
    // Four windows on the way: the caller's, two between the agents and the app, the method's.
    expect(stalledAt).toBeLessThan(600);
    expect(sent).toBe(stalledAt);
    const call = new Outcome(rig.app.call("work", [1]));
    await rig.world.settle();
    expect(call.text).toBe("ok");
    rig.openGate();
    await rig.world.advance(1000);
    expect(rig.seen).toEqual([...counted(2000), "end"]);
    expect((await rig.ends()).caller).toEqual(["open OK", "call OK", "close OK"]);
  });
});

describe("the opening of a channel", () => {
  it("is refused where the method is not there, and above channelsPerInstance", async () => {
    const rig = new Rig({ limits: { channelsPerInstance: 2 } });
    const absent = new Outcome(rig.app.open("absentChan"));
    await rig.world.advance(100);
    expect(absent.text).toBe("none METHOD_NOT_FOUND");
    const channels = [await rig.open("echoChan"), await rig.open("echoChan")];
    const third = new Outcome(rig.app.open("echoChan"));
    await rig.world.advance(1000);
    expect(third.text).toBe("none OVERLOADED");
    expect(third.error?.message).toMatch(/2 channels are open in server, the most allowed \(channelsPerInstance\)/);
    for (const channel of channels) channel.close();
    await rig.world.advance(100);
    (await rig.open("echoChan")).close();
    expect((await rig.ends()).caller.slice(0, 4)).toEqual([
      "open UNIMPLEMENTED",
      "open OK",
      "open OK",
      "open RESOURCE_EXHAUSTED",
    ]);
  });

  it("goes elsewhere when the instance drains, unseen by the caller", async () => {
    const rig = new Rig();
    const other = rig.world.addNode("other");
    other.startApp(rig.methods);
    await rig.world.settle();
    rig.server.app?.stop();
    await rig.world.settle();
    rig.world.setState(rig.server, "Serving");
    await rig.world.settle();
    for (let count = 0; count < 10; count++) (await rig.open("echoChan")).close();
    expect(rig.caller.notes.retries).toEqual(["DRAINING"]);
    expect((await rig.ends()).caller.filter((end) => end !== "open OK" && end !== "close OK")).toEqual([]);
  });

  it("that is lost before ACCEPT may have run", async () => {
    const rig = new Rig();
    await rig.world.settle();
    rig.server.app?.kill();
    await rig.world.settle();
    const app = rig.server.startApp(rig.methods, { onOpen: () => {} });
    await rig.world.settle();
    const lost = new Outcome(rig.app.open("echoChan"));
    await rig.world.settle();
    app.kill();
    await rig.world.settle();
    expect(lost.text).toBe("unknown APP_GONE");
    expect(await rig.ends()).toEqual({ caller: ["open UNAVAILABLE"], served: ["UNAVAILABLE"] });
  });

  it("that is reset after ACCEPT ran, whatever the reset says", async () => {
    const rig = new Rig();
    await rig.world.settle();
    rig.server.app?.kill();
    await rig.world.settle();
    rig.server.startApp(rig.methods, {
      onOpen: (stream) => {
        stream.accept(new Uint8Array(2));
        stream.reset(encodeFault(new LeverError("OVERLOADED", "?", { effect: "none" })));
        stream.release();
      },
    });
    await rig.world.settle();
    const channel = await rig.open("echoChan");
    expect(await rig.read(channel)).toEqual([expect.objectContaining({ reason: "OVERLOADED", effect: "ran" })]);
    expect(await rig.ends()).toEqual({
      caller: ["open OK", "close RESOURCE_EXHAUSTED"],
      served: ["RESOURCE_EXHAUSTED"],
    });
  });
});
