/**
 * Two environments and a gateway on one machine: who reaches what is what `spec.access` says, a change of it applies
 * while everything runs, and what is said of a refused call is compared with what was entered.
 */

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { LeverDev, root } from "../harness/lever-dev.ts";
import { until } from "../harness/until.ts";

const main = path.join(root, "e2e/fixtures/access/main.ts");
const vault = "lever://dev/vault";
const allowed = ["ok", "ok", "ok", "ok"];
const denied = Array(4).fill("none PERMISSION_DENIED PERMISSION_DENIED");
const friend = { callers: [{ namespace: "billing", service: "friend" }] };
const peek = { gateway: { expose: "Public", methods: ["peek"] } };

let directory: string;
beforeAll(() => {
  directory = mkdtempSync(path.join(tmpdir(), "lever-access-"));
});
afterAll(() => rmSync(directory, { recursive: true }));

function write(namespace: string, name: string, access: object): void {
  const manifest = {
    apiVersion: "leveros.dev/v1alpha1",
    kind: "LeverService",
    metadata: { name, namespace, annotations: { "leveros.dev/dev-command": `exec node ${main}` } },
    spec: {
      template: { spec: { containers: [{ name: "app", image: "example.org/access:1" }] } },
      ...(name === "vault" && { ownership: {} }),
      access,
    },
  };
  writeFileSync(path.join(directory, `${name}.yaml`), JSON.stringify(manifest));
}

/** The vault in dev; a friend and a stranger elsewhere, a neighbour beside it, all of which the test reaches. */
function writeAll(access: object): void {
  write("dev", "vault", access);
  const open = { gateway: { expose: "Public" } };
  for (const [namespace, name] of [
    ["billing", "friend"],
    ["billing", "stranger"],
    ["dev", "neighbour"],
  ] as const) {
    write(namespace, name, open);
  }
}

const callers = ["lever://billing/friend", "lever://billing/stranger", "lever://dev/neighbour"];

async function post(dev: LeverDev, target: string): Promise<string> {
  const response = await fetch(`${dev.httpUrl}${target}`, {
    method: "POST",
    headers: { "content-type": "application/json" },
  });
  return `${response.status} ${response.headers.get("lever-reason")}: ${await response.text()}`;
}

test.each(["process", "hosted"] as const)(
  "as the manifests say, and as they say later (agents: %s)",
  async (agents) => {
    writeAll({ ...friend, ...peek });
    await using dev = await LeverDev.start({ agents, manifests: [directory], flags: ["--watch", "--only-exposed"] });
    await using client = dev.client();
    const reach = (caller: string) => client.invoke<string[]>(`${caller}/reach`, [vault]);
    const pids = dev.apps().map(({ pid }) => pid);

    expect(await Promise.all(callers.map(reach))).toEqual([allowed, denied, allowed]);
    expect(dev.log.enteredWith("vault")).toBe(8);
    expect(await post(dev, "/vault/peek?forceenv=dev")).toMatch(/^200 /);
    const [hidden, missing] = [
      await post(dev, "/vault/take?forceenv=dev"),
      await post(dev, "/nosuch/take?forceenv=dev"),
    ];
    expect(hidden).toMatch(/^404 SERVICE_NOT_FOUND/);
    expect(hidden.replaceAll("vault", "nosuch")).toBe(missing);
    await expect(client.invoke(`${vault}/take`)).rejects.toMatchObject({ reason: "SERVICE_NOT_FOUND", effect: "none" });
    expect(dev.log.enteredWith("vault")).toBe(9);

    // A token that is known elsewhere too gets nothing of what a call from here came to; one from here does.
    for (const caller of callers.filter((_, at) => at !== 1)) {
      for (const base of [vault, `${vault}/drawer-2`]) {
        for (const _ of ["first", "repeat"]) await client.invoke(`${caller}/takeWith`, [base, "order-1"]);
      }
    }
    expect(dev.log.enteredWith("vault")).toBe(13);

    await client.invoke("lever://billing/friend/hold", [vault]);
    write("dev", "vault", {});
    await until(
      "the friend is none any more",
      async () => (await reach(callers[0] as string)).join() === denied.join(),
    );
    const entered = dev.log.enteredWith("vault");
    expect(await Promise.all(callers.map(reach))).toEqual([denied, denied, allowed]);
    expect(await post(dev, "/vault/peek?forceenv=dev")).toMatch(/^404 /);
    expect(dev.log.enteredWith("vault")).toBe(entered + 4);
    // A channel that was open goes on.
    expect(await client.invoke("lever://billing/friend/say", ["still here"])).toBe("still here");

    write("dev", "vault", { callers: [{ namespace: "billing" }] });
    await until(
      "all of billing are friends",
      async () => (await reach(callers[1] as string)).join() === allowed.join(),
    );
    expect(dev.apps().map(({ pid }) => pid)).toEqual(pids);
  },
);

test("the gateway of lever dev serves everything unless it is told not to; other environments are kept out", async () => {
  writeAll({});
  await using dev = await LeverDev.start({ manifests: [directory] });
  await using client = dev.client();
  expect(await post(dev, "/vault/take?forceenv=dev")).toMatch(/^200 /);
  expect(await client.invoke(`${vault}/take`)).toBeNull();
  const reach = (caller: string) => client.invoke<string[]>(`${caller}/reach`, [vault]);
  expect(await Promise.all(callers.map(reach))).toEqual([denied, denied, allowed]);
  expect(dev.log.enteredWith("vault")).toBe(6);
});
