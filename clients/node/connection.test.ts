import { getEventListeners } from "node:events";
import { VirtualClock } from "@leveros/protocol/clock/virtual-clock.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { defaultSessionLimits } from "@leveros/protocol/session/limits.ts";
import { Session } from "@leveros/protocol/session/session.ts";
import { Target } from "@leveros/protocol/target/target.ts";
import { type MemoryTransport, memoryTransportPair } from "@leveros/protocol/transport/memory-transport.ts";
import type { Transport } from "@leveros/protocol/transport/transport.ts";
import { describe, expect, it } from "vitest";
import { Connection, type ConnectionOptions, type ServingHandler } from "./connection.ts";

const limits = { ...defaultSessionLimits, pingIntervalMs: 0, silenceMs: 0 };
const none = new Uint8Array(0);

/** An agent that can be away, on virtual time. */
class Rig {
  readonly clock = new VirtualClock();
  readonly connection: Connection;
  readonly dialsAt: number[] = [];
  readonly agentSessions: Session[] = [];
  readonly transports: MemoryTransport[] = [];
  /** What a dial comes to; `hangs` until `answer` is called. */
  mode: "answers" | "refuses" | "hangs" | "hangs up" = "answers";
  hanging: { readonly resolve: (transport: Transport) => void; readonly signal: AbortSignal }[] = [];
  closed = 0;

  constructor(options: Partial<ConnectionOptions> = {}) {
    this.connection = new Connection(
      {
        identity: { role: "app" },
        name: "the agent",
        limits,
        clock: this.clock,
        random: () => 0,
        dial: (signal) => this.#dial(signal),
        ...options,
      },
      () => this.closed++,
    ).retain();
  }

  #dial(signal: AbortSignal): Promise<Transport> {
    this.dialsAt.push(this.clock.now());
    switch (this.mode) {
      case "answers":
        return Promise.resolve(this.transport());
      case "refuses":
        throw new Error("connect ECONNREFUSED");
      case "hangs":
        return new Promise((resolve) => this.hanging.push({ resolve, signal }));
      case "hangs up": {
        const [near, far] = memoryTransportPair(this.clock);
        far.destroy();
        return Promise.resolve(near);
      }
    }
  }

  transport(): MemoryTransport {
    const [near, far] = memoryTransportPair(this.clock);
    this.transports.push(near);
    this.agentSessions.push(
      new Session({
        transport: far,
        clock: this.clock,
        side: "acceptor",
        identity: { role: "agent" },
        limits,
        handler: { onOpen: () => {} },
      }),
    );
    return near;
  }

  /** Lets `ms` pass, with everything that follows from it. */
  async run(ms: number): Promise<void> {
    const untilMs = this.clock.now() + ms;
    for (let idle = 0; idle < 3; ) {
      await new Promise((resolve) => setImmediate(resolve));
      idle = this.clock.step(untilMs) ? 0 : idle + 1;
    }
    this.clock.advance(Math.max(untilMs - this.clock.now(), 0));
  }

  /** A session, once both HELLOs are there. */
  async open(): Promise<Session> {
    const opening = this.connection.open(0, undefined);
    await this.run(0);
    return opening;
  }

  loseSession(): void {
    this.agentSessions.at(-1)?.destroy(new LeverError("CONNECTION_LOST", "the agent has ended"));
  }
}

/** How a promise has settled so far. */
function watch(promise: Promise<unknown>): { readonly outcome: unknown } {
  const state: { outcome: unknown } = { outcome: "pending" };
  promise.then(
    (value) => {
      state.outcome = value;
    },
    (error: unknown) => {
      state.outcome = error;
    },
  );
  return state;
}

function recordingHandler(): ServingHandler & { readonly sessions: Session[] } {
  const sessions: Session[] = [];
  return { sessions, onOpen: () => {}, onSession: (session) => sessions.push(session) };
}

