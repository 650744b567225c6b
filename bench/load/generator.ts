/**
 * The client process of every path: connects by the module named on its command line, and keeps a number of calls in
 * flight for a time, each reply compared with what was sent. The same loop drives all paths, so that its own cost is
 * the same in each. What a call is, is left to the module; when to run, to the bench.
 *
 *     node generator.ts <URL of a Connector module> [its address…]
 */

import { onAsk, ready } from "../control/probe.ts";
import { LatencyHistogram } from "./histogram.ts";
import { argsBytes, sameValue, sampleValue } from "./value.ts";

/** What a module exports to be driven. */
export interface Connector<Value = unknown> {
  /** What `call` is given: the value itself, or the bytes of its arguments array where the path encodes nothing. */
  readonly form: "value" | "bytes";
  connect(address: readonly string[]): Promise<Connection<Value>>;
}

export interface Connection<Value = unknown> {
  /** Sends `value`, and resolves with what came back. */
  call(value: Value): Promise<Value>;
  close(): void | Promise<void>;
}

export interface LoadRequest {
  readonly inFlight: number;
  readonly bytes: number;
  readonly seconds: number;
}

export interface LoadResult {
  readonly calls: number;
  /** From the first call to the last reply. */
  readonly elapsedMicros: number;
  readonly p50Micros: number;
  readonly p99Micros: number;
}

/** At least as many as are usually in flight, so that two calls at a time carry different values. */
const SAMPLES = 64;

const [moduleUrl, ...address] = process.argv.slice(2);
if (moduleUrl === undefined)
  throw new Error("generator.ts needs the URL of a module that exports `form` and `connect`");
const connector: Connector = await import(moduleUrl);
const same = connector.form === "value" ? sameValue : sameBytes;
const connection = await connector.connect(address);
const samplesBySize = new Map<number, unknown[]>();

onAsk("run", (data) => run(data as LoadRequest));
process.once("SIGTERM", async () => {
  await connection.close();
  process.exit();
});
ready();

/** Throws the first error; the calls of such a run do not count. */
async function run({ inFlight, bytes, seconds }: LoadRequest): Promise<LoadResult> {
  const samples = samplesOf(bytes);
  const histogram = new LatencyHistogram();
  let next = 0;
  let failed = false;
  const begin = performance.now();
  const end = begin + seconds * 1000;

  async function caller(): Promise<void> {
    let sent = performance.now();
    while (sent < end && !failed) {
      const sample = samples[next++ % SAMPLES];
      const reply = await connection.call(sample);
      histogram.record((performance.now() - sent) * 1000);
      if (!same(sample, reply)) throw new Error("a reply differs from what was sent");
      sent = performance.now();
    }
  }

  const callers = Array.from({ length: inFlight }, () =>
    caller().catch((error: unknown) => {
      failed = true;
      throw error;
    }),
  );
  const failure = (await Promise.allSettled(callers)).find((outcome) => outcome.status === "rejected");
  if (failure !== undefined) throw failure.reason;
  const elapsedMicros = (performance.now() - begin) * 1000;
  const [p50Micros, p99Micros] = [histogram.percentile(50), histogram.percentile(99)];
  return { calls: histogram.total, elapsedMicros, p50Micros, p99Micros };
}

function samplesOf(bytes: number): unknown[] {
  let samples = samplesBySize.get(bytes);
  if (samples === undefined) {
    const values = Array.from({ length: SAMPLES }, (_, index) => sampleValue(bytes, index));
    samples = connector.form === "value" ? values : values.map(argsBytes);
    samplesBySize.set(bytes, samples);
  }
  return samples;
}

function sameBytes(a: unknown, b: unknown): boolean {
  return a instanceof Uint8Array && b instanceof Uint8Array && Buffer.compare(a, b) === 0;
}
