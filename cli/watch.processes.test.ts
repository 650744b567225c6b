/** `lever dev --watch`: changed sources and manifests take effect under calls, none of which fails. */

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { Client } from "leveros";
import { afterAll, beforeAll, expect, test } from "vitest";
import { until } from "../e2e/harness/until.ts";
import { leverCommand, type RunningCommand, root } from "./running-command.fixture.ts";
import { type SteadyCalls, steadyCalls } from "./steady-calls.fixture.ts";

const library = pathToFileURL(path.join(root, "clients/node/index.ts")).href;

let directory: string;
let command: RunningCommand;
let client: Client;

interface Spec {
  readonly namespace?: string;
  readonly replicas?: number;
  readonly ownership?: object;
}

function writeManifest(name: string, { namespace = "dev", ...spec }: Spec = {}): void {
  const manifest = {
    apiVersion: "leveros.dev/v1alpha1",
    kind: "LeverService",
    metadata: { name, namespace, annotations: { "leveros.dev/dev-command": "exec node main.mjs" } },
    spec: { replicas: 2, template: { spec: { containers: [{ name: "app", image: "example.org/app:1" }] } }, ...spec },
  };
  mkdirSync(path.join(directory, name), { recursive: true });
  writeFileSync(path.join(directory, name, "service.yaml"), JSON.stringify(manifest));
}

function writeSource(name: string, version: string, before = ""): void {
  const source = `import { serve } from "${library}";\n${before}\nawait serve({ version() { return ${JSON.stringify(version)}; } });\n`;
  mkdirSync(path.join(directory, name), { recursive: true });
  writeFileSync(path.join(directory, name, "main.mjs"), source);
}

/** Calls while `change` is made, and until one caller has seen `version` only for a while. */
async function callsUntil(version: string, change: () => void): Promise<SteadyCalls> {
  return steadyCalls(client, "/app/version", [], async () => {
    change();
    let inARow = 0;
    await until(`only ${version} answers`, async () => {
      inARow = (await client.invoke("/app/version")) === version ? inARow + 1 : 0;
      return inARow > 20;
    });
  });
}

beforeAll(async () => {
  directory = mkdtempSync(path.join(tmpdir(), "lever-watch-"));
  writeSource("app", "one");
  writeManifest("app");
  writeSource("other", "other");
  writeManifest("other", { namespace: "blog" });
  const folders = ["-f", path.join(directory, "app"), "-f", path.join(directory, "other")];
  command = leverCommand(["dev", "--watch", "--http-port", "0", "--port", "0", ...folders]);
  await command.shows("Lever is up");
  const gateway = /client libraries (\S+)/.exec(command.stdout)?.[1] as string;
  client = new Client({ gateway, environment: "dev" });
});
afterAll(async () => {
  await client[Symbol.asyncDispose]();
  command.signal("SIGTERM");
  await command.exited;
  command[Symbol.dispose]();
  rmSync(directory, { recursive: true });
});

test("two folders, two environments", async () => {
  expect(await client.invoke("lever://dev/app/version")).toBe("one");
  expect(await client.invoke("lever://blog/other/version")).toBe("other");
});

test("a changed source: new instances, and no call fails", async () => {
  const { calls, failures, results } = await callsUntil("two", () => writeSource("app", "two"));
  expect({ failures, calls: calls > 20, results: [...results].sort() }).toEqual({
    failures: [],
    calls: true,
    results: ["one", "two"],
  });
  await command.shows("dev/app: main.mjs has changed: its instances are replaced, one after the other.");
  expect(command.output).not.toContain("blog/other: ");
});

test("a source that does not come up: what runs goes on, and the next change is taken", async () => {
  const { failures } = await steadyCalls(client, "/app/version", [], async () => {
    writeSource("app", "broken", "throw new Error('a slip of the pen');");
    await command.shows(/app: the replacement app-1-\w{4} did not come up: .* app-1-\w{4} goes on as it was\./);
    expect(await client.invoke("/app/version")).toBe("two");
  });
  expect(failures).toEqual([]);
  expect((await callsUntil("three", () => writeSource("app", "three"))).failures).toEqual([]);
});

test("a changed manifest: replicas, new services, and those that are gone", async () => {
  const { failures } = await steadyCalls(client, "/app/version", [], async () => {
    writeManifest("app", { replicas: 3 });
    await command.shows("dev/app has 3 instances from now on.");
    await command.shows(/app-3-\w{4} serves version/);
    mkdirSync(path.join(directory, "app/more"));
    writeSource("app/more", "more");
    writeFileSync(
      path.join(directory, "app/more/service.yaml"),
      "apiVersion: leveros.dev/v1alpha1\nkind: LeverService\nmetadata: { name: more, annotations: { leveros.dev/dev-command: exec node main.mjs } }\n" +
        "spec: { template: { spec: { containers: [{ name: app }] } } }\n",
    );
    await command.shows("dev/more is new: 1 instance.");
    await until("it answers", () => client.invoke("/more/version").catch(() => false));
    rmSync(path.join(directory, "app/more"), { recursive: true });
    await command.shows("dev/more is gone from the manifests: its instances end.");
    await until("it is gone", () =>
      client.invoke("/more/version").then(
        () => false,
        (error: Error) => error.message.includes("more"),
      ),
    );
  });
  expect(failures).toEqual([]);
});

test("a manifest with a problem, or that changes what never changes, is refused; what runs goes on", async () => {
  writeManifest("app", { replicas: -3 });
  await command.shows(
    /service\.yaml:1:\d+ spec\.replicas: found -3, .*\n1 problem in the manifests; what runs goes on/,
  );
  writeManifest("app", { replicas: 3, ownership: { slots: 16 } });
  await command.shows("dev/app now holds resources: it begins anew.");
  await until("it answers again", () => client.invoke("/app/version").catch(() => false));
  writeManifest("app", { replicas: 3, ownership: { slots: 17 } });
  await command.shows(/spec\.ownership\.slots: found 17 where it was 16, expected .*never changes/);
  expect(await client.invoke("/app/version")).toBe("three");
});
