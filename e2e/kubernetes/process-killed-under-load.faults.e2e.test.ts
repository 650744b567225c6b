/** Processes of a pod are killed under load: the app, app and agent together, and the agent alone. */

import { beforeAll, expect, test as testAnywhere } from "vitest";
import { beforeAnyLapseMs, holdersAfter, lapse, noUntruths, underFault, untruths } from "../harness/fault.ts";
import { installLever } from "../harness/lever-install.ts";
import { hasOwnNodes, type PodProcesses, processesOf } from "../harness/pod-processes.ts";
import type { ListedPod } from "../harness/service-pods.ts";

const test = testAnywhere.runIf(hasOwnNodes);

beforeAll(() => installLever());

const killed =
  (which: readonly (keyof PodProcesses)[]) =>
  async ({ metadata }: ListedPod) => {
    const processes = processesOf(metadata.name);
    for (const each of which) process.kill(processes[each], "SIGKILL");
  };

test("the app is killed: the kubelet's word is enough, and no lease has to end", async () => {
  const found = await underFault({
    name: "app-killed",
    what: "the app's process killed",
    quietMs: 30_000,
    inflict: killed(["app"]),
  });
  expect(untruths(found.report)).toEqual(noUntruths);
  expect(found.rooms.length).toBeGreaterThan(10);
  expect(found.rooms.at(-1)).toBeLessThan(beforeAnyLapseMs);
});

test("app and agent are killed", async () => {
  const found = await underFault({
    name: "pod-killed",
    what: "app and agent killed",
    quietMs: 30_000,
    inflict: killed(["agent", "app"]),
  });
  expect(untruths(found.report)).toEqual(noUntruths);
  expect(found.rooms.length).toBeGreaterThan(10);
  expect(found.rooms.at(-1)).toBeLessThan(lapse.latestMs);
});

test("the agent is killed: its container starts again, and nothing moves", async () => {
  const found = await underFault({
    name: "agent-killed",
    what: "the agent's process killed",
    quietMs: 30_000,
    inflict: killed(["agent"]),
  });
  const { report, event, victim } = found;
  const roomFailures = report.calls.failures.filter(
    ({ kind, at }) => kind !== "plain" && kind !== "slow" && at >= event.at,
  );
  const lastMs = Math.max(0, ...roomFailures.map(({ at }) => Math.round(at - event.at)));
  console.log(
    `  its rooms were answered for by ${[...holdersAfter(report, event.at, victim)].join(", ")}, the last failure was sent ${lastMs} ms after it`,
  );
  expect(untruths(report)).toEqual(noUntruths);
  expect([...holdersAfter(report, event.at, victim)]).toEqual([victim]);
  expect(report.rooms.forgetful).toBe(0);
});
