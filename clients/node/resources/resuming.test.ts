/** Channels to resources at their caller: what a move is to them, and how they are opened again. */

import type { Channel, ChannelState } from "@leveros/protocol/channel/channel.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { CallOptions } from "../call-options.ts";
import { MethodError } from "../index.ts";
import { type AppCall, Outcome, World } from "./agent-end.fixture.ts";

let world: World;
/** The methods' ends of the channels, in the order in which they were opened. */
let ends: Channel<string, string>[];
let calls: AppCall[];
/** Methods take the cursor at once. */
let takesCursor: boolean;

beforeEach(async () => {
  ends = [];
  calls = [];
  takesCursor = true;
  world = await World.start(undefined, { any: () => 0 });
  world.answer = async (call, channel) => {
    calls.push(call);
    ends.push(channel as Channel<string, string>);
    if (takesCursor) call.invocation.takeCursor();
    // As most methods: they read until their caller has said all.
    for await (const _ of channel) received.push(_ as string);
  };
  received = [];
});
let received: string[];
afterEach(() => world.close());

const lost = new LeverError("APP_GONE", "the app ended");

class Caller {
  readonly states: ChannelState[] = [];
  readonly got: string[] = [];
  channel!: Channel<string, string>;
  end: Outcome | undefined;

  static async open(options: CallOptions = { resume: true }, reads = true): Promise<Caller> {
    const caller = new Caller();
    const opening = new Outcome(world.client.openChannel("/chat/room-7/joinChan", ["Ada"], options));
    await world.settle();
    if (opening.error !== undefined) throw opening.error;
    caller.channel = opening.value as Channel<string, string>;
    caller.channel.onstate = (state) => {
      caller.states.push(state);
    };
    if (reads) caller.read();
    return caller;
  }

  read(): void {
    this.end = new Outcome(
      (async () => {
        for await (const message of this.channel) this.got.push(message);
        return "end";
      })(),
    );
  }
}

function last(): Channel<string, string> {
  return ends.at(-1) as Channel<string, string>;
}

describe("a channel without resume", () => {
  it("ends its direction when it is told to move, reads what is left, and ends with MOVED", async () => {
    const caller = await Caller.open({});
    await caller.channel.send("before");
    await last().send("1");
    world.agent.move();
    await world.settle();
    expect(received).toEqual(["before"]);
    expect([caller.got, caller.end?.reason]).toEqual([["1"], "MOVED ran"]);
    expect(await new Outcome(caller.channel.send("late")).reason).toBeUndefined();
    await expect(caller.channel.send("late")).rejects.toMatchObject({ reason: "MOVED" });
    expect(caller.channel.signal.reason).toMatchObject({ reason: "MOVED" });
    expect([caller.states, ends.length]).toEqual([["closed"], 1]);
  });

  it("that has said all before waits for the method's own end", async () => {
    world.answer = async (_call, channel) => {
      ends.push(channel as Channel<string, string>);
      for await (const _ of channel);
      await new Promise((resolve) => setImmediate(resolve));
      await channel.send("sum");
    };
    const caller = await Caller.open({}, false);
    caller.channel.closeWrite();
    world.agent.move();
    caller.read();
    await world.settle();
    expect([caller.got, caller.end?.value]).toEqual([["sum"], "end"]);
  });

  it("gets what the method throws, moving or not", async () => {
    world.answer = async (_call, channel) => {
      for await (const _ of channel);
      throw new MethodError("mine");
    };
    const caller = await Caller.open({});
    world.agent.move();
    await world.settle();
    expect(caller.end?.error).toMatchObject({ value: "mine" });
  });
});

