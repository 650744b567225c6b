import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { readArguments } from "./call-options.ts";

let directory: string;
beforeAll(async () => {
  directory = await mkdtemp(path.join(tmpdir(), "lever-arguments-"));
});
afterAll(() => rm(directory, { recursive: true }));

test("each is a JSON value", async () => {
  expect(await readArguments(['"Ada"', "-1.5", "null", '{"a":[true]}'], undefined)).toEqual([
    "Ada",
    -1.5,
    null,
    { a: [true] },
  ]);
  expect(await readArguments([], undefined)).toEqual([]);
});

test("what is none is named, with the word as the shell needs it", async () => {
  await expect(readArguments(["1", "it's"], undefined)).rejects.toMatchObject({
    reason: "INVALID_ARGUMENTS",
    effect: "none",
    rawMessage: `args[1] is "it's", which is no JSON value; a string needs quotes of its own: '"it'\\''s"'`,
  });
});

test("a file is bytes", async () => {
  const file = path.join(directory, "photo");
  await writeFile(file, Uint8Array.of(1, 2, 3));
  expect(await readArguments([], file)).toEqual([Uint8Array.of(1, 2, 3)]);
});

test("a file and values do not go together", async () => {
  await expect(readArguments(["1"], "any")).rejects.toMatchObject({ reason: "ARGS_FORM", effect: "none" });
});

test.each([
  ["/nowhere/at/all", "INVALID_OPTION"],
  [tmpdir(), "INVALID_OPTION"],
  // Has no end.
  ["/dev/zero", "ARGS_TOO_LARGE"],
])("%s is refused: %s", async (file, reason) => {
  await expect(readArguments([], file)).rejects.toMatchObject({ reason, effect: "none" });
});
