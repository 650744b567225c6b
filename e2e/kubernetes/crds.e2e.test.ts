/** The CRDs as the API server sees them: what it takes, what it refuses, and what kubectl makes of them. */

import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  type InvalidManifest,
  invalidChanges,
  invalidManifests,
} from "../../operator/api/invalid-manifests.fixture.ts";
import { ApiServer, kubectl, kubectlJson, kubectlResult } from "../harness/kubectl.ts";
import { scaleOperator } from "../harness/operator-pods.ts";
import { testNamespace } from "../harness/test-namespace.ts";
import { until } from "../harness/until.ts";

const root = path.resolve(import.meta.dirname, "../..");
const crdDirectory = path.join(root, "crds");
const crdFiles = readdirSync(crdDirectory).map((file) => path.join(crdDirectory, file));
const exampleFiles = readdirSync(path.join(root, "examples"), { recursive: true, encoding: "utf8" })
  .filter((file) => file.endsWith(".yaml") && !file.includes("node_modules"))
  .map((file) => path.join(root, "examples", file));

let namespace: string;
let emptyNamespace: string;
let api: ApiServer;
let crdsBefore: string;
let operatorsBefore: number;

beforeAll(async () => {
  // What is written here into a status is to stay.
  operatorsBefore = await scaleOperator(0);
  crdsBefore = await kubectl(["get", "crds", "--output=name"]);
  namespace = await testNamespace("crds");
  emptyNamespace = await testNamespace("crds-empty");
  api = await ApiServer.open();
});

afterAll(async () => {
  await api?.[Symbol.asyncDispose]();
  // On a cluster that had them they are somebody's.
  const files = crdFiles.map((file) => `--filename=${file}`);
  if (!crdsBefore.includes("leveros.dev")) await kubectl(["delete", ...files, "--ignore-not-found"]);
  await scaleOperator(operatorsBefore);
});

const inNamespace = (...args: string[]) => kubectl([...args, "--namespace", namespace]);

describe("the CRDs", () => {
  test("are applied by kubectl, and once more without a change", async () => {
    const args = ["apply", ...crdFiles.map((file) => `--filename=${file}`)];
    await kubectl(args);
    expect(await kubectl(args)).toBe(
      (await kubectl(["get", ...crdFiles.map((file) => `--filename=${file}`), "--output=name"]))
        .trim()
        .split("\n")
        .map((name) => `${name} unchanged\n`)
        .join(""),
    );
  });

  test("are applied by server-side apply, by another manager too", async () => {
    for (const manager of ["helm", "lever-operator"]) {
      const files = crdFiles.map((file) => `--filename=${file}`);
      await kubectl(["apply", "--server-side", `--field-manager=${manager}`, "--force-conflicts", ...files]);
    }
  });

  test("are established, with every name accepted and no schema that is not structural", async () => {
    const files = crdFiles.map((file) => `--filename=${file}`);
    await kubectl(["wait", "--for=condition=Established", "--timeout=60s", ...files]);
    for (const file of crdFiles) {
      const { status } = await kubectlJson<{ status: { conditions: { type: string; status: string }[] } }>([
        "get",
        `--filename=${file}`,
      ]);
      const conditions = Object.fromEntries(status.conditions.map(({ type, status }) => [type, status]));
      expect(conditions).toMatchObject({ Established: "True", NamesAccepted: "True" });
      expect(conditions["NonStructuralSchema"] ?? "False").toBe("False");
    }
  });
});

const hello = `apiVersion: leveros.dev/v1alpha1
kind: LeverService
metadata: { name: hello }
spec: { template: { spec: { containers: [{ name: app, ports: [{ containerPort: 80 }] }] } } }
`;
const resource = (name = "") => `/apis/leveros.dev/v1alpha1/namespaces/${namespace}/leverservices${name}`;

