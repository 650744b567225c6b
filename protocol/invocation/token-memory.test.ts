import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { LeverError } from "../error/lever-error.ts";
import {
  fromOutside,
  strangersShare,
  TokenBudget,
  type TokenCall,
  TokenMemory,
  tokenBytesMaxOfSlot,
  tokenBytesOfProcessMax,
  tokenSkewMs,
  tokensMax,
  tokenWindowMs,
} from "./token-memory.ts";

const wallMs = 1_800_000_000_000;
const mebibyte = 1024 * 1024;
const item = new Uint8Array(mebibyte);

it("has room again when what other memories of the process remember is as old, though nobody calls these", () => {
  let now = 1000;
  const budget = new TokenBudget();
  const memory = () => new TokenMemory({ budget, sinceMs: 0, skewMs: 0, wallNow: () => now });
  const bytes = new Uint8Array(tokenBytesMaxOfSlot);
  const run = (of: TokenMemory) => {
    const call: TokenCall = { resource: "r", method: "m", token: "t", timeMs: now };
    expect(of.begin(call, () => {})).toBe("run");
    of.finish(call, { flags: 0, bytes });
  };
  for (let others = 0; others < tokenBytesOfProcessMax / tokenBytesMaxOfSlot; others++) run(memory());
  const mine = memory();
  now += tokenWindowMs - 1;
  expect(() => run(mine)).toThrow("OVERLOADED");
  now += 1;
  run(mine);
  expect([budget.tokens, budget.memories.size]).toEqual([1, 1]);
  mine.clear();
  expect([budget.tokens, budget.bytes, budget.memories.size]).toEqual([0, 0, 0]);
});

describe("strangers", () => {
  const budget = () => new TokenBudget();
  const memoryOf = (of: TokenBudget) =>
    new TokenMemory({ budget: of, sinceMs: 0, skewMs: tokenSkewMs, wallNow: () => wallMs });
  let tokens = 0;

  function begin(memory: TokenMemory, from?: string): TokenCall | LeverError {
    const call: TokenCall = { resource: "r", method: "m", token: `t${++tokens}`, from, timeMs: wallMs };
    try {
      expect(memory.begin(call, () => {})).toBe("run");
      return call;
    } catch (error) {
      return LeverError.from(error);
    }
  }

  /** How many are taken until one is refused, and by which limit. */
  function fill(memory: TokenMemory, bytes: Uint8Array, from?: string): [number, unknown] {
    for (let taken = 0; ; taken++) {
      const call = begin(memory, from);
      if (call instanceof LeverError) {
        expect([call.reason, call.effect]).toEqual(["OVERLOADED", "none"]);
        return [taken, call.details?.["limit"]];
      }
      memory.finish(call, { flags: 0, bytes });
    }
  }

  it("have a quarter of a slot's bytes together, and leave the rest to others", () => {
    const memory = memoryOf(budget());
    const share = (tokenBytesMaxOfSlot * strangersShare) / mebibyte;
    expect(fill(memory, item, fromOutside)).toEqual([share, "tokenBytesOfStrangersMax"]);
    expect(fill(memory, item, "shop")).toEqual([0, "tokenBytesOfStrangersMax"]);
    expect(fill(memory, item)).toEqual([tokenBytesMaxOfSlot / mebibyte - share, "tokenBytesMax"]);
  });

  it("have a quarter of a slot's tokens, those that run included", () => {
    const memory = memoryOf(budget());
    const share = tokensMax * strangersShare;
    for (let n = 0; n < share; n++) expect(begin(memory, n % 2 === 0 ? "shop" : fromOutside)).toMatchObject({});
    expect(begin(memory, "bank")).toMatchObject({
      reason: "OVERLOADED",
      details: { limit: "tokensOfStrangersMax", tokensOfStrangersMax: share },
    });
    expect(fill(memory, new Uint8Array(1))).toEqual([tokensMax - share, "tokensMax"]);
  });

  it("have a quarter of the process", () => {
    const process = budget();
    const memories = Array.from({ length: 16 }, () => memoryOf(process));
    const limits = memories.map((memory) => fill(memory, item, fromOutside));
    const taken = limits.reduce((sum, [count]) => sum + count, 0);
    expect(taken).toBe((tokenBytesOfProcessMax * strangersShare) / mebibyte);
    expect(limits.at(-1)).toEqual([0, "tokenBytesOfProcessOfStrangersMax"]);
    const own = memories.map((memory) => fill(memory, item)[0]).reduce((sum, count) => sum + count, 0);
    expect(own).toBe((tokenBytesOfProcessMax * (1 - strangersShare)) / mebibyte);
    for (const memory of memories) memory.clear();
    expect(process).toMatchObject({ tokens: 0, bytes: 0, tokensOfStrangers: 0, bytesOfStrangers: 0 });
  });

  it("whose outcomes come all at once take nothing from others beyond their share", () => {
    const process = budget();
    const memory = memoryOf(process);
    const running = Array.from({ length: 100 }, () => begin(memory, fromOutside) as TokenCall);
    for (const call of running) memory.finish(call, { flags: 0, bytes: item });
    expect(fill(memory, item, fromOutside)).toEqual([0, "tokenBytesOfStrangersMax"]);
    expect(fill(memory, item)[0]).toBe((tokenBytesMaxOfSlot * (1 - strangersShare)) / mebibyte);
    expect(fill(memoryOf(process), item)[0]).toBeGreaterThan(0);
  });
});

