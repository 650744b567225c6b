import { VirtualClock } from "@leveros/protocol/clock/virtual-clock.ts";
import fc from "fast-check";
import { expect, test } from "vitest";
import { runFor, settled } from "./run-clock.fixture.ts";
import { TokenBucket } from "./token-bucket.ts";
import { type WorkDone, WorkQueue, type WorkQueueOptions, type WorkResult } from "./work-queue.ts";

/** A queue whose works last until they are told to end. */
function world(options: Partial<WorkQueueOptions> = {}) {
  const clock = new VirtualClock();
  const begun: string[] = [];
  const ends = new Map<string, (result: WorkResult | Error) => void>();
  const done: WorkDone[] = [];
  const signals: AbortSignal[] = [];
  const queue = new WorkQueue({
    clock,
    random: () => 1,
    work: (key, signal) => {
      begun.push(key);
      signals.push(signal);
      return new Promise((resolve, reject) => {
        ends.set(key, (result) => (result instanceof Error ? reject(result) : resolve(result)));
      });
    },
    onDone: (one) => done.push(one),
    ...options,
  });
  const end = async (key: string, result?: WorkResult | Error) => {
    ends.get(key)?.(result);
    ends.delete(key);
    await settled();
    await runFor(clock, 0);
  };
  return { clock, queue, begun, end, done, signals };
}

test("a key waits once, however often it is added", async () => {
  const { clock, queue, begun, end } = world();
  queue.add("a");
  queue.add("b");
  queue.add("a");
  expect(begun).toEqual([]);
  await runFor(clock, 0);
  expect(begun).toEqual(["a"]);
  queue.add("b");
  expect(queue.depth).toBe(1);
  await end("a");
  await end("b");
  expect(begun).toEqual(["a", "b"]);
  expect(queue.depth).toBe(0);
});

test("a key that is added while it is worked on is worked on once more, after that", async () => {
  const { clock, queue, begun, end } = world({ workers: 4 });
  queue.add("a");
  await runFor(clock, 0);
  queue.add("a");
  queue.add("a");
  await runFor(clock, 0);
  expect(begun).toEqual(["a"]);
  await end("a");
  expect(begun).toEqual(["a", "a"]);
  await end("a");
  expect(begun).toEqual(["a", "a"]);
});

test("so many keys at once", async () => {
  const { clock, queue, begun, end } = world({ workers: 2 });
  for (const key of ["a", "b", "c", "d"]) queue.add(key);
  await runFor(clock, 0);
  expect(begun).toEqual(["a", "b"]);
  expect([queue.workingCount, queue.depth]).toEqual([2, 2]);
  await end("b");
  expect(begun).toEqual(["a", "b", "c"]);
});

test("later, or sooner if it waits for something sooner", async () => {
  const { clock, queue, begun, end } = world();
  queue.addAfter("a", 500);
  queue.addAfter("a", 900);
  queue.addAfter("b", 900);
  queue.addAfter("b", 500);
  expect(queue.waitingCount).toBe(2);
  await runFor(clock, 499);
  expect(begun).toEqual([]);
  await runFor(clock, 1);
  await end("a");
  await end("b");
  expect(begun).toEqual(["a", "b"]);
  await runFor(clock, 10_000);
  expect(begun).toEqual(["a", "b"]);
  expect(clock.timerCount).toBe(0);
  queue.addAfter("c", 0);
  await runFor(clock, 0);
  expect(begun).toEqual(["a", "b", "c"]);
});

test("work that asks for it is done again, without being a failure", async () => {
  const { clock, queue, begun, end, done } = world();
  queue.add("a");
  await runFor(clock, 0);
  await end("a", { requeueAfterMs: 700 });
  expect(queue.failuresOf("a")).toBe(0);
  await runFor(clock, 699);
  expect(begun).toHaveLength(1);
  await runFor(clock, 1);
  expect(begun).toHaveLength(2);
  expect(done[0]).toMatchObject({ key: "a", failures: 0, error: undefined });
});

