/**
 * The API server is away for 2 minutes, under load: dead, and hanging. Calls without a resource go on; nobody can lead, so
 * resources lapse and then follow `onUncertain`; when it is back they are taken up, and it is not overrun.
 */

import { setTimeout as sleep } from "node:timers/promises";
import { beforeAll, expect, test as testAnywhere } from "vitest";
import { pause, powerOff, powerOn, resume } from "../cluster/control.ts";
import { describeLoad } from "../harness/cluster-load.ts";
import { lapse, untruths } from "../harness/fault.ts";
import { kubectlResult } from "../harness/kubectl.ts";
import { installLever } from "../harness/lever-install.ts";
import { operatorPods } from "../harness/operator-pods.ts";
import {
  apiServerRequests,
  failuresOf,
  lastHeardMs,
  outageMs,
  requestsMax,
  requestsOf,
  shownRequests,
  since,
  startLoads,
  stopLoads,
  takenUpMs,
  totalOf,
} from "../harness/outage.ts";
import { hasOwnNodes } from "../harness/pod-processes.ts";
import { until } from "../harness/until.ts";

const test = testAnywhere.runIf(hasOwnNodes);
const quietMs = 15_000;
const server = "kube-apiserver";
/** Until a leader knows that it leads no more, 5 s, its last grants have run out, 15 s. */
const lastHeardMsMax = 5000 + 15_150;

beforeAll(() => installLever());

async function away(what: string, stop: () => Promise<void>, start: () => Promise<void>): Promise<void> {
  const loads = await startLoads("no-api-server");
  const operators = await operatorPods();
  const { max, from } = await requestsMax(operators.length);
  await sleep(quietMs);
  const at = Date.now();
  const before = await requestsOf(operators);
  await stop();
  await sleep(outageMs);
  const inOutage = await requestsOf(operators);
  const backAt = Date.now();
  await start();
  const isBack = async () => (await kubectlResult(["get", "--raw", "/readyz", "--request-timeout=2s"])).exitCode === 0;
  await until("the API server answers", isBack, 60_000);
  const readyAt = Date.now();
  const allBefore = await apiServerRequests();
  await sleep(5000);
  const allSoon = await apiServerRequests();
  await sleep(lapse.latestMs + quietMs - 5000);
  const afterwards = await requestsOf(operators);
  const restarts = (await operatorPods()).map(({ status }) => status.containerStatuses?.[0]?.restartCount);
  const reports = await stopLoads(loads);

  const meanwhile = since(before, inOutage);
  const requests = since(inOutage, afterwards);
  const seconds = (ms: number) => `${(ms / 1000).toFixed(1)} s`;
  for (const [rule, report] of Object.entries(reports)) {
    console.log(describeLoad(`${what} for ${seconds(readyAt - at)}, ${rule}`, report));
    const [heard, taken] = [lastHeardMs(report, at), takenUpMs(report, backAt)];
    console.log(
      `  holders of before were last heard ${seconds(heard)} after it; the API server answered ${seconds(readyAt - backAt)} after its start; ` +
        `rooms were taken up after ${taken[0]} ms (the first) to ${taken.at(-1)} ms`,
    );
  }
  console.log(
    `  asked of it meanwhile: ${totalOf(meanwhile, "others")}, ${totalOf(meanwhile, "leases")} for the Lease\n  ${shownRequests(meanwhile)}\n` +
      `  asked of it afterwards: ${totalOf(requests, "others")} (at most ${max}: ${from}), ${totalOf(requests, "leases")} for the Lease\n  ${shownRequests(requests)}\n` +
      `  asked of it by all its clients in 5 s: ${allSoon - allBefore}`,
  );

  for (const report of [reports.wait, reports.fail]) {
    expect(untruths(report)).toMatchObject({ violations: [], miscounted: [], overlaps: [], doubled: 0, disordered: 0 });
    expect(failuresOf(report).room).toBeGreaterThan(0);
    expect(lastHeardMs(report, at)).toBeLessThan(lastHeardMsMax);
    expect(takenUpMs(report, backAt).at(-1)).toBeLessThan(readyAt - backAt + 5050 + lapse.latestMs);
  }
  expect(reports.wait.calls.sent).toBe(reports.wait.calls.planned);
  expect(failuresOf(reports.wait).plain).toBe(0);
  // Who is not to wait is told at once.
  const told = reports.fail.calls.failed["room: RESOURCE_UNAVAILABLE none"] ?? 0;
  expect(told).toBeGreaterThan(failuresOf(reports.fail).room * 0.9);
  expect(failuresOf(reports.serve).room).toBeLessThan(failuresOf(reports.fail).room / 10);
  expect(restarts).toEqual(operators.map(({ status }) => status.containerStatuses?.[0]?.restartCount));
  expect(totalOf(requests, "others")).toBeLessThan(max);
}

test("the API server is dead", { timeout: 480_000 }, () =>
  away(
    "the API server dead",
    () => powerOff(server),
    () => powerOn(server),
  ),
);

test("the API server hangs", { timeout: 480_000 }, () =>
  away(
    "the API server hanging",
    () => pause(server),
    () => resume(server),
  ),
);
