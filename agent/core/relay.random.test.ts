/**
 * Hundreds of calls and channels from two callers over three instances, on a network that is slow and cut, to apps that
 * drain, die and come back, with deadlines and cancels: from a seed, on virtual time. Whatever happens, each has one
 * end, `none` is never a lie, what is not idempotent runs once at most, and nothing is left behind.
 *
 * `LEVER_SEEDS=200` runs so many seeds.
 */

import type { Channel } from "@leveros/protocol/channel/channel.ts";
import { sessionWindowBytesMin, streamWindowBytesMin } from "@leveros/protocol/session/limits.ts";
import { describe, expect, it } from "vitest";
import type { AgentLimits } from "./limits.ts";
import { type App, type Methods, type Node, Outcome, seeded, World } from "./world.fixture.ts";

const idempotentMethods = ["workIdempotent", "slowIdempotent", "echoIdempotentChan"];

interface Sent {
  readonly id: string;
  readonly method: string;
  readonly outcome: Outcome;
  readonly expected: unknown;
  /** Of a channel: its messages both ways, and how the caller meant to end it. */
  readonly channel?: { readonly sent: string[]; readonly received: string[]; readonly how: string; error: unknown };
}

class Chaos {
  readonly world: World;
  readonly random: () => number;
  readonly callers: Node[] = [];
  readonly servers: Node[] = [];
  readonly sent: Sent[] = [];
  /** How often each call's method was entered. */
  readonly ran = new Map<string, number>();
  /** What was done to whom. */
  readonly faults: string[] = [];
  #isOver = false;

