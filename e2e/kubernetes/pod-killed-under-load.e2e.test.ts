/** A pod is deleted without grace under load: its rooms are elsewhere within a lease, and no room is at two places. */

import { beforeAll, expect, test } from "vitest";
import { failedCalls } from "../harness/cluster-load.ts";
import { lapse, noUntruths, underFault, untruths } from "../harness/fault.ts";
import { kubectl } from "../harness/kubectl.ts";
import { installLever } from "../harness/lever-install.ts";

beforeAll(() => installLever());

test("a pod is deleted without grace", async () => {
  const found = await underFault({
    name: "killed",
    what: "a pod deleted without grace",
    quietMs: 20_000,
    inflict: ({ metadata }, namespace) =>
      kubectl(["delete", "pod", metadata.name, "--grace-period=0", "--force", "--namespace", namespace]),
  });
  expect(untruths(found.report)).toEqual(noUntruths);
  expect(found.rooms.length).toBeGreaterThan(10);
  expect(found.rooms.at(-1)).toBeLessThan(lapse.latestMs);
  // Only what ran there can have failed, not what came later.
  expect(failedCalls(found.report)).toBeLessThan(found.report.calls.sent / 20);
});
