import { expect, test } from "vitest";
import { ToldOnce, toldMax } from "./told-once.ts";

const hourMs = 3_600_000;

test("is told once in an hour, each by its key", () => {
  const told = new ToldOnce();
  expect(told.textFor("a", "x", "text", 0)).toBe("text");
  expect(told.textFor("a", "x", "text", hourMs - 1)).toBeUndefined();
  expect(told.textFor("a", "y", "text", 1)).toBe("text");
  expect(told.textFor("b", "x", "text", 1)).toBe("text");
  expect(told.textFor("a", "x", "text", hourMs)).toBe("text");
});

test("where there are too many, that is told once in an hour, and other kinds are told as ever", () => {
  const told = new ToldOnce();
  for (let i = 0; i < toldMax; i++) expect(told.textFor("a", `${i}`, "text", i)).toBe("text");
  expect(told.textFor("a", "one more", "text", toldMax)).toMatch(/^text; there are more of this kind than the 1000/);
  expect(told.textFor("a", "and one", "text", toldMax)).toBeUndefined();
  expect(told.textFor("a", "0", "text", toldMax)).toBeUndefined();
  expect(told.textFor("b", "x", "text", toldMax)).toBe("text");
  // The first one may be told again, and gives its place to another.
  expect(told.textFor("a", "and one", "text", hourMs)).toBe("text");
});