describe("Connection", () => {
  it("is made at first use, once for all who wait", async () => {
    const rig = new Rig();
    await rig.run(10_000);
    expect(rig.dialsAt).toEqual([]);
    const opened = await Promise.all([1, 2, 3].map(() => rig.open()));
    expect(new Set(opened)).toEqual(new Set([rig.connection.current]));
    expect(await rig.open()).toBe(opened[0]);
    expect(rig.dialsAt).toEqual([10_000]);
    // Until then each session waits for the other's HELLO.
    await rig.run(limits.helloTimeoutMs);
    expect(rig.clock.timerCount).toBe(0);
  });

  it("dials again with growing pauses, half to all of 50 ms to 5 s, while somebody waits", async () => {
    for (const random of [0, 0.999_999]) {
      const rig = new Rig({ random: () => random });
      rig.mode = "refuses";
      const waiter = watch(rig.connection.open(30_000, undefined));
      await rig.run(29_999);
      const pauses = rig.dialsAt.slice(1).map((at, index) => at - (rig.dialsAt[index] as number));
      pauses.forEach((pauseMs, index) => {
        const ceilingMs = Math.min(50 * 2 ** index, 5000);
        expect(pauseMs).toBeCloseTo(ceilingMs * (0.5 + random / 2), 0);
      });
      expect(pauses.length).toBeGreaterThan(8);
      expect(waiter.outcome).toBe("pending");
      await rig.run(1);
      expect(waiter.outcome).toMatchObject({ reason: "AGENT_UNREACHABLE", effect: "none" });
      expect((waiter.outcome as Error).message).toContain("connect ECONNREFUSED");
      // Nobody waits any more.
      const dials = rig.dialsAt.length;
      await rig.run(60_000);
      expect(rig.dialsAt).toHaveLength(dials);
      expect(rig.clock.timerCount).toBe(0);
    }
  });

  it("gives each who waits its own time, 5 s unless set, and serves the rest when the agent is back", async () => {
    const rig = new Rig();
    rig.mode = "refuses";
    const short = watch(rig.connection.open(200, undefined));
    const usual = watch(rig.connection.open(0, undefined));
    const long = watch(rig.connection.open(60_000, undefined));
    await rig.run(199);
    expect(short.outcome).toBe("pending");
    await rig.run(1);
    expect(short.outcome).toMatchObject({ reason: "AGENT_UNREACHABLE", effect: "none" });
    await rig.run(4799);
    expect(usual.outcome).toBe("pending");
    await rig.run(1);
    expect(usual.outcome).toMatchObject({ reason: "AGENT_UNREACHABLE" });
    rig.mode = "answers";
    await rig.run(5000);
    expect(long.outcome).toBe(rig.connection.current);
    expect(long.outcome).toBeInstanceOf(Session);
  });

  it("says that nobody answers when a dial hangs", async () => {
    const rig = new Rig();
    rig.mode = "hangs";
    const waiter = watch(rig.connection.open(300, undefined));
    await rig.run(300);
    expect(waiter.outcome).toMatchObject({
      reason: "AGENT_UNREACHABLE",
      message: expect.stringContaining("no connection to the agent within 300 ms"),
    });
  });

  it("lets a caller go that cancels, and keeps nothing of it", async () => {
    const rig = new Rig();
    rig.mode = "hangs";
    const controller = new AbortController();
    const waiter = watch(rig.connection.open(0, controller.signal));
    const other = watch(rig.connection.open(0, undefined));
    expect(watch(rig.connection.open(0, AbortSignal.abort()))).toBeDefined();
    await rig.run(10);
    controller.abort(new Error("no longer wanted"));
    await rig.run(0);
    expect(waiter.outcome).toMatchObject({
      reason: "CANCELLED",
      effect: "none",
      cause: { message: "no longer wanted" },
    });
    expect(other.outcome).toBe("pending");
    expect(getEventListeners(controller.signal, "abort")).toEqual([]);
    await expect(rig.connection.open(0, AbortSignal.abort())).rejects.toMatchObject({ reason: "CANCELLED" });
    rig.hanging[0]?.resolve(rig.transport());
    await rig.run(0);
    expect(other.outcome).toBe(rig.connection.current);
    expect(rig.dialsAt).toHaveLength(1);
  });

  it.each(["hangs", "refuses"] as const)("leaves nothing behind when it is closed while the agent %s", async (mode) => {
    const rig = new Rig();
    rig.mode = mode;
    rig.connection.serve(recordingHandler());
    const waiter = watch(rig.connection.open(60_000, undefined));
    await rig.run(120);
    rig.connection.release();
    await rig.run(0);
    expect(waiter.outcome).toMatchObject({ reason: "CANCELLED", effect: "none" });
    expect(rig.clock.timerCount).toBe(0);
    expect(rig.closed).toBe(1);
    const dials = rig.dialsAt.length;
    for (const { resolve, signal } of rig.hanging) {
      expect(signal.aborted).toBe(true);
      const late = rig.transport();
      resolve(late);
    }
    await rig.run(60_000);
    expect(rig.dialsAt).toHaveLength(dials);
    expect(rig.connection.current).toBeUndefined();
    // A transport that came too late was closed.
    expect(rig.agentSessions.every((session) => session.isClosed)).toBe(true);
    expect(rig.clock.timerCount).toBe(0);
    await expect(rig.connection.open(0, undefined)).rejects.toMatchObject({ reason: "CANCELLED", effect: "none" });
  });

  it("is closed by its last user", async () => {
    const rig = new Rig();
    rig.connection.retain();
    const session = await rig.open();
    rig.connection.release();
    expect(session.isClosed).toBe(false);
    rig.connection.release();
    expect(session.isClosed).toBe(true);
    await rig.run(5000);
    expect(rig.agentSessions[0]?.isClosed).toBe(true);
    expect(rig.clock.timerCount).toBe(0);
  });

  it("fails at once if told to, as long as nobody was ever reached", async () => {
    const rig = new Rig({ failsFirst: true });
    rig.mode = "refuses";
    await expect(rig.connection.open(0, undefined)).rejects.toMatchObject({ reason: "AGENT_UNREACHABLE" });
    // Takes the connection and is no Lever peer.
    rig.mode = "hangs up";
    const hungUp = watch(rig.connection.open(0, undefined));
    await rig.run(50);
    expect(hungUp.outcome).toMatchObject({ reason: "AGENT_UNREACHABLE", effect: "none" });
    rig.mode = "answers";
    const reached = watch(rig.connection.open(0, undefined));
    await rig.run(50);
    expect(reached.outcome).toBeInstanceOf(Session);
    rig.mode = "refuses";
    rig.loseSession();
    await rig.run(0);
    const waiter = watch(rig.connection.open(0, undefined));
    await rig.run(1000);
    expect(waiter.outcome).toBe("pending");
    rig.mode = "answers";
    await rig.run(4000);
    expect(waiter.outcome).toBe(rig.connection.current);
  });

  it("takes connections that do not last for failures, and others not", async () => {
    const rig = new Rig();
    rig.connection.serve(recordingHandler());
    await rig.run(5000);
    rig.loseSession();
    await rig.run(0);
    // It had lived for 5 s.
    expect(rig.dialsAt).toEqual([0, 5000]);
    rig.mode = "hangs up";
    rig.loseSession();
    await rig.run(1000);
    const pauses = rig.dialsAt.slice(1).map((at, index) => at - (rig.dialsAt[index] as number));
    expect(pauses.slice(1)).toEqual([25, 50, 100, 200, 400]);
  });

  it("is kept open while it serves: each session is for registering", async () => {
    const rig = new Rig();
    const handler = recordingHandler();
    rig.connection.serve(handler);
    await rig.run(0);
    expect(handler.sessions).toEqual([rig.connection.current]);
    rig.mode = "refuses";
    rig.loseSession();
    await rig.run(60_000);
    expect(rig.connection.current).toBeUndefined();
    rig.mode = "answers";
    await rig.run(5000);
    expect(handler.sessions).toHaveLength(2);
    expect(handler.sessions[1]).toBe(rig.connection.current);
    expect(() => rig.connection.serve(recordingHandler())).toThrow(
      expect.objectContaining({ reason: "INVALID_OPTION" }),
    );
    rig.loseSession();
    await rig.run(5000);
    expect(handler.sessions).toHaveLength(3);
  });

  it("registers on a session that clients had opened before", async () => {
    const rig = new Rig();
    const session = await rig.open();
    const handler = recordingHandler();
    rig.connection.serve(handler);
    expect(handler.sessions).toEqual([session]);
    expect(rig.dialsAt).toHaveLength(1);
  });

  it("is no longer kept open once it goes away, and dials when somebody needs it", async () => {
    const rig = new Rig();
    const handler = recordingHandler();
    rig.connection.serve(handler);
    await rig.run(0);
    rig.connection.goAway(new LeverError("DRAINING", "about to stop", { effect: "none" }));
    await rig.run(60_000);
    expect(rig.connection.current).toBeUndefined();
    expect(rig.dialsAt).toHaveLength(1);
    await rig.open();
    expect(rig.dialsAt).toHaveLength(2);
    // Whether it registers there is for the handler to say, which knows that it drains.
    expect(handler.sessions).toHaveLength(2);
  });

  it("refuses calls that come in while nothing is served", async () => {
    const rig = new Rig();
    await rig.open();
    await rig.run(0);
    let refused = false;
    rig.agentSessions[0]?.open(new Target("dev", "hello", "sayHello"), 0, 0, none, none, {
      onFrame: () => {
        refused = true;
      },
      onWritable: () => {},
      onLost: () => {},
    });
    await rig.run(0);
    expect(refused).toBe(true);
  });

  it("leaves a session whose numbers are used up to its streams", async () => {
    const rig = new Rig({ streamIdMax: 3 });
    const handler = { onFrame: () => {}, onWritable: () => {}, onLost: () => {} };
    const target = new Target("dev", "hello", "sayHello");
    const first = await rig.open();
    const streams = [1, 2].map(() => first.open(target, 0, 0, none, none, handler));
    expect(rig.connection.current).toBeUndefined();
    const second = await rig.open();
    expect(second).not.toBe(first);
    expect(first.isClosed).toBe(false);
    for (const stream of streams) stream.reset(none);
    await rig.run(0);
    expect(first.isClosed).toBe(true);
    expect(rig.connection.current).toBe(second);
  });

  it("flushes: what was sent has reached the other end, or the time is over", async () => {
    const rig = new Rig();
    await rig.open();
    const flushed = watch(rig.connection.flush(1000));
    await rig.run(0);
    expect(flushed.outcome).toBeUndefined();
    await rig.run(limits.helloTimeoutMs);
    expect(rig.clock.timerCount).toBe(0);
    const stuck = new Rig();
    stuck.mode = "answers";
    const session = await stuck.open();
    // The agent's end is gone without a word; nothing answers.
    Object.defineProperty(session, "roundTrip", { value: () => new Promise(() => {}) });
    const late = watch(stuck.connection.flush(1000));
    await stuck.run(999);
    expect(late.outcome).toBe("pending");
    await stuck.run(1);
    expect(late.outcome).toBeUndefined();
  });
});
