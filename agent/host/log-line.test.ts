import { expect, test } from "vitest";
import { logText } from "./log-line.ts";

test.each([
  ["as it is: ü, 日本, 🙂", "as it is: ü, 日本, 🙂"],
  ["two\r\nlines\tand\u2028more\n", "two lines and more"],
  ["\u001b[31mred\u001b[0m", "[31mred [0m"],
  ["\u009b31mred, by a C1 control", "31mred, by a C1 control"],
  ["\u001b]0;title\u0007 \u0000\u007f\u0085 end", "]0;title end"],
  ["reordered \u202egnp.exe", "reordered gnp.exe"],
])("%j", (text, line) => {
  expect(logText(text)).toBe(line);
});
