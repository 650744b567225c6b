/**
 * Moves pseudo-random bytes from app to app through two agents, up and down, and prints what it takes: time, the peak
 * memory of every process on the path, what a stalled reader does, and what small calls beside it suffer.
 *
 *     npm run transfer                       2 GiB each way
 *     npm run transfer -- --bytes 256MiB
 */

import { parseArgs } from "node:util";
import { LeverDev } from "./harness/lever-dev.ts";
import {
  aboveIdleMax,
  describeMoved,
  latency,
  mebibyte,
  ready,
  stall,
  transfer,
  transferServices,
} from "./harness/transfer.ts";

const { values } = parseArgs({ options: { bytes: { type: "string", default: "2GiB" } } });
const bytes = parseBytes(values.bytes);
if (bytes === undefined) {
  console.error(`--bytes is ${JSON.stringify(values.bytes)}, expected a number with MiB or GiB, such as 256MiB`);
  process.exit(2);
}

await using dev = await LeverDev.start(transferServices);
await using client = dev.client();
await ready(dev);

const moved = await transfer(dev, client, bytes);
for (const [way, { sha256, receipt }, peaks] of [
  ["up", moved.up, moved.upPeaks],
  ["down", moved.down, moved.peaks],
] as const) {
  console.log(`${way}: ${describeMoved(moved[way])}`);
  console.log(`  MiB above idle: ${JSON.stringify(peaks)}`);
  const isWithin = Object.entries(peaks).every(([what, peak]) => peak <= aboveIdleMax(what));
  if (sha256 !== receipt.sha256 || receipt.bytes !== bytes || !isWithin) process.exitCode = 1;
}
const stalled = await stall(dev, client, bytes);
console.log(`a stalled reader: ${JSON.stringify(stalled)}`);
if (stalled.sentLaterBytes !== stalled.sentBytes) process.exitCode = 1;
console.log(`small calls beside it, ms: ${JSON.stringify(await latency(client, 6000))}`);
console.log(process.exitCode === 1 ? "FAILED" : "all as it should be");

function parseBytes(text: string): number | undefined {
  const [, number, unit] = /^(\d{1,6})(MiB|GiB)$/.exec(text) ?? [];
  return number === undefined ? undefined : Number(number) * (unit === "GiB" ? 1024 * mebibyte : mebibyte);
}
