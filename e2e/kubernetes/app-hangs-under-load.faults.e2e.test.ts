/** An app that hangs loses its rooms when its lease ends, and is not heard of them when it wakes. */

import { setTimeout as sleep } from "node:timers/promises";
import { beforeAll, expect, test as testAnywhere } from "vitest";
import { lapse, noUntruths, underFault, untruths } from "../harness/fault.ts";
import { kubectl } from "../harness/kubectl.ts";
import { installLever } from "../harness/lever-install.ts";
import { hasOwnNodes, processesOf } from "../harness/pod-processes.ts";
import { allPodsOf, type ListedPod } from "../harness/service-pods.ts";

const hangMs = 30_000;

beforeAll(() => installLever());

function expectLapse(found: Awaited<ReturnType<typeof underFault>>): void {
  expect(untruths(found.report)).toEqual(noUntruths);
  expect(found.rooms.length).toBeGreaterThan(10);
  expect(found.rooms[0]).toBeGreaterThan(lapse.earliestMs);
  expect(found.rooms.at(-1)).toBeLessThan(lapse.latestMs);
}

testAnywhere.runIf(hasOwnNodes)("an app is stopped, and goes on later", async () => {
  const found = await underFault({
    name: "stopped",
    what: `the app stopped for ${hangMs / 1000} s`,
    quietMs: 20_000,
    inflict: async ({ metadata }) => {
      const { app } = processesOf(metadata.name);
      process.kill(app, "SIGSTOP");
      await sleep(hangMs);
      process.kill(app, "SIGCONT");
    },
  });
  expectLapse(found);
});

testAnywhere.runIf(hasOwnNodes)("app and agent are stopped, and go on later", async () => {
  const found = await underFault({
    name: "all-stopped",
    what: `app and agent stopped for ${hangMs / 1000} s`,
    quietMs: 20_000,
    inflict: async ({ metadata }) => {
      const { app, agent } = processesOf(metadata.name);
      for (const pid of [agent, app]) process.kill(pid, "SIGSTOP");
      await sleep(hangMs);
      for (const pid of [app, agent]) process.kill(pid, "SIGCONT");
    },
  });
  expectLapse(found);
});

testAnywhere("an app is busy with one thing", async () => {
  const found = await underFault({
    name: "hogged",
    what: `an endless loop, for ${hangMs / 1000} s`,
    quietMs: 20_000,
    inflict: async (victim, namespace) => {
      const call = hog(victim, namespace);
      await Promise.all([call, sleep(hangMs)]);
    },
  });
  expectLapse(found);
});

/** Keeps the victim busy; its call fails when the lease is over. */
async function hog({ metadata }: ListedPod, namespace: string): Promise<void> {
  const [load] = await allPodsOf(namespace, "load");
  const exec = ["exec", "--namespace", namespace, (load as ListedPod).metadata.name, "--container=app", "--"];
  for (let n = 0; ; n++) {
    const room = `hog-${n}`;
    const at = JSON.parse(await kubectl([...exec, "node", "/app/call.js", `/target/${room}/say`])) as {
      instance: string;
    };
    if (at.instance !== metadata.name) continue;
    await kubectl([...exec, "node", "/app/call.js", `/target/${room}/hog`, `[${hangMs}]`]).catch(() => {});
    return;
  }
}
