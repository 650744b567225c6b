/** A node loses power under load, one without the operator's leader and one with it, and boots later. */

import { setTimeout as sleep } from "node:timers/promises";
import { beforeAll, expect, test as testAnywhere } from "vitest";
import { cutOff, heal, powerOff, powerOn } from "../cluster/control.ts";
import { ClusterLoad, deployTarget } from "../harness/cluster-load.ts";
import { aftermath, describeFault, lapse, noUntruths, untruths, victimOf } from "../harness/fault.ts";
import { kubectl } from "../harness/kubectl.ts";
import { installLever } from "../harness/lever-install.ts";
import { hasOwnNodes } from "../harness/pod-processes.ts";
import { testNamespace } from "../harness/test-namespace.ts";

const test = testAnywhere.runIf(hasOwnNodes);
const offMs = 40_000;
/** Until another replica may lead: the Lease's 5 s, by a clock that is 1 % fast, and what it takes to look and to write. */
const electionMs = 5050 + 3 * 1000;

beforeAll(() => installLever());

async function poweredOff(withLeader: boolean) {
  const namespace = await testNamespace("off");
  await deployTarget(namespace);
  await using load = await ClusterLoad.start(namespace);
  const victim = await victimOf(namespace, load, withLeader);
  const { nodeName: node } = victim.spec;
  const what = `${node}${withLeader ? ", with the leader," : ""} without power for ${offMs / 1000} s`;
  const event = await load.during(
    what,
    async () => {
      // Without power nothing says a last word.
      await cutOff(node);
      await powerOff(node);
      await sleep(offMs);
      await heal(node);
      await powerOn(node);
      await kubectl(["wait", "--for=condition=Ready", `node/${node}`, "--timeout=60s"]);
    },
    15_000,
  );
  const found = aftermath(await load.stop(), event, victim.metadata.name);
  console.log(describeFault(found));
  expect(untruths(found.report)).toEqual(noUntruths);
  expect(found.rooms.length).toBeGreaterThan(10);
  expect(found.rooms[0]).toBeGreaterThan(lapse.earliestMs);
  return found;
}

test("a node loses power", async () => {
  const found = await poweredOff(false);
  expect(found.rooms.at(-1)).toBeLessThan(lapse.latestMs);
});

test("the node with the operator's leader loses power", async () => {
  const found = await poweredOff(true);
  // A new leader knows nothing of the old one's leases: it waits for one from its election on.
  expect(found.rooms.at(-1)).toBeLessThan(electionMs + lapse.latestMs);
});
