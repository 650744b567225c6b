/**
 * However `lever dev` ends, nothing of it is left: no app, no agent, no shell, no guardian. Processes are found by a
 * variable in their environment, which they all inherit.
 */

import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { LeverDev } from "../harness/lever-dev.ts";
import type { RunningProcess } from "../harness/process-list.ts";
import { until } from "../harness/until.ts";

const manifests = ["e2e/fixtures/probe/probe.yaml"];
/** `lever dev`, its guardian, two apps and, perhaps, their agents. */
const running = { hosted: 4, process: 6 } as const;

/** What is left, and how long the last of it took to go. */
async function endedBy(dev: LeverDev, end: (dev: LeverDev) => void) {
  const before = dev.processes().length;
  const startedAt = performance.now();
  end(dev);
  const left = await dev.leftAfter(20_000);
  const ms = Math.round(performance.now() - startedAt);
  if (left.length === 0) await dev.exited;
  dev.killAll();
  return { before, left: left.map(({ args }: RunningProcess) => args.join(" ")), ms };
}

async function busy(agents: "hosted" | "process") {
  const dev = await LeverDev.start({ manifests, agents });
  // Something is under way: a channel that idles, and a call that would take a minute.
  const client = dev.client();
  const channel = await client.openChannel("/probe/echoChan").catch(() => undefined);
  client.invoke("/fragile/wait", [60_000], { metadata: { id: "long" }, timeoutMs: 120_000 }).catch(() => {});
  await until("the call runs", () => dev.log.enteredWith("long") === 1);
  return { dev, client, channel };
}

describe.each(["hosted", "process"] as const)("with agents that are %s", (agents) => {
  test.for([
    ["Ctrl-C", (dev: LeverDev) => dev.interrupt()],
    ["SIGTERM", (dev: LeverDev) => dev.child.kill("SIGTERM")],
  ] as const)("%s leaves no process", async ([name, end]) => {
    const dev = await LeverDev.start({ manifests, agents });
    const { before, left, ms } = await endedBy(dev, end);
    console.log(`${name}, agents ${agents}: ${before} processes, ${left.length} left after ${ms} ms`);
    expect(before).toBe(running[agents]);
    expect(left).toEqual([]);
    expect(dev.child.exitCode).toBe(0);
  });

  test("SIGKILL while calls and channels are under way leaves none", async () => {
    const { dev, client } = await busy(agents);
    const { before, left, ms } = await endedBy(dev, () => dev.child.kill("SIGKILL"));
    console.log(`SIGKILL, agents ${agents}: ${before} processes, ${left.length} left after ${ms} ms`);
    expect(left).toEqual([]);
    await client.close();
  });

  test("a second Ctrl-C does not wait for them", async () => {
    const { dev, client } = await busy(agents);
    dev.interrupt();
    await until("it says that it ends", () => dev.output.text.includes("ending"));
    // Two within half a second are one: npm and some shells send each twice.
    await sleep(700);
    const { left, ms } = await endedBy(dev, () => dev.interrupt());
    console.log(`a second Ctrl-C, agents ${agents}: ${left.length} left after ${ms} ms`);
    expect(left).toEqual([]);
    // The call alone would take a minute, and an app is given 25 s for it.
    expect(ms).toBeLessThan(15_000);
    await client.close();
  });
});

test("the control: agents that do not heed the end of their parent are left", async () => {
  const dev = await LeverDev.start({
    manifests,
    agents: "process",
    patches: [{ file: "agent/main.ts", find: 'process.on("disconnect", stop);', replace: "" }],
  });
  dev.child.kill("SIGKILL");
  const left = await dev.leftAfter(4000);
  dev.killAll();
  console.log(`SIGKILL, the control: ${left.length} left`);
  expect(left.length).toBeGreaterThan(0);
  expect(await dev.leftAfter(5000)).toEqual([]);
});
