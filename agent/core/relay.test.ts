/**
 * A call meets each failure at each point of its way, with its method declared idempotent and not. Every row says what
 * the caller gets, how often the method ran, what was repeated, and the code that the agent counts. `none` is checked
 * against the counter in the method in every row, as is what is left behind: credit, held calls, timers.
 */

import { encodeFault } from "@leveros/protocol/error/fault.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { MethodError } from "@leveros/protocol/error/method-error.ts";
import { Flag, FrameType } from "@leveros/protocol/frame/frame.ts";
import { type SessionLimits, sessionWindowBytesMin } from "@leveros/protocol/session/limits.ts";
import { routingFixedBytes } from "@leveros/protocol/session/routing-header.ts";
import type { OpenFrame } from "@leveros/protocol/session/session.ts";
import { flowCost, type Stream } from "@leveros/protocol/session/stream.ts";
import { Target } from "@leveros/protocol/target/target.ts";
import { encodeArgs } from "@leveros/protocol/value/form.ts";
import { describe, expect, it } from "vitest";
import type { AgentLimits } from "./limits.ts";
import {
  type App,
  type CallOptions,
  type Context,
  environment,
  type Methods,
  type Node,
  Outcome,
  service,
  World,
} from "./world.fixture.ts";

class Rig {
  readonly world = new World();
  readonly caller: Node;
  readonly app: App;
  readonly first: Node;
  readonly second: Node;
  /** Methods that were entered, in order. */
  readonly entered: Context[] = [];
  /** Streams that an app which takes them by hand got. */
  readonly taken: Stream[] = [];
  readonly methods: Methods;
  openGate!: () => void;
  readonly gate = new Promise<void>((resolve) => {
    this.openGate = resolve;
  });

  constructor(policy: Parameters<World["declare"]>[0], limits: Partial<AgentLimits> = {}) {
    const enter = (context: Context) => {
      this.entered.push(context);
    };
    this.methods = {
      work: (context, value: unknown) => {
        enter(context);
        return value;
      },
      held: async (context, value: unknown) => {
        enter(context);
        await this.gate;
        return value;
      },
      lengthOf: (context, bytes: Uint8Array) => {
        enter(context);
        return bytes.length;
      },
      bytesOf: (context, count: number) => {
        enter(context);
        return new Uint8Array(count);
      },
      refuses: () => null,
      throws: (context) => {
        enter(context);
        throw new MethodError({ no: "way" });
      },
      broke: (context) => {
        enter(context);
        throw new TypeError("a bug");
      },
    };
    this.world.declare(policy);
    this.caller = this.world.addNode("caller", { service: "caller", limits });
    this.app = this.caller.startApp();
    this.first = this.world.addNode("first");
    this.second = this.world.addNode("second");
    this.first.startApp(this.methods);
    this.second.startApp(this.methods);
  }

  /** The tables know `first` only. */
  async ready(): Promise<void> {
    await this.world.settle();
    this.world.setState(this.second, undefined);
    await this.world.settle();
  }

  addSecond(): void {
    this.world.setState(this.second, "Serving");
  }

  /** The agents are connected. */
  async warm(): Promise<void> {
    await this.app.call("work", ["warm"]);
  }

  /** `first` has an app that takes streams by hand. */
  async takeByHand(onOpen: (stream: Stream, open: OpenFrame) => void, limits?: Partial<SessionLimits>): Promise<void> {
    this.first.app?.kill();
    await this.world.settle();
    this.first.startApp(this.methods, {
      onOpen: (stream, open) => {
        this.taken.push(stream);
        onOpen(stream, open);
      },
      ...(limits === undefined ? {} : { limits }),
    });
    await this.world.settle();
  }
}

interface Expected {
  /** As `Outcome.text`. */
  readonly end: string;
  readonly ran: number;
  readonly retries?: readonly string[];
  readonly code?: string;
}

