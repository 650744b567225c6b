import { VirtualClock } from "@leveros/protocol/clock/virtual-clock.ts";
import fc from "fast-check";
import { expect, test } from "vitest";
import { ApiServer, type Fault } from "./api-server.fixture.ts";
import { KubeClient } from "./kube-client.ts";
import { leases } from "./kube-object.ts";
import { LeaderElection } from "./leader-election.ts";
import { Machine } from "./machine.fixture.ts";
import { settled } from "./run-clock.fixture.ts";

const stormMs = 60_000;

/** One world from one seed: clocks at their bounds, a server and a network that fail, processes that stop. */
async function run(seed: number) {
  let state = seed * 2 + 1;
  const random = () => {
    state = (state * 48_271) % 2_147_483_647;
    return state / 2_147_483_647;
  };
  const clock = new VirtualClock();
  const server = new ApiServer(clock);
  const severity = random() * 0.6;
  server.fault = (): Fault | undefined => {
    if (clock.now() > stormMs || random() > severity) return random() < 0.5 ? { delayMs: random() * 30 } : undefined;
    const kind = random();
    if (kind < 0.4) return { delayMs: random() ** 2 * 7000, answerDelayMs: random() ** 2 * 1500 };
    if (kind < 0.55) return { silent: random() < 0.5 ? "before" : "after" };
    if (kind < 0.75) return { reset: random() < 0.5 ? "before" : "after" };
    return { status: random() < 0.5 ? 500 : 429 };
  };
  const terms: number[] = [];
  let leading: string | undefined;
  let isDeleted = false;
  const candidates = ["a", "b", "c"].map((name) => {
    const machine = new Machine(clock, [0.99, 1.01, 1][Math.floor(random() * 3)]);
    const election = new LeaderElection({
      client: new KubeClient({ transport: machine.transport(server.transport()), clock: machine }),
      clock: machine,
      leaseClock: machine,
      random,
      namespace: "lever-system",
      name: "operator",
      candidate: name,
      onElected: (term) => {
        leading = name;
        terms.push(term);
      },
      onLost: () => {
        if (leading === name) leading = undefined;
      },
    });
    election.start();
    return { machine, election };
  });
  const disturb = () => {
    if (clock.now() > stormMs) return;
    clock.setTimer(disturb, 500 + random() * 6000);
    const machine = candidates[Math.floor(random() * candidates.length)]?.machine as Machine;
    const kind = random();
    if (kind < 0.5) void machine.stopFor(random() ** 2 * 12_000, random() < 0.3);
    else if (kind < 0.8) machine.setWall((random() - 0.5) * 20_000);
    else if (kind < 0.9) {
      isDeleted = true;
      server.remove(leases, "lever-system", "operator");
    }
  };
  clock.setTimer(disturb, 1000);
  let ledMs = 0;
  let last = 0;
  await settled();
  while (clock.step(stormMs + 30_000)) {
    await settled();
    const leaders = candidates.filter(({ election }) => election.isLeader).length;
    expect(leaders, `at ${clock.now()} ms of seed ${seed}`).toBeLessThanOrEqual(1);
    if (leaders === 1) ledMs += clock.now() - last;
    last = clock.now();
  }
  expect(candidates.filter(({ election }) => election.isLeader)).toHaveLength(1);
  if (!isDeleted) expect(terms).toEqual([...new Set(terms)].sort((a, b) => a - b));
  return { elections: terms.length, ledMs };
}

test("there are never two leaders, and in the end there is one", async () => {
  let elections = 0;
  let ledMs = 0;
  let runs = 0;
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: 1, max: 1_000_000_000 }), async (seed) => {
      const result = await run(seed);
      elections += result.elections;
      ledMs += result.ledMs;
      runs++;
    }),
    { numRuns: 25, endOnFailure: true },
  );
  // The worlds are worth something: leaders change, and there are some.
  expect(elections / runs).toBeGreaterThan(2);
  expect(ledMs / runs).toBeGreaterThan(stormMs / 3);
});
