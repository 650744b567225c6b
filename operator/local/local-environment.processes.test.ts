/** The operator of a local environment is restarted while its instances hold slots. */

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import type { SlotRow } from "@leveros/protocol/control/discovery.ts";
import { expect, test } from "vitest";
import { readManifests } from "../api/manifest-reader.ts";
import { LocalEnvironment } from "./local-environment.ts";

const library = new URL("../../clients/node/index.ts", import.meta.url).href;
const source = `import { serve } from "${library}";
await serve({}, { resource: class { where() { return process.env.LEVER_INSTANCE; } } });
`;
const manifest = JSON.stringify({
  apiVersion: "leveros.dev/v1alpha1",
  kind: "LeverService",
  metadata: { name: "rooms", annotations: { "leveros.dev/dev-command": "exec node main.mjs" } },
  spec: { replicas: 2, ownership: { slots: 16 }, template: { spec: { containers: [{ name: "app" }] } } },
});

const poll = { timeout: 30_000 };

function rowsOf(environment: LocalEnvironment): readonly SlotRow[] {
  return environment.registry.tables.table("dev", "rooms").slots ?? [];
}

function places(environment: LocalEnvironment): string[] {
  return rowsOf(environment).map(({ slot, holder, epoch }) => `${slot} ${holder} ${epoch}`);
}

/** How many holders have how many slots, none of which moves. */
function shares(environment: LocalEnvironment): number[] {
  const counts = new Map<string, number>();
  for (const { holder, isMoving } of rowsOf(environment)) {
    const key = isMoving ? "moving" : holder;
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  return counts.has("") || counts.has("moving") ? [] : [...counts.values()];
}

test.each(["hosted", "process"] as const)("what %s agents hold stays where it is, under its epochs", async (agents) => {
  const directory = mkdtempSync(path.join(tmpdir(), "lever-environment-"));
  writeFileSync(path.join(directory, "main.mjs"), source);
  const manifests = readManifests([{ file: path.join(directory, "rooms.yaml"), content: manifest }]);
  const { plans, problems } = await LocalEnvironment.plan(manifests, {});
  expect([...manifests.problems, ...problems]).toEqual([]);
  const messages: string[] = [];
  const onMessage = (line: string) => messages.push(line);
  const environment = await LocalEnvironment.open({ manifests, env: {}, agents, onMessage }, plans);
  try {
    environment.run();
    await expect.poll(() => shares(environment), poll).toEqual([8, 8]);
    const before = places(environment);
    const address = environment.operatorAddress;
    const { registry } = environment;

    await environment.restartOperator();
    expect(environment.operatorAddress).toBe(address);
    expect(environment.registry).not.toBe(registry);
    await expect.poll(() => places(environment), poll).toEqual(before);

    // The new one leads: an instance that is replaced gives its slots to others.
    const [instance] = environment.localServices[0]?.workload.status() ?? [];
    await environment.evict({ environment: "dev", service: "rooms", instance: instance?.id as string });
    await expect.poll(() => places(environment).join(), poll).not.toContain(instance?.id);
    await expect.poll(() => shares(environment), poll).toEqual([8, 8]);
    expect(messages).toEqual([]);
  } finally {
    await environment.stop();
    rmSync(directory, { recursive: true });
  }
});
