/**
 * Hundreds of calls and channels for resources from two callers, while slots move, moves are called off, holders lapse
 * and refuse, links are cut and slow, and tables are late: from a seed, on virtual time. Whatever happens, each has one
 * end, `none` is never a lie, what may not be repeated runs once, no more are held than may be, nothing is sent and
 * nothing heard under an epoch below the fence that the caller knows, and nothing is left behind.
 *
 * `LEVER_SEEDS=200` runs so many seeds.
 */

import type { Channel } from "@leveros/protocol/channel/channel.ts";
import type { OnUncertain } from "@leveros/protocol/control/discovery.ts";
import { sessionWindowBytesMin, streamWindowBytesMin } from "@leveros/protocol/session/limits.ts";
import { decodeFields, routingFixedBytes } from "@leveros/protocol/session/routing-header.ts";
import type { Session } from "@leveros/protocol/session/session.ts";
import { slotOf } from "@leveros/protocol/target/slot.ts";
import { describe, expect, it } from "vitest";
import type { AgentLimits } from "./limits.ts";
import {
  type App,
  type Context,
  type Holder,
  type Methods,
  type Node,
  Outcome,
  seeded,
  World,
} from "./world.fixture.ts";

const slots = 4;
const rooms = Array.from({ length: 12 }, (_, index) => `room/${index}`);
const idempotentMethods = ["workIdempotent", "slowIdempotent", "echoIdempotentChan"];

interface Sent {
  readonly id: string;
  readonly caller: Node;
  readonly slot: number;
  readonly mayRepeat: boolean;
  readonly isFromHook: boolean;
  readonly outcome: Outcome;
  readonly expected: unknown;
  settledAtMs: number;
  readonly channel?: {
    readonly sent: string[];
    readonly received: string[];
    readonly isClosed: boolean;
    error: unknown;
  };
}

/** Of one slot: what a leader would know. */
interface SlotState {
  holder: Holder | undefined;
  epoch: number;
  issued: number;
  isBusy: boolean;
}

class Chaos {
  readonly world: World;
  readonly random: () => number;
  readonly callers: Node[] = [];
  readonly holders: Holder[] = [];
  readonly sent: Sent[] = [];
  /** How often each call's method was entered, and under which epoch the last time. */
  readonly ran = new Map<string, { times: number; epoch: number }>();
  /** Methods that run, by holder and slot. */
  readonly running = new Map<string, number>();
  readonly faults: string[] = [];
  readonly problems: string[] = [];
  /** When each caller came to know of a fence. */
  readonly fences: { readonly caller: Node; readonly slot: number; readonly fence: number; readonly atMs: number }[] =
    [];
  readonly slots: SlotState[] = Array.from({ length: slots }, () => ({
    holder: undefined,
    epoch: 0,
    issued: 0,
    isBusy: false,
  }));
  readonly heldCallsMax: number;
  heldMost = 0;
  hooks = 0.05;
  #isOver = false;