  constructor(seed: number, limits: Partial<AgentLimits> = {}) {
    this.world = new World(seed);
    this.random = seeded(seed ^ 0x5eed);
    // The smallest windows, so that credit is short.
    this.world.sessionLimits = { streamWindowBytes: streamWindowBytesMin, sessionWindowBytes: sessionWindowBytesMin };
    this.world.declare({ idempotentMethods });
    for (const id of ["caller-a", "caller-b"]) {
      const caller = this.world.addNode(id, { service: id, limits });
      caller.startApp();
      this.callers.push(caller);
    }
    for (const id of ["x", "y", "z"]) {
      const server = this.world.addNode(id);
      server.startApp(this.#methods);
      this.servers.push(server);
    }
  }

  below(count: number): number {
    return Math.floor(this.random() * count);
  }

  pick<Value>(values: readonly Value[]): Value {
    return values[this.below(values.length)] as Value;
  }

  readonly #methods: Methods = (() => {
    const enter = (id: string) => this.ran.set(id, (this.ran.get(id) ?? 0) + 1);
    const work = (_context: unknown, id: string, padding: string, resultBytes: number) => {
      enter(id);
      return [id, padding.length, "r".repeat(resultBytes)];
    };
    const slow = async (_context: unknown, id: string, ms: number) => {
      enter(id);
      await this.world.sleep(ms);
      return id;
    };
    const echo = async (_context: unknown, channel: Channel<string, string>, id: string) => {
      enter(id);
      for await (const message of channel) await channel.send(message);
    };
    return {
      work,
      workIdempotent: work,
      slow,
      slowIdempotent: slow,
      echoChan: echo,
      echoIdempotentChan: echo,
    };
  })();

  // ---------------------------------------------------------------- load

  start(): void {
    const { app } = this.pick(this.callers);
    const id = `${this.sent.length}`;
    const kind = this.random();
    const suffix = this.random() < 0.5 ? "" : "Idempotent";
    const timeoutMs = this.random() < 0.2 ? 1 + this.below(300) : this.random() < 0.5 ? 5000 : 0;
    const abort = new AbortController();
    if (this.random() < 0.1) this.world.clock.setTimer(() => abort.abort(), this.below(200));
    const options = { timeoutMs, signal: abort.signal };
    if (kind < 0.55) {
      const padding = this.random() < 0.1 ? this.below(300_000) : this.below(200);
      const resultBytes = this.random() < 0.1 ? this.below(300_000) : this.below(200);
      const method = `work${suffix}`;
      const call = (app as App).call(method, [id, "p".repeat(padding), resultBytes], options);
      const expected = [id, padding, "r".repeat(resultBytes)];
      this.sent.push({ id, method, outcome: new Outcome(call), expected });
    } else if (kind < 0.75) {
      const method = `slow${suffix}`;
      const call = (app as App).call(method, [id, this.below(500)], options);
      this.sent.push({ id, method, outcome: new Outcome(call), expected: id });
    } else this.#startChannel(app as App, id, `echo${suffix}Chan`, options);
  }

  #startChannel(app: App, id: string, method: string, options: { timeoutMs: number; signal: AbortSignal }): void {
    const how = this.pick(["close", "close", "fail", "cancel", "close early"]);
    const count = this.below(30);
    const bytes = this.random() < 0.1 ? 20_000 : 20;
    const pauseMs = this.below(3) * 10;
    const channel = { sent: [] as string[], received: [] as string[], how, error: undefined as unknown };
    const run = async () => {
      const open = (await app.open(method, [id], options)) as Channel<string, string>;
      const write = async () => {
        for (let index = 0; index < count; index++) {
          const message = `${id} ${index} ${"m".repeat(bytes)}`;
          channel.sent.push(message);
          await open.send(message);
          if (pauseMs > 0) await this.world.sleep(pauseMs);
        }
        if (how === "fail") open.fail("enough");
        else if (how === "cancel") open.cancel();
        else if (how === "close early") open.close();
        else open.closeWrite();
      };
      const read = async () => {
        for await (const message of open) channel.received.push(message);
      };
      const results = await Promise.allSettled([write(), read()]);
      for (const result of results) if (result.status === "rejected") channel.error ??= result.reason;
    };
    this.sent.push({ id, method, outcome: new Outcome(run()), expected: undefined, channel });
  }

  // ---------------------------------------------------------------- faults

  async stopApp(server: Node): Promise<void> {
    const { app } = server;
    if (app === undefined || app.session.isClosed) return;
    server.app = undefined;
    app.stop();
    // It ends by itself when the last stream has.
    while (!app.session.isClosed) await this.world.sleep(10);
    await this.world.sleep(10 + this.below(100));
    server.startApp(this.#methods);
  }

  fault(): void {
    const { world } = this;
    const server = this.pick(this.servers);
    const ms = 50 + this.below(1000);
    const what = this.pick(["cut", "kill", "stop", "refuses", "hangs", "silent", "slow", "gone", "operator", "caller"]);
    this.faults.push(what);
    switch (what) {
      case "cut":
        server.cut();
        break;
      case "kill": {
        const { app } = server;
        if (app === undefined || app.session.isClosed) break;
        server.app = undefined;
        app.kill();
        world.clock.setTimer(() => server.startApp(this.#methods), ms);
        break;
      }
      case "stop":
        void this.stopApp(server);
        break;
      case "refuses":
      case "hangs":
      case "silent":
        server.reachability = what;
        server.cut();
        world.clock.setTimer(() => {
          server.reachability = "open";
        }, ms);
        break;
      case "slow": {
        // Longer than the silence after which a peer is dead, at times.
        const latencyMs = this.below(5000);
        world.latencyMs = () => latencyMs;
        world.clock.setTimer(() => this.setLatency(), ms);
        break;
      }
      case "gone": {
        const { state } = world.tableOf("test").instances.find((instance) => instance.id === server.id) ?? {};
        world.setState(server, undefined);
        world.clock.setTimer(() => {
          if (!world.tableOf("test").instances.some((instance) => instance.id === server.id)) {
            world.setState(server, state);
          }
        }, ms);
        break;
      }
      case "operator":
        world.isOperatorAway = true;
        world.clock.setTimer(() => {
          world.isOperatorAway = false;
          world.publish();
        }, ms);
        break;
      case "caller": {
        const caller = this.pick(this.callers);
        caller.app?.kill();
        caller.startApp();
      }
    }
  }

  setLatency(): void {
    this.world.latencyMs = () => (this.random() < 0.5 ? 0 : this.below(20));
    this.world.appLatencyMs = () => (this.random() < 0.7 ? 0 : this.below(5));
  }

  /** `calls` of them in all, over 30 s, with a fault every `faultMs` or so. */
  async run(calls: number, faultMs: number): Promise<void> {
    const { world } = this;
    await world.settle();
    this.setLatency();
    const startSoon = () => {
      if (this.sent.length >= calls) return;
      this.start();
      world.clock.setTimer(startSoon, this.random() * 2 * (30_000 / calls));
    };
    const faultSoon = () => {
      if (this.#isOver) return;
      this.fault();
      world.clock.setTimer(faultSoon, this.random() * 2 * faultMs);
    };
    startSoon();
    if (faultMs > 0) world.clock.setTimer(faultSoon, this.random() * 2 * faultMs);
    await world.until(() => this.sent.length >= calls, "all are sent", 120_000);
    await world.advance(1000);
    this.#isOver = true;
    // All faults are over within a second or so, and every call has a deadline.
    await world.advance(35_000);
  }

  /** Every promise that was made to the callers; throws what is not so. */
  check(): { readonly errors: number; readonly errorsIdempotent: number } {
    let errors = 0;
    let errorsIdempotent = 0;
    for (const { id, method, outcome, expected, channel } of this.sent) {
      const ran = this.ran.get(id) ?? 0;
      const isIdempotent = idempotentMethods.includes(method);
      const told = `${method} ${id}: ${outcome.text}, ran ${ran} times`;
      if (outcome.settledTimes !== 1) throw new Error(`has ${outcome.settledTimes} ends: ${told}`);
      if (!isIdempotent && ran > 1) throw new Error(`was repeated: ${told}`);
      const { error } = outcome;
      if (outcome.text === "ok" && ran === 0) throw new Error(`was answered by nobody: ${told}`);
      if (error?.effect === "none" && ran > 0) throw new Error(`none is a lie: ${told}`);
      if (error?.effect === "ran" && ran === 0) throw new Error(`ran is a lie: ${told}`);
      if (outcome.methodError !== undefined) throw new Error(`unexpected: ${String(outcome.methodError)} ${told}`);
      if (error?.kind === "internal" || error?.kind === "arguments") throw new Error(`${error.message}: ${told}`);
      if (error !== undefined && error.reason !== "CANCELLED" && error.reason !== "DEADLINE_EXCEEDED") {
        errors++;
        // Nothing can be repeated once a part of the reply is with the caller.
        if (isIdempotent && error.effect !== "ran") errorsIdempotent++;
      }
      if (outcome.text !== "ok") continue;
      if (channel === undefined) expect(outcome.value).toEqual(expected);
      else {
        // In order, each once, and all unless something says otherwise.
        expect(channel.received).toEqual(channel.sent.slice(0, channel.received.length));
        const isWhole = channel.received.length === channel.sent.length;
        if (channel.how === "close" && channel.error === undefined && !isWhole) {
          throw new Error(`ended cleanly after ${channel.received.length} of ${channel.sent.length}: ${told}`);
        }
      }
    }
    return { errors, errorsIdempotent };
  }

  /** What the agents count adds up. */
  checkCounts(): void {
    const notes = this.callers.flatMap((caller) => caller.notes.ends);
    const ends = notes.filter((end) => !end.startsWith("close"));
    // A call whose caller was killed before its agent had heard of it is not counted.
    const killed = this.faults.filter((fault) => fault === "caller").length;
    if (killed === 0) expect(ends).toHaveLength(this.sent.length);
    else expect(ends.length).toBeLessThanOrEqual(this.sent.length);
  }

  /** How many of `calls` calls, one after the other, each instance gets. */
  async shares(calls: number): Promise<number[]> {
    const { world } = this;
    // Nothing of what was is remembered against anybody: ejections last 300 s at most.
    // No promise is waited for meanwhile.
    world.clock.advance(400_000);
    await world.settle();
    world.latencyMs = () => 0;
    world.appLatencyMs = () => 0;
    const app = this.callers[0]?.app as App;
    const before = this.servers.map((server) => server.notes.servedCodes.length);
    for (let count = 0; count < calls; count++) {
      const call = new Outcome(app.call("work", ["after", "", 0]));
      await world.advance(20);
      expect(call.text).toBe("ok");
    }
    return this.servers.map((server, index) => server.notes.servedCodes.length - (before[index] as number));
  }
}

const seeds = Array.from({ length: Number(process.env.LEVER_SEEDS ?? 8) }, (_, index) => index + 1);

describe("calls and channels under faults", () => {
  it.each(seeds)("keep what is promised: seed %i", async (seed) => {
    const chaos = new Chaos(seed);
    chaos.world.chunkBytes = seed % 3 === 0 ? 1 + chaos.below(2000) : undefined;
    await chaos.run(400, 300);
    chaos.check();
    chaos.checkCounts();
    chaos.world.checkIdle();
    // An attempt that was begun at an instance and not ended would weigh on it for ever.
    for (const share of await chaos.shares(60)) expect(share).toBeGreaterThan(8);
    chaos.world.checkIdle();
    await chaos.world.close();
  });

  it("go the same way twice", async () => {
    const trace = async () => {
      const chaos = new Chaos(42);
      await chaos.run(200, 300);
      return [chaos.sent.map((sent) => sent.outcome.text), chaos.faults, [...chaos.ran]];
    };
    expect(await trace()).toEqual(await trace());
  });
});

/** Errors other than deadlines and cancels, over some seeds. */
async function errorsOf(run: (chaos: Chaos) => Promise<void>, limits: Partial<AgentLimits>) {
  let all = 0;
  let idempotent = 0;
  for (const seed of [1, 2, 3]) {
    const chaos = new Chaos(seed, limits);
    await run(chaos);
    const { errors, errorsIdempotent } = chaos.check();
    all += errors;
    idempotent += errorsIdempotent;
    chaos.world.checkIdle();
    await chaos.world.close();
  }
  return { all, idempotent };
}

/** Nothing is kept, so nothing can be sent again once it has left. */
const withoutRetries: Partial<AgentLimits> = { retainedBytesMax: 0 };

describe("planned events", () => {
  const roll = async (chaos: Chaos) => {
    const { world } = chaos;
    let isOver = false;
    void (async () => {
      for (let round = 0; !isOver; round++) {
        await world.sleep(200);
        await chaos.stopApp(chaos.servers[round % 3] as Node);
      }
    })();
    await chaos.run(250, 0);
    isOver = true;
    await world.advance(1000);
  };

  it("fail no call while apps are stopped and started again one after the other", async () => {
    const { all } = await errorsOf(roll, {});
    expect(all).toBe(0);
    // With the protection off they do: the check would have seen it.
    const off = await errorsOf(roll, withoutRetries);
    process.stdout.write(`planned stops: ${all} errors; without retries ${off.all}`);
    expect(off.all).toBeGreaterThan(0);
  });
});

describe("unplanned events", () => {
  const kill = async (chaos: Chaos) => {
    chaos.fault = () => {
      const server = chaos.pick(chaos.servers);
      server.cut();
    };
    await chaos.run(250, 600);
  };

  it("fail no call that is idempotent while links are cut", async () => {
    const on = await errorsOf(kill, {});
    const off = await errorsOf(kill, withoutRetries);
    process.stdout.write(
      `cut links: ${on.idempotent} errors of idempotent calls, ${on.all} in all; without retries ${off.idempotent} and ${off.all}`,
    );
    expect(on.idempotent).toBe(0);
    expect(off.idempotent).toBeGreaterThan(0);
  });
});
