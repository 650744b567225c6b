import { expect, test } from "vitest";
import { ageText, textTable } from "./text-table.ts";

test("columns are aligned, without blanks at the ends of lines", () => {
  expect(
    textTable(
      ["service", "n", "why"],
      [
        ["dev/chat", 3, "AllServing"],
        ["a", 12, ""],
      ],
    ),
  ).toBe(["SERVICE   N   WHY", "dev/chat  3   AllServing", "a         12"].join("\n"));
  expect(textTable(["service"], [])).toBe("SERVICE");
});

test.each([
  [0, "0s"],
  [119, "119s"],
  [120, "2m"],
  [7199, "119m"],
  [7200, "2h"],
  [172_799, "47h"],
  [172_800, "2d"],
])("%d s are %s", (seconds, text) => {
  expect(ageText(seconds)).toBe(text);
});
