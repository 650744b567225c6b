/** The life of an installation: installed, upgraded, rolled back, uninstalled, installed again, with a service in it. */

import { beforeAll, describe, expect, test } from "vitest";
import { kubectl, kubectlJson, kubectlResult } from "../harness/kubectl.ts";
import { exampleManifest, fixtureManifest, imageIds, leverImage, nextTag } from "../harness/lever-images.ts";
import {
  chartDirectory,
  helm,
  helmResult,
  installFlags,
  installLever,
  leverNamespace,
} from "../harness/lever-install.ts";
import { callFrom, podsOf, type ServicePod, waitReady } from "../harness/service-pods.ts";
import { testNamespace } from "../harness/test-namespace.ts";
import { until } from "../harness/until.ts";

let namespace: string;

const inLever = (...args: string[]) => kubectl([...args, "--namespace", leverNamespace]);
const readLever = <Value>(...args: string[]) => kubectlJson<Value>(["get", ...args, "--namespace", leverNamespace]);

async function partPods(component: string): Promise<ServicePod[]> {
  type Listed = ServicePod & { readonly metadata: { readonly deletionTimestamp?: string } };
  const { items } = await readLever<{ items: Listed[] }>(
    "pods",
    "--selector",
    `app.kubernetes.io/component=${component}`,
  );
  return items.filter((pod) => pod.metadata.deletionTimestamp === undefined);
}

const uids = (pods: readonly ServicePod[]) => pods.map((pod) => pod.metadata.uid).sort();
const secretData = async () =>
  (await readLever<{ data?: Readonly<Record<string, string>> }>("secret/lever-identity")).data;

interface Lease {
  readonly spec: { readonly holderIdentity?: string; readonly leaseTransitions: number };
}
const lease = () => readLever<Lease>("lease/lever-operator");

async function call(): Promise<unknown> {
  const [caller] = await podsOf(namespace, "caller");
  return callFrom(namespace, (caller as ServicePod).metadata.name, "/hello/sayHello", "world");
}

beforeAll(async () => {
  await installLever();
  namespace = await testNamespace("install");
  await kubectl(["apply", "--namespace", namespace, "--filename=-"], { input: exampleManifest("hello") });
  await kubectl(["apply", "--namespace", namespace, "--filename=-"], { input: fixtureManifest("caller/caller.yaml") });
  await waitReady(namespace, "hello");
  await waitReady(namespace, "caller");
});

describe("an installation", () => {
  test.each(["operator", "gateway"])("two replicas of the %s are ready, on a node each, of the image", async (name) => {
    const pods = await partPods(name);
    expect(pods).toHaveLength(2);
    if (Object.keys(imageIds).length === 0) return;
    expect(new Set(pods.map((pod) => pod.spec.nodeName)).size).toBe(2);
    for (const { status } of pods) {
      expect(status.containerStatuses).toHaveLength(1);
      expect(status.containerStatuses[0]).toMatchObject({ ready: true, imageID: imageIds[leverImage(name)] });
    }
  });

  test("has a leader, and an identity of its own making", async () => {
    expect((await lease()).spec.holderIdentity).toMatch(/^lever-operator-/);
    expect(Object.keys((await secretData()) ?? {})).toEqual(expect.arrayContaining(["ca.crt", "tls.crt", "tls.key"]));
  });

  test("says what to do next", async () => {
    const notes = await helm(["get", "notes", "lever", "--namespace", leverNamespace]);
    expect(notes).toContain("kubectl apply -f examples/hello/hello.yaml");
    expect(notes).toContain("# operator: 2, gateway: 2, all ready");
    expect(notes).toContain("kubectl get lsvc");
  });

  test("there is room for one in a cluster", async () => {
    const other = await testNamespace("second");
    const { exitCode, stderr } = await helmResult(["install", "second", chartDirectory, "--namespace", other]);
    expect(exitCode).not.toBe(0);
    expect(stderr).toMatch(/exists and cannot be imported into the current release/);
  });
});

