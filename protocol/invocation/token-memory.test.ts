import { expect, it } from "vitest";
import {
  TokenBudget,
  type TokenCall,
  TokenMemory,
  tokenBytesMaxOfSlot,
  tokenBytesOfProcessMax,
  tokenWindowMs,
} from "./token-memory.ts";

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