test("work that fails waits ever longer, up to a bound, until it has gone well", async () => {
  const { clock, queue, begun, end, done } = world({ retry: { minMs: 100, maxMs: 1000 } });
  queue.add("a");
  await runFor(clock, 0);
  for (const waitMs of [100, 200, 400, 800, 1000, 1000]) {
    const count = begun.length;
    await end("a", new Error("conflict"));
    await runFor(clock, waitMs - 1);
    expect(begun).toHaveLength(count);
    await runFor(clock, 1);
    expect(begun).toHaveLength(count + 1);
  }
  expect(done.map(({ failures }) => failures)).toEqual([1, 2, 3, 4, 5, 6]);
  expect(queue.counts).toEqual({ adds: 7, retries: 6 });
  await end("a");
  expect(queue.failuresOf("a")).toBe(0);
  queue.add("a");
  await runFor(clock, 0);
  await end("a", new Error("again"));
  await runFor(clock, 100);
  expect(begun).toHaveLength(9);
});

test("the back-off of one key is no other's; news about a key do not wait for it", async () => {
  const { clock, queue, begun, end } = world({ retry: { minMs: 1000, maxMs: 1000 } });
  queue.add("a");
  await runFor(clock, 0);
  await end("a", new Error("no"));
  queue.add("b");
  queue.add("a");
  await runFor(clock, 0);
  expect(begun).toEqual(["a", "b"]);
  await end("b");
  expect(begun).toEqual(["a", "b", "a"]);
});

test("work that throws instead of rejecting, or rejects with nothing, has failed as well", async () => {
  const done: WorkDone[] = [];
  const works = [
    () => {
      throw new Error("at once");
    },
    () => Promise.reject(),
    () => Promise.resolve(),
  ];
  const clock = new VirtualClock();
  const queue = new WorkQueue({
    clock,
    random: () => 0,
    work: () => (works.shift() as () => Promise<void>)(),
    onDone: (one) => done.push(one),
  });
  queue.add("a");
  await runFor(clock, 1000);
  expect(done.map(({ failures }) => failures)).toEqual([1, 2, 0]);
});

test("retries of all keys together have a rate; what is added does not", async () => {
  const clock = new VirtualClock();
  let isWell = false;
  const times: number[] = [];
  const queue = new WorkQueue({
    clock,
    random: () => 0,
    workers: 1000,
    retry: { minMs: 1, maxMs: 1 },
    retryRate: { ratePerSecond: 10, burst: 5 },
    work: async () => {
      times.push(clock.now());
      if (!isWell) throw new Error("away");
    },
  });
  for (let i = 0; i < 100; i++) queue.add(`key-${i}`);
  await runFor(clock, 0);
  expect(times).toHaveLength(100);
  isWell = true;
  await runFor(clock, 4999);
  expect(times.length).toBeGreaterThan(150);
  expect(times.length).toBeLessThanOrEqual(100 + 5 + 50);
  await runFor(clock, 5000);
  expect(times).toHaveLength(200);
});

test("times are told", async () => {
  const { clock, queue, end, done } = world();
  queue.add("a");
  queue.add("b");
  await runFor(clock, 300);
  await end("a");
  await runFor(clock, 50);
  await end("b");
  expect(done.map(({ queuedMs, tookMs }) => [queuedMs, tookMs])).toEqual([
    [0, 300],
    [300, 50],
  ]);
});

test("drained: what could begin is done, what waits for its time is not", async () => {
  const { clock, queue, begun, end, signals } = world();
  queue.add("a");
  queue.add("b");
  queue.addAfter("c", 10);
  await runFor(clock, 0);
  let isClosed = false;
  queue.add("a");
  const closed = queue.close("drain").then(() => {
    isClosed = true;
  });
  queue.add("d");
  queue.addAfter("d", 1);
  queue.addRateLimited("d");
  await end("a", new Error("not again"));
  expect(signals[0]?.aborted).toBe(false);
  await end("b");
  expect(isClosed).toBe(false);
  await end("a");
  await closed;
  expect(begun).toEqual(["a", "b", "a"]);
  expect(clock.timerCount).toBe(0);
});