interface Row {
  readonly what: string;
  readonly policy?: Parameters<World["declare"]>[0];
  readonly limits?: Partial<AgentLimits>;
  readonly isCold?: boolean;
  /** Before the call. */
  readonly before?: (rig: Rig) => unknown;
  readonly method?: string;
  readonly args?: readonly unknown[];
  readonly options?: CallOptions;
  /** The call has reached its agent, unless there is latency. */
  readonly during?: (rig: Rig, abort: AbortController) => unknown;
  readonly plain: Expected;
  /** The same, if left out. */
  readonly idempotent?: Expected;
}

const fragment = (bytes: number) => new Uint8Array(bytes);
/** Bytes that go out in many fragments, more than a stream's window. */
const large = new Uint8Array(300_000);
const slowly = (rig: Rig) => {
  rig.world.latencyMs = () => 10;
};
const ok: Expected = { end: "ok", ran: 1, code: "OK" };
const elsewhere = (reason: string, ran = 1): Expected => ({ end: "ok", ran, retries: [reason], code: "OK" });
const unavailable = (end: string, ran: number): Expected => ({ end, ran, code: "UNAVAILABLE" });

const rows: readonly Row[] = [
  { what: "nothing", plain: ok },
  {
    what: "there is no such service",
    options: { service: "absent" },
    plain: { end: "none SERVICE_NOT_FOUND", ran: 0, code: "NOT_FOUND" },
  },
  {
    what: "there is no instance",
    before: (rig) => rig.world.setState(rig.first, undefined),
    plain: unavailable("none NO_INSTANCES", 0),
  },
  {
    what: "no table comes",
    isCold: true,
    before: (rig) => {
      rig.world.isOperatorAway = true;
    },
    during: (rig) => rig.world.advance(5000),
    plain: unavailable("none DISCOVERY_UNAVAILABLE", 0),
  },
  {
    what: "the table comes late",
    isCold: true,
    before: (rig) => {
      rig.world.isOperatorAway = true;
    },
    during: async (rig) => {
      await rig.world.advance(4000);
      rig.world.isOperatorAway = false;
      rig.world.publish();
    },
    plain: ok,
  },
  {
    what: "the deadline passes before the table comes",
    isCold: true,
    before: (rig) => {
      rig.world.isOperatorAway = true;
    },
    options: { timeoutMs: 1000 },
    during: (rig) => rig.world.advance(1200),
    plain: { end: "none DEADLINE_EXCEEDED", ran: 0, code: "DEADLINE_EXCEEDED" },
  },
  {
    what: "the service's own deadline has passed when the table comes",
    policy: { timeoutMs: 1000 },
    isCold: true,
    before: (rig) => {
      rig.world.isOperatorAway = true;
    },
    during: async (rig) => {
      await rig.world.advance(4000);
      rig.world.isOperatorAway = false;
      rig.world.publish();
    },
    plain: { end: "none DEADLINE_EXCEEDED", ran: 0, code: "DEADLINE_EXCEEDED" },
  },
  {
    what: "it is cancelled before the table comes",
    isCold: true,
    before: (rig) => {
      rig.world.isOperatorAway = true;
    },
    during: (_rig, abort) => abort.abort(),
    plain: { end: "unknown CANCELLED", ran: 0, code: "CANCELLED" },
  },
  {
    what: "too many calls are held",
    isCold: true,
    limits: { heldCallsMax: 0 },
    plain: { end: "none OVERLOADED", ran: 0, code: "RESOURCE_EXHAUSTED" },
  },

  {
    what: "the dial is refused and there is no other instance",
    isCold: true,
    before: (rig) => {
      rig.first.reachability = "refuses";
    },
    plain: { ...unavailable("none INSTANCE_UNREACHABLE", 0), retries: new Array(4).fill("INSTANCE_UNREACHABLE") },
  },
  {
    what: "the dial hangs",
    isCold: true,
    before: (rig) => {
      rig.first.reachability = "hangs";
    },
    during: (rig) => rig.addSecond(),
    plain: elsewhere("INSTANCE_UNREACHABLE"),
  },
  {
    what: "the peer takes the connection and says nothing",
    isCold: true,
    before: (rig) => {
      rig.first.reachability = "silent";
    },
    during: (rig) => rig.addSecond(),
    plain: elsewhere("INSTANCE_UNREACHABLE"),
  },
  {
    what: "the connection is lost before HELLO",
    isCold: true,
    before: (rig) => {
      rig.first.reachability = "silent";
    },
    during: (rig) => {
      rig.addSecond();
      rig.first.cut();
    },
    plain: elsewhere("INSTANCE_UNREACHABLE"),
  },
  {
    what: "the instance leaves the table while it is dialed",
    isCold: true,
    before: (rig) => {
      rig.first.reachability = "hangs";
    },
    during: async (rig) => {
      rig.addSecond();
      rig.world.setState(rig.first, undefined);
      await rig.world.advance(15);
      expect(rig.entered.length).toBe(1);
    },
    plain: elsewhere("INSTANCE_UNREACHABLE"),
  },
  {
    what: "the deadline passes while it is dialed",
    isCold: true,
    before: (rig) => {
      rig.first.reachability = "hangs";
    },
    options: { timeoutMs: 1000 },
    plain: { end: "none DEADLINE_EXCEEDED", ran: 0, code: "DEADLINE_EXCEEDED" },
  },
  {
    what: "it is cancelled while it is dialed",
    isCold: true,
    before: (rig) => {
      rig.first.reachability = "hangs";
    },
    during: (_rig, abort) => abort.abort(),
    plain: { end: "unknown CANCELLED", ran: 0, code: "CANCELLED" },
  },
  {
    what: "it is cancelled between two attempts",
    policy: { limits: { inFlightPerInstance: 0 } },
    during: async (rig, abort) => {
      await rig.world.until(() => rig.caller.notes.retries.length === 2, "a second retry is planned");
      abort.abort();
      // What was planned does not come: nothing more goes to the instance, and the link stays.
      const before = [rig.first.notes.servedCodes.length, rig.first.agent.counts.sessions];
      await rig.world.advance(1000);
      expect([rig.first.notes.servedCodes.length, rig.first.agent.counts.sessions]).toEqual(before);
    },
    plain: { end: "unknown CANCELLED", ran: 0, retries: ["OVERLOADED", "OVERLOADED"], code: "CANCELLED" },
  },
  {
    what: "the link is lost with OPEN under way",
    before: slowly,
    during: async (rig) => {
      await rig.world.advance(5);
      rig.addSecond();
      rig.first.cut();
    },
    plain: unavailable("unknown CONNECTION_LOST", 0),
    idempotent: elsewhere("CONNECTION_LOST"),
  },
  {
    what: "the link is lost while the method runs",
    method: "held",
    during: async (rig) => {
      await rig.world.until(() => rig.entered.length === 1, "the method is entered");
      rig.addSecond();
      await rig.world.settle();
      rig.first.cut();
    },
    plain: unavailable("unknown CONNECTION_LOST", 1),
    idempotent: elsewhere("CONNECTION_LOST", 2),
  },
  {
    what: "the link is lost between fragments of the arguments",
    method: "lengthOf",
    args: [large],
    before: slowly,
    during: async (rig) => {
      await rig.world.advance(15);
      rig.addSecond();
      rig.first.cut();
    },
    plain: unavailable("unknown CONNECTION_LOST", 0),
    idempotent: elsewhere("CONNECTION_LOST"),
  },
  {
    what: "the link is lost between fragments, and they could not be kept",
    limits: { retainedBytesMax: 100_000 },
    method: "lengthOf",
    args: [large],
    before: slowly,
    during: async (rig) => {
      await rig.world.advance(15);
      rig.addSecond();
      rig.first.cut();
    },
    plain: unavailable("unknown CONNECTION_LOST", 0),
  },
  {
    what: "the dial fails, and the arguments could not be kept",
    isCold: true,
    limits: { retainedBytesMax: 0 },
    method: "lengthOf",
    args: [large],
    before: (rig) => {
      rig.first.reachability = "hangs";
    },
    during: (rig) => rig.addSecond(),
    plain: elsewhere("INSTANCE_UNREACHABLE"),
  },
  {
    what: "the link falls silent",
    method: "held",
    before: (rig) => {
      // From now on bytes take longer than anybody waits.
      rig.world.latencyMs = () => 15_000;
    },
    during: async (rig) => {
      rig.addSecond();
      await rig.world.advance(3000);
      rig.world.latencyMs = () => 0;
    },
    plain: unavailable("unknown CONNECTION_LOST", 0),
    idempotent: elsewhere("CONNECTION_LOST"),
  },
  {
    what: "the instance's agent ends while the method runs",
    method: "held",
    during: async (rig) => {
      await rig.world.until(() => rig.entered.length === 1, "the method is entered");
      rig.addSecond();
      await rig.world.settle();
      rig.first.agent.close();
    },
    plain: unavailable("unknown CONNECTION_LOST", 1),
    idempotent: elsewhere("CONNECTION_LOST", 2),
  },
  {
    what: "the instance's agent ends with OPEN under way",
    before: slowly,
    during: async (rig) => {
      await rig.world.advance(5);
      rig.addSecond();
      rig.first.reachability = "refuses";
      rig.first.agent.close();
    },
    plain: elsewhere("CONNECTION_LOST"),
  },

  {
    what: "the instance is draining, unknown to the table",
    before: async (rig) => {
      slowly(rig);
      rig.first.app?.stop();
      await rig.world.settle();
      rig.world.setState(rig.first, "Serving");
      await rig.world.settle();
    },
    during: async (rig) => {
      await rig.world.advance(5);
      rig.addSecond();
    },
    plain: elsewhere("DRAINING"),
  },
  {
    what: "the only instance is draining, unknown to the table",
    before: async (rig) => {
      rig.first.app?.stop();
      await rig.world.settle();
      rig.world.setState(rig.first, "Serving");
      await rig.world.settle();
    },
    plain: { ...unavailable("none NO_INSTANCES", 0), retries: ["DRAINING"] },
  },
  {
    what: "the instance's agent is draining, unknown to the table",
    before: async (rig) => {
      slowly(rig);
      void rig.first.agent.drain();
      await rig.world.settle();
      rig.world.setState(rig.first, "Serving");
      await rig.world.settle();
    },
    during: async (rig) => {
      await rig.world.advance(5);
      rig.addSecond();
    },
    plain: elsewhere("DRAINING"),
  },
  {
    what: "the instance has as many calls as it may",
    policy: { limits: { inFlightPerInstance: 0 } },
    during: (rig) => rig.addSecond(),
    plain: { end: "none OVERLOADED", ran: 0, retries: new Array(4).fill("OVERLOADED"), code: "RESOURCE_EXHAUSTED" },
  },
  {
    what: "the app has not registered, unknown to the table",
    before: async (rig) => {
      slowly(rig);
      rig.first.app?.kill();
      await rig.world.settle();
      rig.world.setState(rig.first, "Serving");
      await rig.world.settle();
    },
    during: async (rig) => {
      await rig.world.advance(5);
      rig.addSecond();
    },
    plain: elsewhere("NO_INSTANCES"),
  },
  {
    what: "the address is another service's by now",
    isCold: true,
    before: async (rig) => {
      slowly(rig);
      rig.world.setState({ id: "first", address: rig.caller.address }, "Serving");
      await rig.world.settle();
    },
    during: async (rig) => {
      await rig.world.advance(30);
      rig.addSecond();
    },
    plain: elsewhere("INSTANCE_UNREACHABLE"),
  },
  {
    what: "there is no such method",
    method: "absent",
    plain: { end: "none METHOD_NOT_FOUND", ran: 0, code: "UNIMPLEMENTED" },
  },
  {
    what: "the app refuses the arguments",
    method: "refuses",
    before: (rig) =>
      rig.takeByHand((stream) => {
        stream.refuse(encodeFault(new LeverError("INVALID_ARGUMENTS", "no")));
        stream.release();
      }),
    plain: { end: "none INVALID_ARGUMENTS", ran: 0, code: "INVALID_ARGUMENT" },
  },
  {
    what: "it names a resource",
    options: { fields: { resource: "room-7" } },
    plain: { end: "none NO_RESOURCES", ran: 0, code: "FAILED_PRECONDITION" },
  },
  {
    what: "the arguments are too large",
    policy: { limits: { argsBytes: 200_000 } },
    method: "lengthOf",
    args: [large],
    plain: { end: "none ARGS_TOO_LARGE", ran: 0, code: "RESOURCE_EXHAUSTED" },
  },
  {
    what: "the arguments are one byte too large",
    policy: { limits: { argsBytes: 999 } },
    method: "lengthOf",
    args: [fragment(1000)],
    plain: { end: "none ARGS_TOO_LARGE", ran: 0, code: "RESOURCE_EXHAUSTED" },
  },
  {
    what: "the arguments are as large as they may be",
    policy: { limits: { argsBytes: 1000 } },
    method: "lengthOf",
    args: [fragment(1000)],
    plain: ok,
  },
  {
    what: "the arguments are too large, and the table says so later",
    policy: { limits: { argsBytes: 999 } },
    isCold: true,
    method: "lengthOf",
    args: [fragment(1000)],
    plain: { end: "none ARGS_TOO_LARGE", ran: 0, code: "RESOURCE_EXHAUSTED" },
  },

  {
    what: "the app resets the call and says that it has not run",
    before: (rig) =>
      rig.takeByHand((stream) => stream.reset(encodeFault(new LeverError("INTERNAL", "?", { effect: "none" })))),
    during: (rig) => rig.addSecond(),
    plain: { end: "unknown INTERNAL", ran: 0, code: "INTERNAL" },
    idempotent: elsewhere("INTERNAL"),
  },
  {
    what: "the app is gone while the method runs",
    method: "held",
    during: async (rig) => {
      await rig.world.until(() => rig.entered.length === 1, "the method is entered");
      rig.addSecond();
      await rig.world.settle();
      rig.first.app?.kill();
    },
    plain: unavailable("unknown APP_GONE", 1),
    idempotent: elsewhere("APP_GONE", 2),
  },
  {
    what: "the app is gone before the call has left its agent",
    before: async (rig) => {
      await rig.takeByHand(() => {}, { sessionWindowBytes: sessionWindowBytesMin });
      // Nobody reads these, so that the app's window is full.
      for (let call = 0; call < 16; call++) {
        const frame = new Uint8Array(routingFixedBytes + 30_000);
        const target = new Target(environment, service, "lengthOf");
        const args = rig.app.session.openFrame(target, Flag.Bytes | Flag.More, frame, {
          onFrame() {},
          onWritable() {},
          onLost() {},
        });
        args.send(FrameType.Open, Flag.Bytes, new Uint8Array(90_000));
      }
      await rig.world.settle();
    },
    method: "lengthOf",
    args: [fragment(1000)],
    during: async (rig) => {
      rig.addSecond();
      await rig.world.settle();
      rig.first.app?.kill();
    },
    plain: { end: "ok", ran: 1 },
    idempotent: { end: "ok", ran: 17 },
  },
  {
    what: "the app goes away with OPEN under way to it",
    before: (rig) => {
      rig.world.appLatencyMs = () => 10;
    },
    during: async (rig) => {
      await rig.world.until(() => rig.first.agent.counts.calls === 1, "the call is at the instance's agent");
      rig.addSecond();
      rig.first.app?.stop();
    },
    plain: elsewhere("DRAINING"),
  },
  {
    what: "the app is gone within its reply",
    before: (rig) => rig.takeByHand((stream) => stream.send(FrameType.Reply, Flag.More, fragment(10))),
    during: async (rig) => {
      rig.addSecond();
      await rig.world.settle();
      rig.first.app?.kill();
    },
    plain: unavailable("ran APP_GONE", 0),
  },
  {
    what: "the link is lost within the reply",
    before: (rig) => rig.takeByHand((stream) => stream.send(FrameType.Reply, Flag.More, fragment(10))),
    during: async (rig) => {
      rig.addSecond();
      await rig.world.settle();
      rig.first.cut();
    },
    plain: unavailable("ran CONNECTION_LOST", 0),
  },
  {
    what: "the app resets its reply and says that it has not run",
    before: (rig) =>
      rig.takeByHand((stream) => {
        stream.send(FrameType.Reply, Flag.More, fragment(10));
        stream.reset(encodeFault(new LeverError("OVERLOADED", "?", { effect: "none" })));
      }),
    plain: { end: "ran OVERLOADED", ran: 0, code: "RESOURCE_EXHAUSTED" },
  },
  {
    what: "the deadline passes within the reply",
    options: { timeoutMs: 1000 },
    before: (rig) => rig.takeByHand((stream) => stream.send(FrameType.Reply, Flag.More, fragment(10))),
    during: (rig) => rig.world.advance(1100),
    plain: { end: "ran DEADLINE_EXCEEDED", ran: 0, code: "DEADLINE_EXCEEDED" },
  },
  {
    what: "it is cancelled within the reply",
    before: (rig) => rig.takeByHand((stream) => stream.send(FrameType.Reply, Flag.More, fragment(10))),
    during: async (rig, abort) => {
      await rig.world.settle();
      abort.abort();
    },
    plain: { end: "unknown CANCELLED", ran: 0, code: "CANCELLED" },
  },
  {
    what: "the deadline passes while the method runs",
    method: "held",
    options: { timeoutMs: 1000 },
    during: async (rig) => {
      await rig.world.until(() => rig.entered.length === 1, "the method is entered");
      rig.addSecond();
      const { signal } = (rig.entered[0] as Context).invocation;
      await rig.world.advance(1010);
      expect(signal.aborted).toBe(true);
    },
    plain: { end: "unknown DEADLINE_EXCEEDED", ran: 1, code: "DEADLINE_EXCEEDED" },
  },
  {
    what: "it is cancelled while the method runs",
    method: "held",
    during: async (rig, abort) => {
      await rig.world.until(() => rig.entered.length === 1, "the method is entered");
      const { signal } = (rig.entered[0] as Context).invocation;
      abort.abort();
      await rig.world.settle();
      expect(signal.reason).toMatchObject({ reason: "CANCELLED" });
    },
    plain: { end: "unknown CANCELLED", ran: 1, code: "CANCELLED" },
  },
  {
    what: "the instance leaves the table while the method runs",
    method: "held",
    during: async (rig) => {
      await rig.world.until(() => rig.entered.length === 1, "the method is entered");
      rig.world.setState(rig.first, undefined);
      await rig.world.advance(10_000);
      rig.openGate();
    },
    plain: ok,
  },
  {
    what: "the app drains while the method runs",
    method: "held",
    during: async (rig) => {
      await rig.world.until(() => rig.entered.length === 1, "the method is entered");
      rig.first.app?.stop();
      await rig.world.advance(1000);
      rig.openGate();
    },
    plain: ok,
  },

  { what: "the method throws by intent", method: "throws", plain: { end: "method's error", ran: 1, code: "UNKNOWN" } },
  { what: "the method has a bug", method: "broke", plain: { end: "ran METHOD_THREW", ran: 1, code: "INTERNAL" } },
  {
    what: "the result is one byte too large",
    policy: { limits: { resultBytes: 999 } },
    method: "bytesOf",
    args: [1000],
    plain: { end: "ran RESULT_TOO_LARGE", ran: 1, code: "RESOURCE_EXHAUSTED" },
  },
  {
    what: "the result is too large by its last fragment",
    policy: { limits: { resultBytes: 199_999 } },
    method: "bytesOf",
    args: [200_000],
    plain: { end: "ran RESULT_TOO_LARGE", ran: 1, code: "RESOURCE_EXHAUSTED" },
  },
  {
    what: "the result is as large as it may be",
    policy: { limits: { resultBytes: 200_000 } },
    method: "bytesOf",
    args: [200_000],
    plain: ok,
  },
];