describe("kubectl", () => {
  test("explains what stands in the schema", async () => {
    // The schema is published a moment after the kind is there.
    await until("explain", async () => (await kubectlResult(["explain", "lsvc"])).exitCode === 0);
    expect(await kubectl(["explain", "lsvc"])).toMatch(/KIND: +LeverService\nVERSION: +v1alpha1\n/);
    const fields = await kubectl(["explain", "lsvc.spec.ownership"]);
    expect(fields).toMatch(/slots\t<integer>\n[^\t]*It never changes/);
    expect(fields).toMatch(/onUncertain\t<string>\n *enum: Wait, Fail, Serve\n/);
    expect(await kubectl(["explain", "lsvc", "--recursive"])).toContain("timeoutMilliseconds\t<integer>");
  });

  test("gets defaults filled in, and what the pod template says beside", async () => {
    await kubectl(["apply", "--namespace", namespace, "--filename=-"], { input: hello });
    const { spec } = await kubectlJson<{ spec: unknown }>(["get", "lsvc/hello", "--namespace", namespace]);
    expect(spec).toEqual({
      replicas: 1,
      template: { spec: { containers: [{ name: "app", ports: [{ containerPort: 80 }] }] } },
      access: { callers: [], gateway: { expose: "None" } },
      methods: [],
      limits: {
        argsBytes: "1Mi",
        resultBytes: "1Mi",
        messageBytes: "16Mi",
        inFlightPerInstance: 1000,
        channelsPerInstance: 10_000,
      },
    });
    await kubectl([
      "patch",
      "lsvc/hello",
      "--namespace",
      namespace,
      "--type=merge",
      "--patch",
      '{"spec":{"ownership":{}}}',
    ]);
    const owned = await kubectlJson<{ spec: { ownership: unknown } }>(["get", "lsvc/hello", "--namespace", namespace]);
    expect(owned.spec.ownership).toEqual({
      slots: 256,
      onUncertain: "Wait",
      onLapse: "Abort",
      leaseSeconds: 15,
      idleSeconds: 180,
    });
  });

  test("knows the kind by every name, and in the categories", async () => {
    for (const name of ["lsvc", "leverservice", "leverservices", "leverservices.leveros.dev", "lever"]) {
      expect(await inNamespace("get", name, "--output=name")).toBe("leverservice.leveros.dev/hello\n");
    }
  });

  test("shows what people look for", async () => {
    const status = {
      readyReplicas: 2,
      replicas: 3,
      conditions: [
        {
          type: "Ready",
          status: "False",
          reason: "ImagePullFailed",
          message: "no such image",
          lastTransitionTime: "2026-01-01T00:00:00Z",
        },
      ],
    };
    const answer = await api.request(
      "PATCH",
      resource("/hello/status"),
      JSON.stringify({ status }),
      "application/merge-patch+json",
    );
    expect(answer.status).toBe(200);
    const [header, row] = (await inNamespace("get", "lsvc")).split("\n");
    expect(header?.split(/ {2,}/).map((cell) => cell.trim())).toEqual(["NAME", "READY", "INSTANCES", "DESIRED", "AGE"]);
    expect(row).toMatch(/^hello +False +2 +1 +\d+s$/);
    expect((await inNamespace("get", "lsvc", "--output=wide")).split("\n")[1]).toMatch(/ImagePullFailed/);
  });

  test("scales, and nothing else of the service changes", async () => {
    const read = () => kubectlJson<{ spec: { replicas: number } }>(["get", "lsvc/hello", "--namespace", namespace]);
    const before = await read();
    await inNamespace("scale", "lsvc/hello", "--replicas=5");
    expect((await read()).spec).toEqual({ ...before.spec, replicas: 5 });
    const refused = await kubectlResult(["scale", "lsvc/hello", "--replicas=1001", "--namespace", namespace]);
    expect(refused.exitCode).not.toBe(0);
    expect(refused.stderr).toContain("spec.replicas");
    expect((await read()).spec.replicas).toBe(5);
  });

  test("keeps what a status may not say out", async () => {
    const set = (status: unknown) =>
      api.request("PATCH", resource("/hello/status"), JSON.stringify({ status }), "application/merge-patch+json");
    expect((await set({ readyReplicas: -1 })).status).toBe(422);
    expect((await set({ conditions: [{ type: "Ready", status: "Yes" }] })).status).toBe(422);
    // The status is written by its subresource only, and the spec by the object only.
    await inNamespace("patch", "lsvc/hello", "--type=merge", "--patch", '{"status":{"readyReplicas":9}}');
    const { status } = await kubectlJson<{ status: { readyReplicas: number } }>([
      "get",
      "lsvc/hello",
      "--namespace",
      namespace,
    ]);
    expect(status.readyReplicas).toBe(2);
  });
});

describe("every example", () => {
  test.each(exampleFiles.map((file) => [path.relative(root, file), file] as const))(
    "%s is accepted",
    async (_, file) => {
      await inNamespace("apply", "--dry-run=server", `--filename=${file}`);
      await inNamespace("apply", `--filename=${file}`);
    },
  );
});

