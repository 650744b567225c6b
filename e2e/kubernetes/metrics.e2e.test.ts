/** What the processes of a cluster show at /metrics, as Prometheus reads it, and as docs/metrics.md has it. */

import { readFile } from "node:fs/promises";
import path from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { result } from "../cluster/command.ts";
import { kubectl } from "../harness/kubectl.ts";
import { exampleManifest, fixtureManifest } from "../harness/lever-images.ts";
import { installLever, leverNamespace } from "../harness/lever-install.ts";
import { callFrom, podsOf, waitReady } from "../harness/service-pods.ts";
import { testNamespace } from "../harness/test-namespace.ts";

/** By process. */
const pages = new Map<string, string[]>();

const scrape = (namespace: string, pod: string) =>
  kubectl(["get", "--raw", `/api/v1/namespaces/${namespace}/pods/${pod}:3838/proxy/metrics`]);

/** What Prometheus' parser and its lint have to say of a page. */
async function problems(page: string): Promise<string[]> {
  const { exitCode, stdout, stderr } = await result("metrics-lint", [], { input: page });
  const lines = stdout.split("\n").filter((line) => line !== "");
  if (stderr !== "" || (exitCode === 0) !== (lines.length === 0)) throw new Error(`exit ${exitCode}: ${stderr}`);
  return lines;
}

beforeAll(async () => {
  await installLever();
  const namespace = await testNamespace("metrics");
  const manifests = [exampleManifest("hello"), exampleManifest("chat"), fixtureManifest("caller/caller.yaml")];
  for (const input of manifests) await kubectl(["apply", "--namespace", namespace, "--filename=-"], { input });
  for (const name of ["hello", "chat", "caller"]) await waitReady(namespace, name);
  const [caller] = await podsOf(namespace, "caller");
  // Something is counted in what has labels.
  await callFrom(namespace, caller?.metadata.name as string, "/hello/sayHello", "world");
  await callFrom(namespace, caller?.metadata.name as string, "/nosuch/sayHello", "world");
  await callFrom(namespace, caller?.metadata.name as string, "/chat/room-7/history");
  const pods = { agent: [] as string[], gateway: [] as string[], operator: [] as string[] };
  for (const name of ["hello", "chat", "caller"]) {
    for (const pod of await podsOf(namespace, name)) pods.agent.push(await scrape(namespace, pod.metadata.name));
  }
  for (const component of ["operator", "gateway"] as const) {
    const selector = `app.kubernetes.io/component=${component}`;
    const names = await kubectl(["get", "pods", "-n", leverNamespace, "-l", selector, "-o", "name"]);
    for (const name of names.trim().split("\n")) {
      pods[component].push(await scrape(leverNamespace, path.basename(name)));
    }
  }
  for (const [component, texts] of Object.entries(pods)) pages.set(component, texts);
});

describe.each(["agent", "gateway", "operator"])("of each %s", (component) => {
  test("Prometheus' own parser and lint find nothing wrong", async () => {
    expect(pages.get(component)?.length).toBeGreaterThan(1);
    for (const page of pages.get(component) ?? []) expect(await problems(page)).toEqual([]);
  });

  test("docs/metrics.md has every metric, and no other", async () => {
    const docs = await readFile(new URL("../../docs/metrics.md", import.meta.url), "utf8");
    const documented = [...docs.matchAll(/^\| `(lever_[a-z_]+)` \| (\w+) \|/gm)]
      .map(([, name, type]) => `${name} ${type}`)
      .filter((row) => row.startsWith(`lever_${component}_`) || row.startsWith("lever_build_info"));
    const shown = new Set<string>();
    for (const page of pages.get(component) ?? []) {
      for (const [, row] of page.matchAll(/^# TYPE (lever_\S+ \S+)$/gm)) shown.add(row as string);
    }
    expect([...shown].sort()).toEqual(documented.sort());
  });
});

test.each([
  ["a gauge with a counter's name", "# HELP a_total x\n# TYPE a_total gauge\na_total 1\n", /a_total/],
  ["a metric without help", "# TYPE a_seconds gauge\na_seconds 1\n", /help/i],
  ["the same series twice", '# HELP a x\n# TYPE a gauge\na{b="c"} 1\na{b="c"} 2\n', /a/],
  ["what is no metric", "a{ 1\n", /parsing error/],
  ["nothing", "", /no metric/],
])("the control: %s is found", async (_, page, expected) => {
  expect((await problems(page)).join("\n")).toMatch(expected);
});

test("the control: one bad line in what is shown is found", async () => {
  const [page] = pages.get("operator") as [string];
  const bad = page.replace("# TYPE lever_operator_leader gauge", "# TYPE lever_operator_leader counter");
  expect(bad).not.toBe(page);
  expect(await problems(bad)).toEqual([expect.stringContaining("lever_operator_leader")]);
});
