import { readFile } from "node:fs/promises";
import { addIdentityMetrics } from "@leveros/agent/host/identity-metrics.ts";
import { Refusals } from "@leveros/agent/host/refusals.ts";
import { expect, test } from "vitest";
import { issueRefusals } from "../identity/certificate-issuer.ts";
import { addIssuerMetrics } from "../identity/issuer-metrics.ts";
import { OperatorMetrics } from "./operator-metrics.ts";
import { OperatorWorld } from "./operator-world.fixture.ts";
import { hello } from "./reconcile/objects.fixture.ts";

/** Of an operator that has done something of everything. */
async function scrape(): Promise<string> {
  const world = new OperatorWorld();
  const metrics = new OperatorMetrics("1.2.3", () => world.replicas[0]?.operator);
  await world.start();
  world.apply("hello", hello);
  await world.until(() => world.deployment("hello") !== undefined);
  await world.run(2000);
  metrics.onAnswer({
    verb: "get",
    kind: { group: "", version: "v1", kind: "Pod", plural: "pods", isNamespaced: true },
    status: 200,
    tookMs: 3,
  });
  metrics.onReconciled("service", { key: "a/b", queuedMs: 1, tookMs: 20, failures: 1, error: new Error("made up") });
  metrics.onTableSent(4);
  metrics.onMoved(3);
  addIdentityMetrics({
    registry: metrics.registry,
    prefix: "lever_operator",
    refusals: new Refusals(),
    notAfterMs: () => Date.now() + 60_000,
  });
  const refused = Object.fromEntries(issueRefusals.map((reason) => [reason, 0]));
  const issuer = { issued: { instance: 2, gateway: 1 }, refused };
  addIssuerMetrics(metrics.registry, { secret: { identity: undefined, isBroken: true }, issuer } as never);
  return await metrics.registry.metrics();
}

test("docs/metrics.md has every metric of the operator with its type and labels, and no other", async () => {
  const page = await scrape();
  const docs = await readFile(new URL("../../docs/metrics.md", import.meta.url), "utf8");
  const documented = new Map(
    [...docs.matchAll(/^\| `(lever_operator_[a-z_]+)` \| (\w+) \|([^|]*)\| [^|]+ \|$/gm)].map(
      ([, name, type, labels]) => [
        name,
        { type, labels: [...(labels as string).matchAll(/`(\w+)`/g)].map((match) => match[1]).sort() },
      ],
    ),
  );
  const shown = [...page.matchAll(/^# TYPE (lever_operator_\S+) (\S+)$/gm)].map(([, name, type]) => [name, type]);
  expect([...documented].map(([name, { type }]) => [name, type]).sort()).toEqual(shown.sort());
  for (const [, name, text] of page.matchAll(/^(lever_operator_\w+?)(?:_bucket|_sum|_count)?\{([^}]*)\}/gm)) {
    const labels = [...(text as string).matchAll(/(\w+)="/g)]
      .map((match) => match[1])
      .filter((label) => label !== "le");
    expect([name, labels.sort()]).toEqual([name, documented.get(name)?.labels]);
  }
});

test("what it shows is what is so", async () => {
  const page = await scrape();
  for (const line of [
    "lever_operator_leader 1",
    "lever_operator_ready 1",
    "lever_operator_services 1",
    "lever_operator_slot_moves_total 3",
    "lever_operator_identity_broken 1",
    "lever_operator_authority_remaining_seconds -1",
    'lever_operator_certificates_issued_total{kind="instance"} 2',
    'lever_operator_refused_connections_total{reason="plain"} 0',
    'lever_operator_reconcile_errors_total{controller="service"} 1',
    'lever_operator_kube_requests_total{verb="get",resource="pods",code="200"} 1',
    'lever_operator_lists_total{resource="pods",reason="initial"} 1',
    'lever_build_info{component="operator",version="1.2.3"} 1',
  ]) {
    expect(page.split("\n")).toContain(line);
  }
});

test("counters that are kept elsewhere are told once, however often they are asked for", async () => {
  const world = new OperatorWorld();
  const metrics = new OperatorMetrics("1.2.3", () => world.replicas[0]?.operator);
  expect(await metrics.registry.metrics()).toContain("\nlever_operator_leader 0\n");
  await world.start();
  for (let n = 0; n < 3; n++) {
    expect(await metrics.registry.metrics()).toContain(
      'lever_operator_lists_total{resource="pods",reason="initial"} 1\n',
    );
  }
});