describe("rights", () => {
  async function can(who: string, verb: string, what: string, ...where: string[]): Promise<boolean> {
    const { stdout } = await kubectlResult(["auth", "can-i", verb, what, `--as=${who}`, ...where]);
    return stdout.trim() === "yes";
  }
  const operator = `system:serviceaccount:${leverNamespace}:lever-operator`;
  const gateway = `system:serviceaccount:${leverNamespace}:lever-gateway`;

  test("of the operator: what it needs", async () => {
    expect(await can(operator, "patch", "deployments.apps", "--namespace", namespace)).toBe(true);
    expect(await can(operator, "get", "secrets/lever-identity", "--namespace", leverNamespace)).toBe(true);
  });

  test.each([
    ["get", "secrets"],
    ["get", "secrets/other"],
    ["create", "secrets"],
    ["create", "pods"],
    ["delete", "pods"],
    ["create", "pods/exec"],
    ["delete", "deployments.apps"],
    ["delete", "leverservices.leveros.dev"],
    ["create", "clusterrolebindings.rbac.authorization.k8s.io"],
    ["escalate", "clusterroles.rbac.authorization.k8s.io"],
    ["impersonate", "users"],
  ])("of the operator: not to %s %s", async (verb, what) => {
    for (const where of [namespace, leverNamespace, "kube-system"]) {
      expect(await can(operator, verb, what, "--namespace", where)).toBe(false);
    }
  });

  test("of the gateway: none", async () => {
    for (const what of ["pods", "secrets", "leverservices.leveros.dev", "configmaps"]) {
      expect(await can(gateway, "get", what, "--namespace", leverNamespace)).toBe(false);
    }
  });

  test("of people are parts of the cluster's roles", async () => {
    for (const role of ["view", "edit"]) {
      const args = [`--clusterrole=${role}`, `--user=${role}er`, "--namespace", namespace];
      await kubectl(["create", "rolebinding", `${role}er`, ...args]);
    }
    const lsvc = "leverservices.leveros.dev";
    const table = "leverendpointtables.leveros.dev";
    // The cluster's roles get their parts a moment after those are there.
    await until("the aggregated roles", () => can("viewer", "list", lsvc, "--namespace", namespace));
    expect(await can("viewer", "list", table, "--namespace", namespace)).toBe(true);
    expect(await can("viewer", "create", lsvc, "--namespace", namespace)).toBe(false);
    expect(await can("editer", "create", lsvc, "--namespace", namespace)).toBe(true);
    expect(await can("editer", "patch", "leverservices.leveros.dev/scale", "--namespace", namespace)).toBe(true);
    for (const verb of ["create", "update", "patch", "delete"]) {
      expect(await can("editer", verb, table, "--namespace", namespace), verb).toBe(false);
    }
  });
});

describe("an upgrade", () => {
  test("without a change restarts nothing, and leaves the Secret and the Lease as they are", async () => {
    const before = [uids(await partPods("operator")), uids(await partPods("gateway")), await secretData()];
    const { holderIdentity, leaseTransitions } = (await lease()).spec;
    await installLever();
    expect([uids(await partPods("operator")), uids(await partPods("gateway")), await secretData()]).toEqual(before);
    expect((await lease()).spec).toMatchObject({ holderIdentity, leaseTransitions });
  });

  test("restarts what it changes alone", async () => {
    const operators = uids(await partPods("operator"));
    const gateways = uids(await partPods("gateway"));
    await installLever(["gateway.bodyBytesMax=1048576", "operator.podDisruptionBudget.enabled=false"]);
    expect(uids(await partPods("operator"))).toEqual(operators);
    for (const uid of uids(await partPods("gateway"))) expect(gateways).not.toContain(uid);
    expect((await kubectlResult(["get", "pdb/lever-operator", "--namespace", leverNamespace])).exitCode).not.toBe(0);
  });

  test("of the operator replaces its pods, none of services; a rollback brings the former back", async () => {
    const hello = uids(await podsOf(namespace, "hello"));
    const data = await secretData();
    const revision = await helm(["list", "--namespace", leverNamespace, "--output=json"]);
    const [{ revision: before }] = JSON.parse(revision) as [{ revision: string }];
    const runs = async (tag: string) => {
      for (const pod of await partPods("operator")) {
        const id = imageIds[leverImage("operator", tag)];
        if (id !== undefined) expect(pod.status.containerStatuses[0]?.imageID).toBe(id);
      }
    };
    await installLever([`operator.image.tag=${nextTag}`, `agent.image.tag=${nextTag}`]);
    await runs(nextTag);
    expect(await call()).toEqual({ value: "Hello, world!" });
    await helm(["rollback", "lever", before, "--namespace", leverNamespace, "--wait", "--timeout=120s"]);
    await runs(leverImage("operator").split(":").at(-1) as string);
    await until("a leader", async () => ((await lease()).spec.holderIdentity ?? "") !== "");
    expect(await call()).toEqual({ value: "Hello, world!" });
    expect(await secretData()).toEqual(data);
    await waitReady(namespace, "hello");
    expect(uids(await podsOf(namespace, "hello"))).toEqual(hello);
  });
});