describe.each([false, true])("a call, idempotent: %s, when", (idempotent) => {
  it.each(rows.map((row) => [row.what, row] as const))("%s", async (_what, row) => {
    const rig = new Rig({ ...row.policy, idempotent }, row.limits);
    const { world, caller } = rig;
    await rig.ready();
    if (row.isCold !== true) {
      // Before the policy, which may let nothing pass.
      world.declare({});
      await world.settle();
      await Promise.all([rig.warm(), world.settle()]);
      world.declare({ ...row.policy, idempotent });
      await world.settle();
    }
    rig.entered.length = 0;
    caller.notes.ends.length = 0;
    await row.before?.(rig);
    rig.taken.length = 0;
    const abort = new AbortController();
    const call = rig.app.call(row.method ?? "work", row.args ?? [1], { ...row.options, signal: abort.signal });
    const outcome = new Outcome(call);
    await new Promise((resolve) => setImmediate(resolve));
    await world.settle();
    await row.during?.(rig, abort);
    rig.openGate();
    await world.advance(20_000);

    const expected = (idempotent ? row.idempotent : undefined) ?? row.plain;
    const callEnds = caller.notes.ends.filter((end) => !end.includes("/absent ") || row.options?.service === "absent");
    expect({ end: outcome.text, ran: rig.entered.length, settled: outcome.settledTimes }).toEqual({
      end: expected.end,
      ran: expected.ran,
      settled: 1,
    });
    if (outcome.error?.effect === "none") expect(rig.entered.length).toBe(0);
    if (expected.code !== undefined) {
      expect(callEnds).toEqual([`call dev/${row.options?.service ?? service} ${expected.code}`]);
      expect(caller.notes.retries).toEqual(expected.retries ?? []);
    }
    for (const stream of rig.taken) {
      stream.release();
      stream.consume(flowCost(fragment(0)));
    }
    world.checkIdle();
    await world.close();
  });
});

describe("a cancel", () => {
  it("takes no more of what its caller writes to the instance than fits a few words", async () => {
    const rig = new Rig({});
    await rig.ready();
    const target = new Target(environment, service, "held");
    const noHandler = { onFrame() {}, onWritable() {}, onLost() {} };
    const stream = rig.app.session.open(target, 0, 0, new Uint8Array(0), encodeArgs([]).bytes, noHandler);
    await rig.world.until(() => rig.entered.length === 1, "the method is entered");
    const { signal } = (rig.entered[0] as Context).invocation;
    const details = { padding: "x".repeat(1000) };
    stream.reset(encodeFault(new LeverError("CANCELLED", `enough ${"!".repeat(3000)}`, { details })));
    await rig.world.settle();
    expect(signal.reason).toMatchObject({ reason: "CANCELLED", rawMessage: `enough ${"!".repeat(193)}` });
    expect(signal.reason.details).toBeUndefined();
    rig.openGate();
    await rig.world.settle();
    rig.world.checkIdle();
    await rig.world.close();
  });
});