interface Refusal {
  readonly message: string;
  readonly details?: { readonly causes?: readonly { readonly field?: string }[] };
}

const strictly = "dryRun=All&fieldValidation=Strict&fieldManager=e2e";

/** What the refusal of an invalid manifest has to say; another one would show nothing about its rule. */
function namedProblem({ rule, path }: InvalidManifest): { readonly field?: string; readonly text?: string } {
  // Read before there is an object whose fields could be named.
  if (rule === "wrong-api-version") return { text: "the API version in the data" };
  if (path === "metadata") return rule === "field-type" ? { text: "ObjectMeta" } : { field: "metadata.name" };
  if (path.startsWith("metadata.") && rule === "field-type") return { text: `ObjectMeta.${path.split(".")[1]} ` };
  // A namespace of such a name cannot be.
  if (path === "metadata.namespace") return { text: "the namespace of the provided object does not match" };
  if (rule === "unknown-field") return { text: `unknown field "${path}"` };
  if (rule === "list-map") return { field: path.replace(/\.\w+$/, "") };
  return { field: path };
}

describe("every invalid manifest is refused", () => {
  // Those of the examples are there already.
  const resource = () => `/apis/leveros.dev/v1alpha1/namespaces/${emptyNamespace}/leverservices`;
  const judged = invalidManifests.filter((entry) => entry.onlyLocal === undefined);
  const onlyLocal = invalidManifests.filter((entry) => entry.onlyLocal !== undefined);

  test("and there are many, of which few are refused locally only", () => {
    expect(judged.length).toBeGreaterThanOrEqual(200);
    expect(onlyLocal.length).toBeLessThan(5);
  });

  test.each(judged.map((entry) => [entry.rule, entry.path, entry] as const))("%s: %s", async (_, __, entry) => {
    const { status, body } = await api.request("POST", `${resource()}?${strictly}`, entry.text);
    expect(status, `${entry.text}\n${JSON.stringify(body)}`).toBeOneOf([400, 422]);
    const { field, text } = namedProblem(entry);
    const { message, details } = body as Refusal;
    const fields = (details?.causes ?? []).map((cause) => cause.field);
    // Maps where lists belong are read as objects whose fields nobody knows.
    const isRead = !message.includes(`unknown field "${entry.path}.`);
    if (field !== undefined && isRead) expect(fields, message).toContain(field);
    if (text !== undefined) expect(message).toContain(text);
  });

  test.each(onlyLocal.map((entry) => [entry.rule, entry.path, entry.onlyLocal, entry] as const))(
    "but %s: %s, since %s",
    async (_, __, ___, entry: InvalidManifest) => {
      const { status, body } = await api.request("POST", `${resource()}?${strictly}`, entry.text);
      expect(status, JSON.stringify(body)).toBe(201);
    },
  );

  test("by kubectl, with the message that says what to do", async () => {
    const entry = invalidManifests.find(({ rule }) => rule === "app-container-exists") as InvalidManifest;
    const { exitCode, stderr } = await kubectlResult(["apply", "--namespace", namespace, "--filename=-"], {
      input: entry.text,
    });
    expect(exitCode).toBe(1);
    expect(stderr).toMatch(
      /spec\.appContainer: .*expected the name of one of spec\.template\.spec\.containers\. Correct/,
    );
    const unknown = await kubectlResult(["apply", "--namespace", namespace, "--filename=-"], {
      input: hello.replace("spec: {", "spec: { replica: 3,"),
    });
    expect(unknown.stderr).toContain('unknown field "spec.replica"');
  });
});

describe("every invalid change is refused", () => {
  test.each(invalidChanges.map((entry, index) => [entry.rule, entry.path, index, entry] as const))(
    "%s: %s (%d)",
    async (_, field, __, entry) => {
      await kubectl(["delete", "lsvc/chat", "--namespace", namespace, "--ignore-not-found"]);
      await kubectl(["apply", "--namespace", namespace, "--filename=-"], { input: entry.before });
      const { exitCode, stderr } = await kubectlResult(["apply", "--namespace", namespace, "--filename=-"], {
        input: entry.text,
      });
      expect(exitCode, stderr).toBe(1);
      expect(stderr).toContain(field);
    },
  );
});

test("the examples and the refused manifests are those of the tree", () => {
  expect(exampleFiles.length).toBeGreaterThan(4);
  expect(crdFiles.every((file) => readFileSync(file, "utf8").includes("CustomResourceDefinition"))).toBe(true);
});
