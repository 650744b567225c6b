import fc from "fast-check";
import { expect, test } from "vitest";
import { formatBytes, quantityBytes, quantityMillis, wholeQuantity } from "./quantity.ts";

// The verdicts are those of the API server's own quantity library over the generated CRD.
test.each([
  ["1Mi", 1_048_576],
  ["16Mi", 16_777_216],
  ["1k", 1000],
  ["1M", 1_000_000],
  ["1G", 1_000_000_000],
  ["3Gi", 3_221_225_472],
  ["1e6", 1_000_000],
  ["1E6", 1_000_000],
  ["1e+6", 1_000_000],
  ["2E4", 20_000],
  ["00001Mi", 1_048_576],
  ["0", 0],
  ["1048576", 1_048_576],
  ["7Pi", 7_881_299_347_898_368],
])("%s is %i bytes", (text, bytes) => {
  expect(quantityBytes(text)).toBe(bytes);
});

test.each([
  "",
  "Mi",
  " 1Mi",
  "1Mi ",
  "1mi",
  "1K",
  "1MiB",
  "1 Mi",
  "0x1000",
  "1_000",
  "1e",
  "1e3.5",
  "1e-3",
  "-1Mi",
  "1.5Mi",
  "100m",
  "1048576000000u",
  "12E",
  "1e99",
  "99999999999999999999E",
  "9007199254740993",
  `${"9".repeat(40)}`,
])("%j is no number of bytes", (text) => {
  expect(quantityBytes(text)).toBe(undefined);
});

test("integers are bytes", () => {
  expect(quantityBytes(1024)).toBe(1024);
  expect(quantityBytes(1.5)).toBe(undefined);
  expect(quantityBytes(Number.NaN)).toBe(undefined);
});

test("what formatBytes prints is read as the same number", () => {
  fc.assert(
    fc.property(fc.maxSafeNat(), fc.nat(3), (bytes, shift) => {
      const rounded = Math.floor(bytes / 1024 ** shift) * 1024 ** shift;
      expect(quantityBytes(formatBytes(rounded))).toBe(rounded);
    }),
  );
  expect([1024, 1536, 1024 ** 2, 5 * 1024 ** 3, 1000].map(formatBytes)).toEqual(["1Ki", "1536", "1Mi", "5Gi", "1000"]);
});

test.each([
  ["1", 1000],
  ["0.5", 500],
  ["0.125", 125],
  ["20m", 20],
  ["64000m", 64_000],
  [2, 2000],
  ["0", 0],
])("%s is %i thousandths of a processor", (text, millis) => {
  expect(quantityMillis(text)).toBe(millis);
});

test.each(["", "m", ".5", "0.5m", "-1", "1.", "1e3", "1Ki", 0.5555])("%j is no quantity of processors", (text) => {
  expect(quantityMillis(text)).toBe(undefined);
});

test.each([
  ["1.5Gi", "1536Mi"],
  ["0.5Mi", "512Ki"],
  ["1.5k", "1500"],
  ["0.0001Ki", "1"],
  ["64Mi", "64Mi"],
  ["1.5", "1.5"],
  ["1.5m", "1.5m"],
  ["1.5E", "1.5E"],
  ["much", "much"],
])("%s as a whole quantity is %s", (text, whole) => {
  expect(wholeQuantity(text)).toBe(whole);
});