test("dropped: what is under way is told, and waited for", async () => {
  const { clock, queue, begun, end, signals } = world();
  queue.add("a");
  queue.add("b");
  await runFor(clock, 0);
  queue.add("a");
  let isClosed = false;
  const closed = queue.close("drop").then(() => {
    isClosed = true;
  });
  expect(signals[0]?.aborted).toBe(true);
  await runFor(clock, 0);
  expect(isClosed).toBe(false);
  await end("a", { requeueAfterMs: 5 });
  await closed;
  expect(begun).toEqual(["a"]);
  expect(clock.timerCount).toBe(0);
  await queue.close("drop");
});

test("whatever is added when, of one key one work at most is under way, and the last one sees the last state", async () => {
  const step = fc.oneof(
    fc.record({ do: fc.constantFrom("add" as const, "limited" as const), key: fc.nat(4) }),
    fc.record({ do: fc.constant("after" as const), key: fc.nat(4), ms: fc.nat(60) }),
    fc.record({ do: fc.constant("run" as const), ms: fc.nat(80) }),
  );
  const outcome = fc.record({
    ms: fc.nat(40),
    end: fc.constantFrom("well" as const, "fails" as const, "requeue" as const),
  });
  await fc.assert(
    fc.asyncProperty(
      fc.array(step, { maxLength: 60 }),
      fc.array(outcome, { maxLength: 80 }),
      fc.integer({ min: 1, max: 3 }),
      fc.boolean(),
      async (steps, outcomes, workers, isDrained) => {
        const clock = new VirtualClock();
        const state = new Map<string, number>();
        const seen = new Map<string, number>();
        const working = new Set<string>();
        const left = [...outcomes];
        const queue = new WorkQueue({
          clock,
          random: () => 0.5,
          workers,
          work: async (key) => {
            expect(working.has(key)).toBe(false);
            working.add(key);
            expect(working.size).toBeLessThanOrEqual(workers);
            seen.set(key, state.get(key) ?? 0);
            const { ms, end } = left.shift() ?? { ms: 1, end: "well" };
            await new Promise<void>((resolve) => void clock.setTimer(resolve, ms));
            working.delete(key);
            if (end === "fails") throw new Error("made up");
            return end === "requeue" ? { requeueAfterMs: 15 } : undefined;
          },
        });
        for (const one of steps) {
          if (one.do === "run") {
            await runFor(clock, one.ms);
            continue;
          }
          const key = `${one.key}`;
          state.set(key, (state.get(key) ?? 0) + 1);
          if (one.do === "add") queue.add(key);
          else if (one.do === "after") queue.addAfter(key, one.ms);
          else queue.addRateLimited(key);
        }
        if (!isDrained) {
          await runFor(clock, 600_000);
          expect(seen).toEqual(state);
          expect(queue.depth + queue.workingCount + queue.waitingCount).toBe(0);
        }
        const closed = queue.close(isDrained ? "drain" : "drop");
        await runFor(clock, 600_000);
        await closed;
        expect(working.size).toBe(0);
        expect(clock.timerCount).toBe(0);
      },
    ),
    { numRuns: 150 },
  );
});

test("a bucket never lets through more than its burst and its rate allow", () => {
  fc.assert(
    fc.property(
      fc.array(fc.tuple(fc.nat(500), fc.boolean()), { maxLength: 200 }),
      fc.integer({ min: 1, max: 50 }),
      fc.integer({ min: 1, max: 10 }),
      (asks, ratePerSecond, burst) => {
        const bucket = new TokenBucket({ ratePerSecond, burst }, 0);
        let now = 0;
        const passed: number[] = [];
        for (const [ms, isReserved] of asks) {
          now += ms;
          if (isReserved) passed.push(now + bucket.reserve(now));
          else if (bucket.take(now)) passed.push(now);
        }
        passed.sort((a, b) => a - b);
        for (let first = 0; first < passed.length; first++) {
          for (let last = first; last < passed.length; last++) {
            const spanMs = (passed[last] as number) - (passed[first] as number);
            expect(last - first + 1).toBeLessThanOrEqual(burst + (spanMs / 1000) * ratePerSecond + 1e-6);
          }
        }
      },
    ),
    { numRuns: 60 },
  );
});