describe("time", () => {
  const minuteMs = 60_000;
  /** Of each clock from true time: any two differ by less than tokens allow. */
  const offset = fc.integer({ min: 1 - tokenSkewMs / 2, max: tokenSkewMs / 2 - 1 });
  const anyTime = fc.oneof(
    fc.integer({ min: 0, max: 2 ** 48 - 1 }),
    fc.integer({ min: -60 * minuteMs, max: 60 * minuteMs }).map((ms) => wallMs + ms),
    fc.constant(2 ** 48 - 1),
  );
  const step = fc.oneof(
    fc.record({ what: fc.constant("pass" as const), ms: fc.integer({ min: 1, max: 12 * minuteMs }) }),
    fc.record({ what: fc.constant("pass" as const), ms: fc.integer({ min: 1, max: 100 }) }),
    fc.record({ what: fc.constant("mint" as const), offset }),
    fc.record({ what: fc.constant("send" as const), which: fc.nat() }),
    fc.record({ what: fc.constant("finish" as const), which: fc.nat() }),
    fc.record({ what: fc.constant("hostile" as const), timeMs: anyTime, which: fc.nat(3) }),
    fc.record({ what: fc.constant("move" as const), offset, since: fc.option(anyTime) }),
    fc.record({ what: fc.constant("crash" as const), offset }),
  );

  it("runs no token twice whose maker's clock is right, whatever others say, and each new one", () => {
    fc.assert(
      fc.property(offset, fc.array(step, { minLength: 5, maxLength: 80 }), (first, steps) => {
        let now = wallMs;
        let changedMs = Number.NEGATIVE_INFINITY;
        const budget = new TokenBudget();
        const memoryAt = (by: number, sinceMs: number) =>
          new TokenMemory({ budget, sinceMs, skewMs: tokenSkewMs, wallNow: () => now + by });
        let memory = memoryAt(first, 0);
        let running: TokenCall[] = [];
        const minted: TokenCall[] = [];
        const runs = new Map<string, number>();
        const send = (call: TokenCall): string => {
          try {
            const decision = memory.begin(call, () => {});
            if (decision !== "run") return "known";
          } catch (error) {
            return LeverError.from(error).reason;
          }
          running.push(call);
          runs.set(call.token, (runs.get(call.token) ?? 0) + 1);
          return "run";
        };
        const finish = (call: TokenCall) => memory.finish(call, { flags: 0, bytes: new Uint8Array(1) });
        const call = (token: string, timeMs: number): TokenCall => ({ resource: "r", method: "m", token, timeMs });
        for (const each of steps) {
          switch (each.what) {
            case "pass":
              now += each.ms;
              break;
            case "mint":
              minted.push(call(`t${minted.length}`, now + each.offset));
              break;
            case "send": {
              const token = minted[each.which % minted.length];
              if (token === undefined) break;
              expect(send(token)).not.toBe("INVALID_OPTION");
              expect(runs.get(token.token) ?? 0).toBeLessThanOrEqual(1);
              break;
            }
            case "finish":
              for (const done of running.splice(each.which % (running.length + 1))) finish(done);
              break;
            case "hostile":
              send(call(`hostile${each.which}`, each.timeMs));
              break;
            case "move": {
              for (const done of running) finish(done);
              const outcomes = [...memory.outcomes()];
              const since = Math.max(memory.sinceMs, each.since ?? 0);
              memory.clear();
              memory = memoryAt(each.offset, since);
              // What is handed over says when it had run, and not when its token was made.
              for (const outcome of outcomes) {
                memory.add({ ...outcome, timeMs: outcome.forgetAtMs - tokenWindowMs + tokenSkewMs });
              }
              running = [];
              if (each.since !== null) changedMs = now;
              break;
            }
            case "crash":
              memory.clear();
              memory = memoryAt(each.offset, now + each.offset);
              running = [];
              changedMs = now;
          }
          if (now < changedMs + 3 * tokenSkewMs) continue;
          const fresh = call("fresh", now + first);
          expect(memory.begin(fresh, () => {})).toBe("run");
          memory.abandon(fresh);
        }
        memory.clear();
        expect(budget).toMatchObject({ tokens: 0, bytes: 0 });
      }),
      { numRuns: 500 },
    );
  });

  it("keeps tokens usable that were made long before their first call", () => {
    let now = wallMs;
    const budget = new TokenBudget();
    const memory = new TokenMemory({ budget, sinceMs: 0, skewMs: tokenSkewMs, wallNow: () => now });
    for (let n = 0; n < 100; n++) {
      now += minuteMs;
      const call: TokenCall = { resource: "r", method: "m", token: `t${n}`, timeMs: now - 60 * minuteMs };
      expect(memory.begin(call, () => {})).toBe("run");
      memory.finish(call, { flags: 0, bytes: new Uint8Array(1) });
    }
  });

  it("takes new tokens though its own clock was an hour ahead when it took one", () => {
    let now = wallMs + 60 * minuteMs;
    const budget = new TokenBudget();
    const memory = new TokenMemory({ budget, sinceMs: 0, skewMs: tokenSkewMs, wallNow: () => now });
    const call: TokenCall = { resource: "r", method: "m", token: "t", timeMs: now };
    expect(memory.begin(call, () => {})).toBe("run");
    now = wallMs;
    memory.finish(call, { flags: 0, bytes: new Uint8Array(1) });
    now += tokenWindowMs;
    expect(memory.begin({ ...call, token: "u", timeMs: now }, () => {})).toBe("run");
  });

  it("forgets what it was handed after the window at the latest, by its own clock", () => {
    let now = wallMs;
    const budget = new TokenBudget();
    const memory = new TokenMemory({ budget, sinceMs: 0, skewMs: tokenSkewMs, wallNow: () => now });
    const call: TokenCall = { resource: "r", method: "m", token: "t", timeMs: now };
    memory.add({ ...call, flags: 0, bytes: new Uint8Array(1), forgetAtMs: 2 ** 48 - 1 });
    expect(memory.begin(call, () => {})).toEqual(expect.objectContaining({ flags: 0 }));
    now += tokenWindowMs;
    expect(() => memory.begin(call, () => {})).toThrow("TOKEN_MEMORY_LOST");
    expect(budget.tokens).toBe(0);
  });
});
