/**
 * All replicas of the operator are away for 2 minutes, under load: calls without a resource go on; resources lapse and
 * then follow `onUncertain`; when the operator is back they are taken up, and the API server is not overrun.
 */

import { setTimeout as sleep } from "node:timers/promises";
import { beforeAll, expect, test } from "vitest";
import { describeLoad } from "../harness/cluster-load.ts";
import { gateShutMs, lapse, untruths } from "../harness/fault.ts";
import { installLever } from "../harness/lever-install.ts";
import { operatorPods, scaleOperator } from "../harness/operator-pods.ts";
import {
  failuresOf,
  firstCall,
  lastHeardMs,
  outageMs,
  requestsMax,
  requestsOf,
  shownRequests,
  startLoads,
  stopLoads,
  takenUpMs,
  totalOf,
} from "../harness/outage.ts";

const quietMs = 15_000;

beforeAll(() => installLever());

test("all replicas of the operator are away", { timeout: 480_000 }, async () => {
  const loads = await startLoads("no-operator");
  await sleep(quietMs);
  const at = Date.now();
  const replicas = await scaleOperator(0);
  const goneAt = Date.now();
  const control = await firstCall(loads, "target-fail", 5000);
  console.log(`no operator, the control: the first call to a service says ${control.stderr.trim()}`);
  await sleep(outageMs);
  const backAt = Date.now();
  await scaleOperator(replicas);
  const readyAt = Date.now();
  await sleep(lapse.latestMs + quietMs);
  const { max, from } = await requestsMax(replicas);
  const requests = await requestsOf(await operatorPods());
  const reports = await stopLoads(loads);

  const seconds = (ms: number) => `${(ms / 1000).toFixed(1)} s`;
  for (const [rule, report] of Object.entries(reports)) {
    console.log(describeLoad(`no operator for ${seconds(readyAt - goneAt)}, ${rule}`, report));
    const [heard, taken] = [lastHeardMs(report, at), takenUpMs(report, backAt)];
    console.log(
      `  holders of before were last heard ${seconds(heard)} after the scaling (the last operator was gone after ${seconds(goneAt - at)}); ` +
        `the operator was ready ${seconds(readyAt - backAt)} after the scaling back; rooms were taken up after ${taken[0]} ms (the first) to ${taken.at(-1)} ms`,
    );
  }
  console.log(
    `  asked of the API server by the new replicas: ${totalOf(requests, "others")} (at most ${max}: ${from}), ` +
      `${totalOf(requests, "leases")} for the Lease\n  ${shownRequests(requests)}`,
  );

  for (const report of [reports.wait, reports.fail]) {
    expect(untruths(report)).toMatchObject({ violations: [], miscounted: [], overlaps: [], doubled: 0, disordered: 0 });
    expect(failuresOf(report).room).toBeGreaterThan(0);
    expect(lastHeardMs(report, goneAt)).toBeLessThan(gateShutMs);
    expect(takenUpMs(report, backAt).at(-1)).toBeLessThan(readyAt - backAt + lapse.latestMs);
  }
  expect(reports.wait.calls.sent).toBe(reports.wait.calls.planned);
  expect(failuresOf(reports.wait).plain).toBe(0);
  const inVain = Object.keys(reports.wait.calls.failed).filter((what) => !what.endsWith(" none"));
  console.log(`  waited in vain, and not "none": ${JSON.stringify(inVain)}`);
  // Who is not to wait is told at once.
  const told = reports.fail.calls.failed["room: RESOURCE_UNAVAILABLE none"] ?? 0;
  expect(told).toBeGreaterThan(failuresOf(reports.fail).room * 0.9);
  expect(failuresOf(reports.serve).room).toBeLessThan(failuresOf(reports.fail).room / 10);
  // Who was not called before is found only by the operator: it was away, and calls can fail.
  expect(control.exitCode).not.toBe(0);
  expect((await firstCall(loads, "target-fail", 5000)).exitCode).toBe(0);
  expect(totalOf(requests, "others")).toBeLessThan(max);
});