describe("uninstalling", () => {
  test("takes Lever's programs away; services, their kinds and the CA stay, and calls go on", async () => {
    const hello = uids(await podsOf(namespace, "hello"));
    const data = await secretData();
    await helm(["uninstall", "lever", "--namespace", leverNamespace, "--wait"]);
    await until("no pods of Lever", async () => (await inLever("get", "pods", "--output=name")).trim() === "", 60_000);
    expect(await kubectl(["get", "crd", "--output=name"])).toContain("leverservices.leveros.dev");
    expect(await kubectl(["get", "lsvc", "--namespace", namespace, "--output=name"])).toContain("/hello");
    expect(await kubectl(["get", "clusterrole", "--output=name"])).not.toContain("/lever-");
    expect(await secretData()).toEqual(data);
    expect((await lease()).spec.leaseTransitions).toBeGreaterThan(0);
    expect(uids(await podsOf(namespace, "hello"))).toEqual(hello);
    expect(await call()).toEqual({ value: "Hello, world!" });
  });

  test("and installing again goes on with all of that", async () => {
    const hello = uids(await podsOf(namespace, "hello"));
    const data = await secretData();
    const { leaseTransitions } = (await lease()).spec;
    await helm(["install", "lever", chartDirectory, ...installFlags()]);
    expect(await secretData()).toEqual(data);
    await until("a leader of a later term", async () => (await lease()).spec.leaseTransitions > leaseTransitions);
    await kubectl(["scale", "lsvc/hello", "--replicas=3", "--namespace", namespace]);
    await until("three instances", async () => (await podsOf(namespace, "hello")).length === 3);
    await waitReady(namespace, "hello");
    expect(uids(await podsOf(namespace, "hello"))).toEqual(expect.arrayContaining(hello));
    expect(await call()).toEqual({ value: "Hello, world!" });
  });
});

describe("a release in its first revision", () => {
  const args = ["--namespace", leverNamespace, "--wait", "--timeout=60s"];
  const last = async () => {
    const text = await helm(["history", "lever", "--namespace", leverNamespace, "--max=1", "--output=json"]);
    return (JSON.parse(text) as { revision: number; status: string; description: string }[]).at(-1);
  };
  const state = async () => {
    const { holderIdentity, leaseTransitions } = (await lease()).spec;
    return {
      pods: [uids(await partPods("operator")), uids(await partPods("gateway"))],
      data: await secretData(),
      holderIdentity,
      leaseTransitions,
    };
  };
  let before: Awaited<ReturnType<typeof state>>;

  beforeAll(async () => {
    expect(await last()).toMatchObject({ revision: 1, status: "deployed" });
    before = await state();
  });

  test("an upgrade --atomic that fails goes back to it", async () => {
    const flags = [...installFlags(["operator.image.tag=missing"]), "--timeout=20s", "--atomic"];
    const { exitCode, stderr } = await helmResult(["upgrade", "lever", chartDirectory, ...flags]);
    expect(exitCode).not.toBe(0);
    expect(stderr).toContain("has been rolled back due to atomic being set");
    expect(await last()).toMatchObject({ revision: 3, status: "deployed", description: "Rollback to 1" });
    // What of the failed one has been started goes a moment later.
    await expect.poll(state, { timeout: 30_000 }).toEqual(before);
    expect(await call()).toEqual({ value: "Hello, world!" });
  });

  test("a rollback goes back to it", async () => {
    await installLever(["operator.podDisruptionBudget.enabled=false"]);
    await helm(["rollback", "lever", "1", ...args]);
    expect(await last()).toMatchObject({ revision: 5, status: "deployed", description: "Rollback to 1" });
    await inLever("get", "pdb/lever-operator");
    expect(await state()).toEqual(before);
  });
});
