/**
 * Fuzzing of a session with methods behind it. Half of the inputs are valid sequences whose frames were changed and
 * whose lengths are right again, half have their bytes changed at random.
 *
 * `LEVER_FUZZ_INPUTS` (5,000) and `LEVER_FUZZ_SEED` (1); a failure names both. Branch coverage under fuzzing alone:
 *   npx vitest run --project unit protocol/session/fuzz.test.ts --coverage \
 *     --coverage.include='protocol/{frame,session}/*.ts' --coverage.exclude='**\/*.{fixture,suite,test}.ts'
 */

import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { VirtualClock } from "../clock/virtual-clock.ts";
import { LeverError } from "../error/lever-error.ts";
import { FrameDecoder } from "../frame/decode.ts";
import { Flag, FrameType, framePayloadBytesMax } from "../frame/frame.ts";
import { Target } from "../target/target.ts";
import type { Transport, TransportEvents } from "../transport/transport.ts";
import { encodeValue } from "../value/encode.ts";
import { decodeHello } from "./hello.ts";
import { headerFieldsBytesMax, queuedAnswerBytesMax, sessionWindowBytesMin, streamsMaxMin } from "./limits.ts";
import { End, Facts, frameBytes, openPayload, rawHello, testMethods } from "./rig.fixture.ts";
import { decodeFields, encodeFields, scanFields, withField } from "./routing-header.ts";

const inputs = Number(process.env.LEVER_FUZZ_INPUTS ?? 5000);
const seed = Number(process.env.LEVER_FUZZ_SEED ?? 1);

interface Frame {
  type: number;
  flags: number;
  stream: number;
  payload: Uint8Array;
}

/** A small generator of chance with a seed (mulberry32). */
class Chance {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), this.#state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 0x100000000;
  }

  below(bound: number): number {
    return Math.floor(this.next() * bound);
  }

  is(probability: number): boolean {
    return this.next() < probability;
  }

  of<Value>(values: readonly Value[]): Value {
    return values[this.below(values.length)] as Value;
  }
}

/** A transport that takes everything, at once or late, and delivers what the test feeds. */
class FeedTransport implements Transport {
  readonly peerName = "fuzz";
  bytesWritten = 0;
  events: TransportEvents | undefined;
  isClosed = false;
  /** Above 0, what is written stays buffered until `drain`. */
  bufferedBytes = 0;
  readonly #isSlow: boolean;

  constructor(isSlow: boolean) {
    this.#isSlow = isSlow;
  }

  start(events: TransportEvents): void {
    this.events = events;
  }

