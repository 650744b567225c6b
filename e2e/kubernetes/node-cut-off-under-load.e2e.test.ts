/**
 * A node is cut off from all others while callers on both sides of the cut use the same rooms, and comes back: the holder
 * on it is heard until its lease lets nothing out any more, only then another one, and it is not heard again.
 */

import { setTimeout as sleep } from "node:timers/promises";
import { beforeAll, expect, test as testAnywhere } from "vitest";
import { cutOff, heal } from "../cluster/control.ts";
import { ClusterLoad, deployTarget, describeLoad, type TargetOptions } from "../harness/cluster-load.ts";
import {
  aftermath,
  describeFault,
  gateShutMs,
  lapse,
  noUntruths,
  overlaps,
  untruths,
  victimOf,
} from "../harness/fault.ts";
import { installLever } from "../harness/lever-install.ts";
import { hasOwnNodes } from "../harness/pod-processes.ts";
import { waitReady } from "../harness/service-pods.ts";
import { testNamespace } from "../harness/test-namespace.ts";

const test = testAnywhere.runIf(hasOwnNodes);
const cutMs = 30_000;

beforeAll(() => installLever());

async function cutAndHealed(what: string, target: TargetOptions) {
  const namespace = await testNamespace("cut");
  await deployTarget(namespace, target);
  await using load = await ClusterLoad.start(namespace, { roomPrefix: "both" });
  const victim = await victimOf(namespace, load);
  const { nodeName: node } = victim.spec;
  await using inside = await ClusterLoad.start(
    namespace,
    { roomPrefix: "both", perSecond: 100, roomShare: 1, slowEvery: 0, talkers: 0 },
    { name: "inside", node },
  );
  const event = await load.during(`${what}: ${node} cut off for ${cutMs / 1000} s`, async () => {
    await cutOff(node);
    try {
      await sleep(cutMs);
    } finally {
      await heal(node);
    }
  });
  for (const service of ["target", "inside"]) await waitReady(namespace, service);
  const [report, insideReport] = [await load.stop(), await inside.stop()];
  const found = aftermath(report, event, victim.metadata.name);
  // When it was last heard under an epoch that it had before the cut.
  const lastInsideMs = Object.values(insideReport.rooms.stays)
    .flat()
    .filter(({ instance, at }) => instance === found.victim && at <= event.at)
    .map(({ until }) => Math.round(until - event.at));
  const atOnce = overlaps([report, insideReport]);
  console.log(describeFault(found));
  console.log(describeLoad("  callers on the node itself", insideReport));
  console.log(
    `  ${lastInsideMs.filter((ms) => ms > 0).length} rooms were answered for on the node while it was cut off, ` +
      `the last time ${Math.max(...lastInsideMs)} ms after it; ${atOnce.length} rooms at two places at once`,
  );
  return { found, insideReport, lastInsideMs: Math.max(...lastInsideMs), atOnce };
}

test("a node is cut off, and comes back", async () => {
  const { found, insideReport, lastInsideMs, atOnce } = await cutAndHealed("cut off", {});
  expect(untruths(found.report)).toEqual(noUntruths);
  expect(untruths(insideReport)).toEqual(noUntruths);
  expect(atOnce).toEqual([]);
  // It served on, and no longer than it may.
  expect(lastInsideMs).toBeGreaterThan(0);
  expect(lastInsideMs).toBeLessThan(gateShutMs);
  expect(found.rooms.length).toBeGreaterThan(10);
  expect(found.rooms[0]).toBeGreaterThan(lapse.earliestMs);
  expect(found.rooms.at(-1)).toBeLessThan(lapse.latestMs);
});

test("the control: where rooms are served also by those who do not know whether they hold them", async () => {
  const { found, insideReport, atOnce } = await cutAndHealed("cut off, the control", {
    ownership: { onUncertain: "Serve" },
  });
  const violations = [...found.report.rooms.violations, ...insideReport.rooms.violations];
  console.log(`cut off, the control: ${atOnce.length} at once, ${violations.length} violations`);
  expect(atOnce.length + violations.length).toBeGreaterThan(0);
});