  constructor(seed: number, onUncertain: OnUncertain = "Wait", limits: Partial<AgentLimits> = {}) {
    this.world = new World(seed);
    this.random = seeded(seed ^ 0x5eed);
    this.heldCallsMax = limits.heldCallsMax ?? 1000;
    // The smallest windows, so that credit is short.
    this.world.sessionLimits = { streamWindowBytes: streamWindowBytesMin, sessionWindowBytes: sessionWindowBytesMin };
    this.world.declare({ idempotentMethods, ownership: { slots, onUncertain } });
    for (const id of ["x", "y", "z"]) this.holders.push(this.world.addHolder(id, this.#methods));
    for (const id of ["caller-a", "caller-b"]) {
      const caller = this.world.addNode(id, { service: id, limits });
      caller.startApp();
      this.#watch(caller);
      this.callers.push(caller);
    }
    for (let slot = 0; slot < slots; slot++) this.grant(slot, this.pick(this.holders), this.nextEpoch(slot));
  }

  below(count: number): number {
    return Math.floor(this.random() * count);
  }

  pick<Value>(values: readonly Value[]): Value {
    return values[this.below(values.length)] as Value;
  }

  /** Looks at each frame that opens a stream to a peer, and at each row, as the agent itself sees them. */
  #watch(caller: Node): void {
    const { agent } = caller;
    const view = agent.view("dev", "test");
    const update = view.update.bind(view);
    const known: number[] = [];
    view.update = (table) => {
      for (const { slot, fence } of table.slots ?? []) {
        if (fence > (known[slot] ?? 0)) {
          known[slot] = fence;
          this.fences.push({ caller, slot, fence, atMs: this.world.clock.now() });
        }
      }
      update(table);
    };
    const openLink = agent.openLink.bind(agent);
    agent.openLink = (...given) => {
      const session: Session = openLink(...given);
      const openFrame = session.openFrame.bind(session);
      session.openFrame = (target, flags, frame, ...rest) => {
        const end = routingFixedBytes + (((frame[6] as number) << 8) | (frame[7] as number));
        const { epoch = -1, resource } = decodeFields(frame.slice(routingFixedBytes, end));
        const slot = slotOf(resource ?? "", slots);
        const fence = view.slots?.rowOf(slot).fence ?? 0;
        if (epoch < 0) this.problems.push("a call with a resource was sent without an epoch");
        if (epoch > 0 && epoch < fence) this.problems.push(`slot ${slot}: sent under ${epoch}, the fence is ${fence}`);
        return openFrame(target, flags, frame, ...rest);
      };
      return session;
    };
  }

  readonly #methods: Methods = (() => {
    const within = async <Result>({ app, invocation }: Context, id: string, run: () => Promise<Result> | Result) => {
      const { epoch = 0, resource = "" } = invocation.fields;
      this.ran.set(id, { times: (this.ran.get(id)?.times ?? 0) + 1, epoch });
      const key = `${app.name} ${slotOf(resource, slots)}`;
      this.running.set(key, (this.running.get(key) ?? 0) + 1);
      try {
        return await run();
      } finally {
        this.running.set(key, (this.running.get(key) ?? 0) - 1);
      }
    };
    const work = (context: Context, id: string, padding: string, resultBytes: number) =>
      within(context, id, () => [id, padding.length, "r".repeat(resultBytes)]);
    const slow = (context: Context, id: string, ms: number) =>
      within(context, id, async () => {
        await this.world.sleep(ms);
        return id;
      });
    const echo = (context: Context, channel: Channel<string, string>, id: string) =>
      within(context, id, async () => {
        for await (const message of channel) await channel.send(message);
      });
    return { work, workIdempotent: work, slow, slowIdempotent: slow, echoChan: echo, echoIdempotentChan: echo };
  })();

  // ---------------------------------------------------------------- load

  start(): void {
    const caller = this.pick(this.callers);
    const app = caller.app as App;
    const id = `${this.sent.length}`;
    const resource = this.pick(rooms);
    const kind = this.random();
    const isIdempotent = this.random() < 0.4;
    const hasToken = this.random() < 0.1;
    const isFromHook = this.random() < this.hooks;
    const suffix = isIdempotent ? "Idempotent" : "";
    const timeoutMs = this.random() < 0.2 ? 1 + this.below(300) : this.random() < 0.5 ? 8000 : 0;
    const abort = new AbortController();
    if (this.random() < 0.1) this.world.clock.setTimer(() => abort.abort(), this.below(200));
    const fields = {
      resource,
      ...(hasToken && { token: id }),
      ...(isFromHook && { hook: "hooked" }),
    };
    const options = { timeoutMs, signal: abort.signal, fields };
    let promise: Promise<unknown>;
    let expected: unknown;
    let channel: Sent["channel"];
    if (kind < 0.5) {
      const padding = this.random() < 0.1 ? this.below(300_000) : this.below(200);
      const resultBytes = this.random() < 0.1 ? this.below(300_000) : this.below(200);
      promise = app.call(`work${suffix}`, [id, "p".repeat(padding), resultBytes], options);
      expected = [id, padding, "r".repeat(resultBytes)];
    } else if (kind < 0.75) {
      promise = app.call(`slow${suffix}`, [id, this.below(500)], options);
      expected = id;
    } else {
      channel = { sent: [], received: [], isClosed: this.random() < 0.8, error: undefined };
      promise = this.#channel(app.open(`echo${suffix}Chan`, [id], options), id, channel);
    }
    const sent: Sent = {
      id,
      caller,
      slot: slotOf(resource, slots),
      mayRepeat: isIdempotent || hasToken,
      isFromHook,
      outcome: new Outcome(promise),
      expected,
      settledAtMs: 0,
      ...(channel && { channel }),
    };
    const settled = () => {
      sent.settledAtMs = this.world.clock.now();
    };
    promise.then(settled, settled);
    this.sent.push(sent);
  }

  async #channel(opening: Promise<Channel>, id: string, channel: NonNullable<Sent["channel"]>): Promise<void> {
    const count = this.below(30);
    const bytes = this.random() < 0.1 ? 20_000 : 20;
    const pauseMs = this.below(3) * 10;
    const open = (await opening) as Channel<string, string>;
    const write = async () => {
      for (let index = 0; index < count; index++) {
        const message = `${id} ${index} ${"m".repeat(bytes)}`;
        channel.sent.push(message);
        await open.send(message);
        if (pauseMs > 0) await this.world.sleep(pauseMs);
      }
      if (channel.isClosed) open.closeWrite();
      else open.cancel();
    };
    const read = async () => {
      for await (const message of open) channel.received.push(message);
    };
    const results = await Promise.allSettled([write(), read()]);
    for (const result of results) if (result.status === "rejected") channel.error ??= result.reason;
  }

  // ---------------------------------------------------------------- slots

  nextEpoch(slot: number): number {
    const state = this.slots[slot] as SlotState;
    state.issued += 1 + this.below(3);
    return state.issued;
  }

  grant(slot: number, holder: Holder, epoch: number, fence = this.world.rowOf(slot).fence): void {
    const state = this.slots[slot] as SlotState;
    state.holder = holder;
    state.epoch = epoch;
    this.world.grant(slot, holder, epoch, { fence, issued: state.issued });
  }

  /** As a leader moves a slot: the intent, the drain, the release, the grant. Or it calls it off. */
  async move(slot: number): Promise<void> {
    const state = this.slots[slot] as SlotState;
    const from = state.holder;
    if (state.isBusy || from === undefined) return;
    state.isBusy = true;
    const epoch = this.nextEpoch(slot);
    const to = this.pick(this.holders.filter((holder) => holder !== from));
    // Callers may hear of it before or after the holder does.
    if (this.random() < 0.5) await this.world.sleep(this.below(30));
    this.world.setRow(slot, { isMoving: true, issued: epoch });
    if (this.random() < 0.5) await this.world.sleep(this.below(30));
    from.holds.set(slot, { epoch: state.epoch, next: epoch });
    const key = `${from.id} ${slot}`;
    const limitMs = this.world.clock.now() + 300 + this.below(700);
    while ((this.running.get(key) ?? 0) > 0 && this.world.clock.now() < limitMs) await this.world.sleep(10);
    if ((this.running.get(key) ?? 0) > 0) {
      from.holds.set(slot, { epoch: state.epoch });
      if (this.random() < 0.5) await this.world.sleep(this.below(30));
      this.world.setRow(slot, { isMoving: false });
    } else {
      from.holds.delete(slot);
      if (this.random() < 0.5) {
        this.world.setRow(slot, { holder: "" });
        await this.world.sleep(this.below(100));
      }
      this.grant(slot, to, epoch);
    }
    state.isBusy = false;
  }

  /** The holder has lost it without a release; what runs goes on, and says what it likes. */
  async lapse(slot: number): Promise<void> {
    const state = this.slots[slot] as SlotState;
    if (state.isBusy || state.holder === undefined) return;
    state.isBusy = true;
    state.holder.holds.delete(slot);
    state.holder = undefined;
    await this.world.sleep(this.below(500));
    const epoch = this.nextEpoch(slot);
    this.world.setRow(slot, {
      holder: "",
      isMoving: true,
      issued: epoch,
      fence: this.random() < 0.5 ? epoch : state.epoch,
    });
    await this.world.sleep(this.below(1500));
    this.grant(slot, this.pick(this.holders), epoch, epoch);
    state.isBusy = false;
  }

  // ---------------------------------------------------------------- faults

  fault(): void {
    const { world } = this;
    const holder = this.pick(this.holders);
    const ms = 50 + this.below(1000);
    const what = this.pick([
      "move",
      "move",
      "move",
      "lapse",
      "cut",
      "refuses",
      "hangs",
      "silent",
      "slow",
      "gone",
      "operator",
      "caller",
    ]);
    this.faults.push(what);
    switch (what) {
      case "move":
        void this.move(this.below(slots));
        break;
      case "lapse":
        void this.lapse(this.below(slots));
        break;
      case "cut":
        holder.cut();
        break;
      case "refuses":
      case "hangs":
      case "silent":
        holder.reachability = what;
        holder.cut();
        world.clock.setTimer(() => {
          holder.reachability = "open";
        }, ms);
        break;
      case "slow": {
        // Longer than the silence after which a peer is dead, at times.
        const latencyMs = this.below(5000);
        world.latencyMs = () => latencyMs;
        world.clock.setTimer(() => this.setLatency(), ms);
        break;
      }
      case "gone":
        world.setState(holder, undefined);
        world.clock.setTimer(() => world.setState(holder, this.pick(["Serving", "Draining", "Unreachable"])), ms);
        break;
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
    const look = () => {
      for (const { agent } of this.callers) {
        const held = [...agent.heldBySlot("dev", "test").values()].reduce((sum, count) => sum + count, 0);
        this.heldMost = Math.max(this.heldMost, held);
        if (agent.counts.held > this.heldCallsMax) this.problems.push(`${agent.counts.held} calls are held`);
        if (held > agent.counts.held) this.problems.push(`${held} are held for slots, ${agent.counts.held} in all`);
      }
      if (!this.#isOver) world.clock.setTimer(look, 20);
    };
    startSoon();
    look();
    if (faultMs > 0) world.clock.setTimer(faultSoon, this.random() * 2 * faultMs);
    await world.until(() => this.sent.length >= calls, "all are sent", 120_000);
    await world.advance(1000);
    this.#isOver = true;
    // All faults are over within a second or two, and every call has a deadline.
    await world.advance(35_000);
  }

  /** Every promise that was made to the callers; throws what is not so. */
  check(): { readonly errors: number; readonly ok: number } {
    if (this.problems.length > 0) throw new Error(this.problems.slice(0, 5).join("\n"));
    let errors = 0;
    let ok = 0;
    for (const { id, caller, slot, mayRepeat, isFromHook, outcome, expected, settledAtMs, channel } of this.sent) {
      const { times, epoch } = this.ran.get(id) ?? { times: 0, epoch: 0 };
      const told = `${id}: ${outcome.text}, ran ${times} times`;
      const { error } = outcome;
      if (outcome.settledTimes !== 1) throw new Error(`has ${outcome.settledTimes} ends: ${told}`);
      if (!mayRepeat && times > 1) throw new Error(`was repeated: ${told}`);
      if (outcome.text === "ok" && times === 0) throw new Error(`was answered by nobody: ${told}`);
      if (error?.effect === "none" && times > 0) throw new Error(`none is a lie: ${told}`);
      if (error?.effect === "ran" && times === 0) throw new Error(`ran is a lie: ${told}`);
      if (outcome.methodError !== undefined) throw new Error(`unexpected: ${String(outcome.methodError)} ${told}`);
      if (error?.kind === "internal" || error?.kind === "arguments") throw new Error(`${error.message}: ${told}`);
      if (error?.reason === "HOOK_REENTRY" && !isFromHook) throw new Error(`is from no hook: ${told}`);
      const isExpected = ["CANCELLED", "DEADLINE_EXCEEDED", "HOOK_REENTRY"].includes(error?.reason ?? "");
      if (error !== undefined && !isExpected) errors++;
      if (outcome.text !== "ok") continue;
      ok++;
      if (channel !== undefined) {
        // In order, each once, and all unless something says otherwise.
        expect(channel.received).toEqual(channel.sent.slice(0, channel.received.length));
        const isWhole = channel.received.length === channel.sent.length;
        if (channel.isClosed && channel.error === undefined && !isWhole) {
          throw new Error(`ended cleanly after ${channel.received.length} of ${channel.sent.length}: ${told}`);
        }
        if (channel.error !== undefined) continue;
      } else expect(outcome.value).toEqual(expected);
      // An app hears it within 15 ms of its agent.
      const late = this.fences.find(
        (known) =>
          known.caller === caller && known.slot === slot && known.fence > epoch && known.atMs < settledAtMs - 15,
      );
      if (epoch > 0 && late !== undefined) {
        throw new Error(`heard under ${epoch} at ${settledAtMs}, fence ${late.fence} since ${late.atMs}: ${told}`);
      }
    }
    return { errors, ok };
  }

  /** With all well again each call finds its holder. */
  async checkWell(): Promise<void> {
    const { world } = this;
    world.latencyMs = () => 0;
    world.appLatencyMs = () => 0;
    for (const { app } of this.callers) {
      const calls = rooms.map(
        (resource) => new Outcome((app as App).call("work", ["after", "", 0], { fields: { resource } })),
      );
      await world.advance(1000);
      expect(calls.map((call) => call.text)).toEqual(rooms.map(() => "ok"));
    }
  }

  async finish(): Promise<void> {
    this.world.checkIdle();
    for (const { app } of this.callers) app?.kill();
    await this.world.close();
  }
}

const seeds = Array.from({ length: Number(process.env.LEVER_SEEDS ?? 8) }, (_, index) => index + 1);

describe("calls for resources under faults", () => {
  it.each(seeds)("keep what is promised: seed %i", async (seed) => {
    const policies: OnUncertain[] = ["Wait", "Wait", "Fail", "Serve"];
    const chaos = new Chaos(seed, policies[seed % 4], seed % 5 === 0 ? { heldCallsMax: 12 } : {});
    chaos.world.chunkBytes = seed % 3 === 0 ? 1 + chaos.below(2000) : undefined;
    await chaos.run(400, 250);
    chaos.check();
    chaos.world.checkIdle();
    await chaos.checkWell();
    await chaos.finish();
  });

  it("go the same way twice", async () => {
    const trace = async () => {
      const chaos = new Chaos(42);
      await chaos.run(200, 250);
      return [chaos.sent.map((sent) => sent.outcome.text), chaos.faults, [...chaos.ran]];
    };
    expect(await trace()).toEqual(await trace());
  });
});

describe("planned moves", () => {
  const run = async (limits: Partial<AgentLimits>) => {
    let errors = 0;
    let moved = 0;
    let heldMost = 0;
    for (const seed of [1, 2, 3]) {
      const chaos = new Chaos(seed, "Wait", limits);
      chaos.hooks = 0;
      chaos.fault = () => void chaos.move(chaos.below(slots));
      await chaos.run(300, 150);
      errors += chaos.check().errors;
      heldMost = Math.max(heldMost, chaos.heldMost);
      for (const { notes } of chaos.callers) moved += notes.moves;
      await chaos.checkWell();
      await chaos.finish();
    }
    return { errors, moved, heldMost };
  };

  it("fail no call", async () => {
    const { errors, moved, heldMost } = await run({});
    // With the protection off they do: the check would have seen it.
    const off = await run({ retainedBytesMax: 0 });
    process.stdout.write(
      `planned moves: ${errors} errors, ${moved} calls re-routed, ${heldMost} held at most; kept nowhere: ${off.errors} errors`,
    );
    expect(errors).toBe(0);
    expect(moved).toBeGreaterThan(20);
    expect(off.errors).toBeGreaterThan(0);
  });
});