describe("a channel with resume", () => {
  it("that moves is opened again with its arguments and the last cursor, and goes on", async () => {
    const caller = await Caller.open();
    await last().send("1", { cursor: "c1" });
    await last().send("2", { cursor: "c2" });
    await world.settle();
    world.agent.move();
    await world.settle();
    expect(ends).toHaveLength(2);
    expect(calls[0]?.fields).not.toHaveProperty("cursor");
    expect(calls[1]).toMatchObject({ args: ["Ada"], fields: { resource: "room-7", cursor: "c2" } });
    await last().send("3", { cursor: "c3" });
    await world.settle();
    expect(caller.got).toEqual(["1", "2", "3"]);
    expect(caller.states).toEqual(["resuming", "open"]);
    last().close();
    await world.settle();
    expect(caller.end?.value).toBe("end");
    caller.channel.close();
    await world.settle();
    expect(caller.states).toEqual(["resuming", "open", "closed"]);
  });

  it("keeps what is sent meanwhile, and sends it to the next", async () => {
    const caller = await Caller.open();
    await caller.channel.send("1");
    world.agent.move();
    // MOVE is on its way: the rest is for the next holder.
    await world.settle();
    await caller.channel.send("2");
    await world.settle();
    expect(received).toEqual(["1", "2"]);
    // Nobody is there for a while.
    world.agent.session.destroy(new LeverError("CONNECTION_LOST", "the agent was killed"));
    world.isReachable = false;
    await world.settle();
    const waiting = new Outcome(caller.channel.send("3"));
    expect(caller.channel.trySend("no")).toBe(false);
    await world.pass(500, false);
    expect(waiting.isSettled).toBe(false);
    world.isReachable = true;
    await world.pass(3000, false);
    expect(waiting.isSettled && waiting.error === undefined).toBe(true);
    expect(received).toEqual(["1", "2", "3"]);
  });

  it.each([
    ["takes no cursor", false, "c"],
    ["sent none", true, undefined],
  ] as const)("of a method that %s has a discontinuity, before the first message", async (_, takes, cursor) => {
    takesCursor = takes;
    const caller = await Caller.open();
    await last().send("1", cursor === undefined ? {} : { cursor });
    await world.settle();
    world.agent.reset(lost);
    await world.settle();
    expect(caller.states).toEqual(["resuming", "open"]);
    const statesAt: string[] = [];
    caller.channel.onstate = (state) => statesAt.push(`${state} after ${caller.got.length}`);
    await last().send("2");
    await world.settle();
    expect(statesAt).toEqual(["discontinuity after 1"]);
    await last().send("3");
    await world.settle();
    expect([caller.got, statesAt.length]).toEqual([["1", "2", "3"], 1]);
  });

  it("that had received nothing has none", async () => {
    takesCursor = false;
    const caller = await Caller.open();
    world.agent.reset(lost);
    await world.settle();
    await last().send("1");
    await world.settle();
    expect([caller.states, caller.got]).toEqual([["resuming", "open"], ["1"]]);
  });

  it("delivers what came in before it ended, though it was read late", async () => {
    const caller = await Caller.open({ resume: true }, false);
    for (const n of [1, 2, 3]) await last().send(String(n), { cursor: `c${n}` });
    await world.settle();
    world.agent.reset(lost);
    await world.settle();
    expect(calls[1]?.fields.cursor).toBe("c3");
    await last().send("4", { cursor: "c4" });
    await world.settle();
    world.agent.reset(lost);
    await world.settle();
    expect(calls[2]?.fields.cursor).toBe("c4");
    caller.read();
    await last().send("5", { cursor: "c5" });
    await world.settle();
    expect(caller.got).toEqual(["1", "2", "3", "4", "5"]);
    expect(caller.states).toEqual(["resuming", "open", "resuming", "open"]);
  });

  it.each(["MOVED", "CONNECTION_LOST", "LEASE_LAPSED", "APP_GONE"] as const)(
    "is opened again after %s",
    async (reason) => {
      const caller = await Caller.open();
      world.agent.reset(new LeverError(reason, "for a test", { effect: "ran" }));
      await world.settle();
      expect([ends.length, caller.end?.isSettled]).toEqual([2, false]);
    },
  );

  it.each([
    ["the method throws", (end: Channel<string, string>) => end.fail("mine"), { value: "mine" }],
    [
      "a message is too large",
      () => world.agent.reset(new LeverError("MESSAGE_TOO_LARGE", "for a test")),
      {
        reason: "MESSAGE_TOO_LARGE",
      },
    ],
  ])("ends for good when %s", async (_, ends_, error) => {
    const caller = await Caller.open();
    ends_(last());
    await world.settle();
    expect(caller.end?.error).toMatchObject(error);
    expect([ends.length, caller.states]).toEqual([1, ["closed"]]);
  });

  it("is tried again and again, with pauses, for resumeTimeoutMs", async () => {
    const caller = await Caller.open({ resume: true, resumeTimeoutMs: 10_000 });
    let tries = 0;
    world.answer = () => {
      tries++;
      throw new LeverError("APP_GONE", "not yet");
    };
    world.isReachable = false;
    world.agent.session.destroy(new LeverError("CONNECTION_LOST", "the agent was killed"));
    await world.pass(9000, false);
    expect(caller.end?.isSettled).toBe(false);
    await world.pass(1500, false);
    expect(caller.end?.error).toMatchObject({ kind: "network", effect: "ran" });
    expect(caller.states).toEqual(["resuming", "closed"]);
    await expect(caller.channel.send("x")).rejects.toMatchObject({ kind: "network" });
    expect(tries).toBe(0);
  });

  it("cancelled, closed or failed while there is none stays so", async () => {
    for (const end of ["cancel", "close", "fail", "signal", "client"] as const) {
      const controller = new AbortController();
      const caller = await Caller.open({ resume: true, signal: controller.signal });
      world.isReachable = false;
      world.agent.session.destroy(new LeverError("CONNECTION_LOST", "the agent was killed"));
      await world.pass(100, false);
      expect(caller.states).toEqual(["resuming"]);
      const opened = ends.length;
      if (end === "cancel") caller.channel.cancel();
      else if (end === "close") caller.channel.close();
      else if (end === "fail") caller.channel.fail("x");
      else if (end === "signal") controller.abort();
      else await world.client.close();
      await world.settle();
      expect(caller.states).toEqual(["resuming", "closed"]);
      expect(caller.end?.isSettled).toBe(true);
      expect(caller.end?.reason).toBe(end === "close" ? undefined : "CANCELLED ran");
      world.isReachable = true;
      await world.pass(10_000, false);
      expect(ends.length).toBe(opened);
    }
  });

  it("that has said all it had to say is opened again for what the method has to say", async () => {
    world.answer = async (call, channel) => {
      calls.push(call);
      ends.push(channel as Channel<string, string>);
      for await (const message of channel) received.push(message as string);
      if (calls.length < 2) await new Promise(() => {});
      await channel.send("sum");
    };
    const caller = await Caller.open();
    await caller.channel.send("1");
    caller.channel.closeWrite();
    await world.settle();
    world.agent.reset(lost);
    await world.settle();
    // What was lost with the first method is not sent again.
    expect([received, caller.got, caller.end?.value]).toEqual([["1"], ["sum"], "end"]);
    expect(caller.states).toEqual(["resuming", "open", "closed"]);
  });

  it("is for resources only, and its options are checked", async () => {
    const wrong = new Outcome(world.client.openChannel("/chat/joinChan", [], { resume: true }));
    const late = new Outcome(world.client.openChannel("/chat/r/joinChan", [], { resume: true, resumeTimeoutMs: 0 }));
    await world.settle();
    expect([wrong.reason, late.reason]).toEqual(["INVALID_OPTION none", "INVALID_OPTION none"]);
    // A call has nothing to resume.
    world.answer = () => 1;
    const call = new Outcome(world.client.invoke("/chat/r/any", [], { resume: true }));
    await world.settle();
    expect(call.value).toBe(1);
  });
});

describe("cursors", () => {
  it("come from methods, 1 to 255 bytes of UTF-8", async () => {
    const caller = await Caller.open();
    await expect(caller.channel.send("x", { cursor: "c" })).rejects.toMatchObject({ reason: "INVALID_OPTION" });
    for (const cursor of ["", "x".repeat(256), "é".repeat(128), "\ud800"]) {
      await expect(last().send("x", { cursor })).rejects.toMatchObject({ reason: "INVALID_OPTION" });
      expect(() => last().trySend("x", { cursor })).toThrow(LeverError);
    }
    for (const cursor of ["x".repeat(255), "é".repeat(127), "🙂"]) {
      await last().send("x".repeat(100_000), { cursor });
      await world.settle();
      world.agent.reset(lost);
      await world.settle();
      expect(calls.at(-1)?.fields.cursor).toBe(cursor);
    }
    expect(last().trySend("y", { cursor: "z" })).toBe(true);
    await world.settle();
    expect(caller.got.map((text) => text.length)).toEqual([100_000, 100_000, 100_000, 1]);
  });
});