  write(chunks: readonly Uint8Array[], onWritten: () => void): void {
    for (const chunk of chunks) {
      this.bytesWritten += chunk.length;
      if (this.#isSlow) this.bufferedBytes += chunk.length;
    }
    onWritten();
  }

  drain(): void {
    if (this.bufferedBytes === 0) return;
    this.bufferedBytes = 0;
    this.events?.onDrain();
  }

  end(): void {
    this.destroy();
  }

  destroy(): void {
    if (this.isClosed) return;
    this.isClosed = true;
    this.events?.onClose(undefined);
  }
}

function framesOf(bytes: Uint8Array): Frame[] {
  const frames: Frame[] = [];
  try {
    new FrameDecoder((type, flags, stream, payload) => frames.push({ type, flags, stream, payload })).push(bytes);
  } catch {
    // Some vectors are broken at the level of frames; what comes before is as good as any.
  }
  return frames;
}

const none = new Uint8Array(0);
const load = new Uint8Array(2);

interface Seeds {
  /** Whole conversations of a peer that opens streams, from number 1 or 2 on. */
  readonly opens: Frame[][];
  /** What a peer answers to streams of the session's own. */
  readonly answers: Frame[][];
  readonly vectors: Frame[][];
}

/** What there is to mutate: the vectors, and conversations that get further than those. */
function seeds(): Seeds {
  const read = (file: string) =>
    (JSON.parse(readFileSync(new URL(`../vectors/${file}`, import.meta.url), "utf8")) as { cases: { bytes: string }[] })
      .cases;
  const vectors = [...read("frames-valid.json"), ...read("frames-invalid.json")]
    .map(({ bytes }) =>
      framesOf(new Uint8Array(Buffer.from(bytes, "hex"))).filter((frame) => frame.type !== FrameType.Hello),
    )
    .filter((frames) => frames.length > 0 && frames.length < 50);
  const value = (something: unknown) => encodeValue(something, "seed");
  const frame = (type: number, flags: number, stream: number, payload: Uint8Array = none): Frame => ({
    type,
    flags,
    stream,
    payload,
  });
  const open = (
    stream: number,
    method: string,
    args: unknown[],
    flags = 0,
    options: Parameters<typeof openPayload>[2] = {},
  ) => frame(FrameType.Open, flags, stream, openPayload(method, value(args), options));
  const fields = encodeFields({
    resource: "room/7",
    token: "t",
    traceparent: "00-1-2-01",
    tracestate: "a=b",
    caller: { environment: "dev", service: "web", outside: true },
    metadata: { k: "v" },
  });
  const fault = value({ reason: "CANCELLED", message: "m", effect: "unknown", details: { a: 1 } });
  const number = frame(FrameType.Target, 0, 0, Buffer.concat([Uint8Array.of(0, 1), Buffer.from("dev/test/echo")]));
  const numbered = frame(FrameType.Open, 0, 1, Buffer.concat([Uint8Array.of(0, 1, 0, 0, 0, 9, 0, 0), value(["n"])]));
  const odd = 1;
  const opens = [
    [open(odd, "echo", ["x"]), open(odd + 2, "sum", [1, 2, 3]), open(odd + 4, "threw", [{ a: 1 }])],
    [number, { ...numbered, stream: odd }, { ...numbered, stream: odd + 2 }],
    [open(odd, "fieldsOf", [], 0, { fields, timeoutMs: 1000 }), open(odd + 2, "none", [])],
    [open(odd, "hang", [], 0, { timeoutMs: 50 }), frame(FrameType.Reset, 0, odd, fault), open(odd + 2, "gated", [1])],
    [
      frame(FrameType.Open, Flag.More, odd, openPayload("echo", value(["long"]).subarray(0, 2))),
      frame(FrameType.Open, Flag.More, odd),
      frame(FrameType.Open, 0, odd, value(["long"]).subarray(2)),
    ],
    [
      open(odd, "echoChan", [], Flag.Channel),
      frame(FrameType.Message, 0, odd, value("hello")),
      frame(FrameType.Message, Flag.More | Flag.Bytes, odd, new Uint8Array(9000)),
      frame(FrameType.Message, Flag.Bytes, odd, new Uint8Array(9000)),
      frame(FrameType.Window, 0, odd, Uint8Array.of(0, 1, 0, 0)),
      frame(FrameType.End, 0, odd),
    ],
    [
      open(odd, "readChan", [], Flag.Channel),
      frame(FrameType.Message, 0, odd, value([1, [2]])),
      frame(FrameType.End, Flag.Error | Flag.More, odd, value("an error").subarray(0, 3)),
      frame(FrameType.End, Flag.Error, odd, value("an error").subarray(3)),
    ],
    [
      open(odd, "stalledChan", [], Flag.Channel),
      ...Array.from({ length: 5 }, () => frame(FrameType.Message, Flag.Bytes, odd, new Uint8Array(30_000))),
      frame(FrameType.End, Flag.Fault, odd, fault),
    ],
    [
      open(odd, "endingChan", ["value"], Flag.Channel),
      open(odd + 2, "firstChan", [], Flag.Channel),
      open(odd + 4, "watchChan", [], Flag.Channel),
    ],
    [
      frame(FrameType.Window, 0, 0, Uint8Array.of(0, 1, 0, 0)),
      frame(FrameType.Ping, 0, 0, new Uint8Array(8)),
      frame(0x90, 1, 2, value("skip me")),
      frame(
        FrameType.Register,
        0,
        0,
        value({ methods: [{ name: "a", kind: "call" }], resources: false, library: "l", version: "1" }),
      ),
    ],
  ];
  const answers = [
    // Answers to streams of the session's own: calls and channels in turns.
    [
      frame(FrameType.Reply, Flag.More, odd, Buffer.concat([load, value("result").subarray(0, 2)])),
      frame(FrameType.Reply, 0, odd, value("result").subarray(2)),
      frame(FrameType.Accept, 0, odd + 2, load),
      frame(FrameType.Message, 0, odd + 2, value(1)),
      frame(FrameType.End, 0, odd + 2),
      frame(FrameType.Reply, Flag.Error, odd + 4, Buffer.concat([load, value({ error: 1 })])),
    ],
    [
      frame(FrameType.Refuse, 0, odd, fault),
      frame(FrameType.Accept, 0, odd + 2, load),
      frame(FrameType.End, Flag.Fault, odd + 2, fault),
    ],
    [
      frame(FrameType.GoAway, 0, 0, Buffer.concat([Uint8Array.of(0, 0, 0, odd), fault])),
      frame(FrameType.Reset, 0, odd, fault),
    ],
  ];
  return { opens, answers, vectors };
}

const interesting = [0, 1, 2, 3, 0x7f, 0x80, 0xfe, 0xff];

function mutatePayload(chance: Chance, payload: Uint8Array): Uint8Array {
  const bytes = [...payload.subarray(0, 2000)];
  for (let count = 1 + chance.below(4); count > 0; count--) {
    const at = chance.below(bytes.length + 1);
    switch (chance.below(7)) {
      case 0:
        if (at < bytes.length) bytes[at] = chance.is(0.5) ? chance.of(interesting) : chance.below(256);
        break;
      case 1:
        if (at < bytes.length) bytes[at] = (bytes[at] as number) ^ (1 << chance.below(8));
        break;
      case 2:
        bytes.splice(at, 0, ...Array.from({ length: 1 + chance.below(8) }, () => chance.below(256)));
        break;
      case 3:
        bytes.splice(at, 1 + chance.below(8));
        break;
      case 4:
        bytes.length = Math.min(bytes.length, at);
        break;
      case 5:
        bytes.splice(at, 0, ...bytes.slice(at, at + 1 + chance.below(40)));
        break;
      default:
        // Somewhere a length or a number of four bytes.
        bytes.splice(
          at,
          4,
          chance.of(interesting),
          chance.of(interesting),
          chance.of(interesting),
          chance.of(interesting),
        );
    }
  }
  const large = chance.is(0.02) ? chance.of([framePayloadBytesMax - 1, framePayloadBytesMax]) : bytes.length;
  const result = new Uint8Array(Math.max(large, 0));
  result.set(bytes.slice(0, result.length));
  return result;
}

/** Frames in, frames out: what is laid into bytes afterwards has the right lengths. */
function mutateFrames(chance: Chance, frames: Frame[]): Frame[] {
  const out = frames.map((frame) => ({ ...frame }));
  for (let count = chance.below(4); count > 0 && out.length > 0; count--) {
    const at = chance.below(out.length);
    const frame = out[at] as Frame;
    switch (chance.below(8)) {
      case 0:
        frame.type = chance.is(0.9) ? 1 + chance.below(13) : chance.below(256);
        break;
      case 1:
        frame.flags ^= 1 << chance.below(chance.is(0.8) ? 4 : 8);
        break;
      case 2:
        frame.stream = chance.is(0.8) ? chance.below(12) : chance.of([0xffffffff, 0xfffffffe, 0x80000000, 1000, 1001]);
        break;
      case 3:
        out.splice(at, 1);
        break;
      case 4:
        out.splice(chance.below(out.length), 0, { ...frame });
        break;
      case 5:
        out.splice(at, 1);
        out.splice(chance.below(out.length + 1), 0, frame);
        break;
      default:
        frame.payload = mutatePayload(chance, frame.payload);
    }
  }
  return out;
}

function mutateBytes(chance: Chance, bytes: Uint8Array): Uint8Array {
  if (chance.is(0.05)) return Uint8Array.from({ length: chance.below(200) }, () => chance.below(256));
  const out = [...bytes.subarray(0, 4000)];
  for (let count = 1 + chance.below(6); count > 0; count--) {
    const at = chance.below(out.length + 1);
    if (chance.is(0.6)) out[Math.min(at, out.length - 1)] = chance.is(0.5) ? chance.of(interesting) : chance.below(256);
    else if (chance.is(0.5)) out.splice(at, 1 + chance.below(20));
    else out.splice(at, 0, ...Array.from({ length: 1 + chance.below(20) }, () => chance.below(256)));
  }
  return Uint8Array.from(out);
}

const { opens, answers, vectors } = seeds();

/** Conversations one after another, numbered as the peer of a session on that side would. */
function conversation(chance: Chance, side: "dialer" | "acceptor"): Frame[] {
  const frames: Frame[] = [];
  let first = side === "acceptor" ? 0 : 1;
  for (let count = 1 + chance.below(4); count > 0; count--) {
    const kind = chance.next();
    if (kind < 0.15) frames.push(...chance.of(vectors));
    else if (kind < 0.4) {
      const shift = side === "acceptor" ? 1 : 0;
      for (const frame of chance.of(answers))
        frames.push({ ...frame, stream: frame.stream === 0 ? 0 : frame.stream + shift });
    } else {
      for (const frame of chance.of(opens))
        frames.push({ ...frame, stream: frame.stream === 0 ? 0 : frame.stream + first });
      first += 10;
    }
  }
  return frames;
}
const allowed = new Set(["PROTOCOL_VIOLATION", "VERSION_UNSUPPORTED", "CONNECTION_LOST", "CANCELLED", "DRAINING"]);

/** One input. Says what came of it. */
async function runInput(chance: Chance): Promise<{ reason: string; entered: number }> {
  const clock = new VirtualClock();
  const transport = new FeedTransport(chance.is(0.2));
  const facts = new Facts();
  const side = chance.of(["dialer", "acceptor"] as const);
  const end: End = new End(
    transport,
    clock,
    side,
    testMethods(facts, () => end.host),
    { sessionWindowBytes: sessionWindowBytesMin, streamsMax: streamsMaxMin },
    { isAgent: chance.is(0.5), streamIdMax: chance.is(0.9) ? 0xffffffff : 4 },
  );
  // Streams of this end, so that answers meet something: calls and channels in turns, some too large to leave at once.
  const own: Promise<unknown>[] = [];
  const openOwn = () => {
    const count = 1 + chance.below(6);
    for (let index = 0; index < count; index++) {
      const args = chance.is(0.2) ? ["x".repeat(150_000)] : [index];
      const options = { timeoutMs: chance.of([0, 0, 20]) };
      if (index % 2 === 0) own.push(end.call("any", args, options));
      else {
        own.push(
          end.channel("anyChan", args, options).then(async (channel) => {
            for (const message of [1, new Uint8Array(40_000), new Uint8Array(150_000)])
              channel.send(message).catch(() => {});
            for await (const _message of channel) if (chance.is(0.1)) break;
          }),
        );
      }
    }
    for (const promise of own) promise.catch(() => {});
  };
  if (chance.is(0.7)) openOwn();

  let frames = conversation(chance, side);
  const isStructured = chance.is(0.5);
  if (isStructured) frames = mutateFrames(chance, frames);
  if (chance.is(0.95)) {
    const hello = {
      ...rawHello,
      role: chance.of(["client", "app", "agent"]),
      targetsMax: chance.of([0, 1, 100]),
      ...(chance.is(0.3) ? { streamWindowBytes: 131_072, sessionWindowBytes: sessionWindowBytesMin } : {}),
    };
    const payload = encodeValue(hello, "hello");
    frames.unshift({
      type: FrameType.Hello,
      flags: 0,
      stream: 0,
      payload: chance.is(0.05) ? mutatePayload(chance, payload) : payload,
    });
  }
  const valid = Buffer.concat(frames.map((frame) => frameBytes(frame.type, frame.flags, frame.stream, frame.payload)));
  const bytes = isStructured ? new Uint8Array(valid) : mutateBytes(chance, valid);

  const turn = async () => {
    for (let index = 0; index < 4; index++) await Promise.resolve();
    clock.advance(0);
  };
  const chunkBytes = bytes.length < 2000 ? chance.of([1, 7, 100, 1_000_000]) : chance.of([500, 5000, 1_000_000]);
  for (let at = 0; at < bytes.length; at += chunkBytes) {
    transport.events?.onData(bytes.slice(at, at + chunkBytes));
    if (chunkBytes >= 5000 || at % 500 === 0) await turn();
    if (chance.is(0.05)) transport.drain();
    if (chance.is(0.01)) openOwn();
  }
  await turn();
  transport.drain();
  await turn();
  if (chance.is(0.1)) {
    end.session.goAway(new LeverError("DRAINING", "stop"));
    await turn();
  }
  expect(end.budget.bytes).toBeLessThanOrEqual(bytes.length);
  expect(end.session.queuedAnswerBytes).toBeLessThanOrEqual(queuedAnswerBytesMax);
  // What this end sends of its own accord, and a fault of 200 bytes for the smallest of frames.
  expect(transport.bytesWritten).toBeLessThan(1000 + own.length * 500_000 + 25 * bytes.length);
  expect(end.runningMax).toBeLessThanOrEqual(streamsMaxMin);
  if (chance.is(0.3)) {
    for (let ms = 0; ms < 10_000; ms += 500) {
      clock.advance(500);
      await turn();
    }
    // Nothing comes in any more.
    expect(end.closedWith).toBeDefined();
  }
  const reason = end.closedWith?.reason ?? "open";
  end.session.destroy(new LeverError("CANCELLED", "the input is over"));
  facts.gate.open();
  for (let index = 0; index < 5; index++) await turn();
  if (end.closedWith?.reason === "INTERNAL") throw end.closedWith;
  expect(allowed).toContain(end.closedWith?.reason);
  for (const frame of end.written) {
    if (frame.type === FrameType.Refuse || frame.type === FrameType.Reset || frame.type === FrameType.GoAway) {
      expect(Buffer.from(frame.head).toString("latin1")).not.toContain("INTERNAL");
    }
  }
  let unsettled = own.length;
  for (const promise of own) promise.catch(() => {}).finally(() => unsettled--);
  for (let index = 0; unsettled > 0 && index < 50; index++) await turn();
  expect(unsettled).toBe(0);
  for (let index = 0; end.server.running > 0 && index < 50; index++) await turn();
  expect({
    streams: end.session.streamCount,
    running: end.server.running,
    assembled: end.budget.bytes,
    deadlines: end.wheel.size,
    answers: end.session.queuedAnswerBytes,
    isClosed: transport.isClosed,
  }).toEqual({ streams: 0, running: 0, assembled: 0, deadlines: 0, answers: 0, isClosed: true });
  clock.advance(2000);
  expect(clock.timerCount).toBe(0);
  return { reason, entered: Object.values(end.host.entered).reduce((sum, count) => sum + count, 0) };
}

test("fuzz: any bytes end in frames that are handled or a typed error, and nothing stays", {
  timeout: 30_000 + 20 * inputs,
}, async () => {
  const outcomes: Record<string, number> = {};
  let ran = 0;
  for (let index = 0; index < inputs; index++) {
    try {
      const { reason, entered } = await runInput(new Chance(seed * 1_000_003 + index));
      outcomes[reason] = (outcomes[reason] ?? 0) + 1;
      if (entered > 0) ran++;
    } catch (error) {
      throw new Error(`input ${index} of LEVER_FUZZ_SEED=${seed}: ${error instanceof Error ? error.message : error}`, {
        cause: error,
      });
    }
  }
  // Inputs that all fail at the first frame would prove nothing, and so would those that never fail.
  expect(ran / inputs).toBeGreaterThan(0.2);
  for (const reason of ["PROTOCOL_VIOLATION", "open"]) expect((outcomes[reason] ?? 0) / inputs).toBeGreaterThan(0.05);
  expect(outcomes.VERSION_UNSUPPORTED ?? 0).toBeGreaterThan(0);
});

const oddValues = [
  0,
  -1,
  1.5,
  99,
  65_536,
  131_071,
  2 ** 31,
  2 ** 31 - 1,
  "",
  "app",
  "x".repeat(300),
  null,
  true,
  [1],
  { k: 1 },
];

test("fuzz: HELLOs whose keys have any values", () => {
  const chance = new Chance(seed);
  for (let index = 0; index < inputs; index++) {
    const map: Record<string, unknown> = {
      ...rawHello,
      environment: "dev",
      service: "s",
      instance: "s-1",
      library: "l/1",
    };
    for (let count = chance.below(3); count > 0; count--) {
      const key = chance.of(Object.keys(map));
      if (chance.is(0.2)) delete map[key];
      else map[key] = chance.of(oddValues);
    }
    let bytes = encodeValue(chance.is(0.02) ? chance.of(oddValues) : map, "hello");
    if (chance.is(0.3)) bytes = mutatePayload(chance, bytes);
    try {
      const hello = decodeHello(bytes);
      expect(hello.version).toBe(1);
      expect(hello.streamWindowBytes).toBeGreaterThanOrEqual(131_072);
      expect(hello.sessionWindowBytes).toBeGreaterThanOrEqual(sessionWindowBytesMin);
      expect(hello.streamsMax).toBeGreaterThanOrEqual(streamsMaxMin);
      for (const text of [hello.environment, hello.service, hello.instance, hello.library]) {
        if (text !== undefined) expect(text.length).toBeLessThanOrEqual(256);
      }
    } catch (error) {
      expect(["PROTOCOL_VIOLATION", "VERSION_UNSUPPORTED"]).toContain(LeverError.is(error) && error.reason);
    }
  }
});

test("fuzz: routing headers with any fields", () => {
  const chance = new Chance(seed);
  const keys = [1, 2, 3, 0x84, 0x85, 0x86, 0x87, 0x88, 0x7f];
  for (let index = 0; index < inputs; index++) {
    const parts: number[] = [];
    for (let count = chance.below(5); count > 0; count--) {
      const key = chance.of(keys);
      let bytes = Buffer.from(chance.of(["t", "dev/test/echo", "x".repeat(130), "r".repeat(1025), "\u00e9", ""]));
      const map = { environment: chance.of(oddValues), outside: chance.of(oddValues), k: chance.of(["v", 1]) };
      if (key === 0x86 || key === 0x87)
        bytes = Buffer.from(
          encodeValue(chance.is(0.3) ? { k: "v" } : chance.is(0.8) ? map : chance.of(oddValues), "field"),
        );
      if (chance.is(0.2)) bytes = Buffer.from(mutatePayload(chance, bytes));
      const claimed = chance.is(0.1) ? chance.below(0x10000) : bytes.length;
      parts.push(key, claimed >>> 8, claimed & 255, ...bytes);
    }
    const fields = Uint8Array.from(parts);
    // A session refuses those before it looks at them.
    if (fields.length > headerFieldsBytesMax - 100) continue;
    try {
      const decoded = decodeFields(fields);
      // What was understood says the same when written by us.
      expect(decodeFields(encodeFields(decoded))).toEqual(decoded);
      for (const value of Object.values(decoded.metadata ?? {})) expect(typeof value).toBe("string");
    } catch (error) {
      expect(["PROTOCOL_VIOLATION", "VERSION_UNSUPPORTED"]).toContain(LeverError.is(error) && error.reason);
      try {
        scanFields(fields, 0, fields.length);
      } catch (error) {
        expect(["PROTOCOL_VIOLATION", "VERSION_UNSUPPORTED"]).toContain(LeverError.is(error) && error.reason);
      }
      continue;
    }
    // A relay looks at less, and so refuses no more.
    const scanned = scanFields(fields, 0, fields.length);
    expect(scanned.resource !== undefined).toBe(decodeFields(fields).resource !== undefined);
    expect(scanned.hasToken).toBe(decodeFields(fields).token !== undefined);
    const frame = Uint8Array.of(0, 0, 0, 0, 0, 0, fields.length >>> 8, fields.length & 255, ...fields, 9, 9);
    const put = withField(frame, 0x03, encodeFields({ token: "mine" }));
    const end = 8 + Buffer.from(put).readUInt16BE(6);
    expect(decodeFields(put.subarray(8, end))).toEqual({ ...decodeFields(fields), token: "mine" });
    expect([...put.subarray(end)]).toEqual([9, 9]);
  }
});

test("fuzz: targets in any text", () => {
  const chance = new Chance(seed);
  for (let index = 0; index < inputs; index++) {
    const text = Buffer.from(
      mutatePayload(chance, Buffer.from(chance.of(["dev/test/echo", "/a/b", "x-1/y-2/z$_9Chan"]))),
    ).toString("latin1");
    try {
      const target = Target.parse(text);
      expect(target.text).toBe(text);
    } catch (error) {
      expect(LeverError.is(error) && error.reason).toBe("INVALID_URL");
    }
  }
});
