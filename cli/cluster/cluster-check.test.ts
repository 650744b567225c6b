/** `lever check` and `lever check --pre` against a cluster whose parts are broken one at a time. */

import { type Listener, listenTcp } from "@leveros/agent/host/socket.ts";
import { customKinds, customResourceDefinition } from "@leveros/operator/api/crd.ts";
import { OperatorServer } from "@leveros/operator/discovery/operator-server.ts";
import { makeAuthority } from "@leveros/operator/identity/authority.ts";
import {
  deployments,
  type KubeObject,
  leases,
  leverServices,
  pods,
  resourceKind,
} from "@leveros/operator/kube/kube-object.ts";
import { runtimeClock } from "@leveros/protocol/clock/runtime-clock.ts";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { CheckList } from "../check-list.ts";
import { version } from "../version.ts";
import { customResourceDefinitions } from "./api-server-checks.ts";
import { clusterChecks } from "./cluster-check.ts";
import { KubeServer } from "./kube-server.fixture.ts";

const review = "POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

let kube: KubeServer;
const open: (OperatorServer | Listener)[] = [];

beforeEach(async () => {
  kube = await KubeServer.start();
  kube.answers.set("GET /version", () => ({ gitVersion: "v1.34.1" }));
  kube.answers.set(review, () => ({ kind: "SelfSubjectAccessReview", status: { allowed: true } }));
});
afterEach(() => {
  for (const each of open.splice(0)) each.close();
  kube[Symbol.dispose]();
});

/** `mark category: what` of each, and what to do about those that are not well. */
async function checked(
  isPre = false,
  namespace?: string,
): Promise<{ isOk: boolean; lines: string[]; hints: string[] }> {
  const list = new CheckList();
  await clusterChecks(list, { kubeconfig: kube.kubeconfig, ...(namespace !== undefined && { namespace }) }, isPre);
  const mark = (isOk: boolean, isWarning: boolean) => (isOk ? "√" : isWarning ? "‼" : "×");
  return {
    isOk: list.isOk,
    lines: list.checks.map(({ category, what, isOk, isWarning }) => `${mark(isOk, isWarning)} ${category}: ${what}`),
    hints: list.checks.flatMap(({ hint }) => hint ?? []),
  };
}

const failed = async (isPre = false) => {
  const { lines, hints, isOk } = await checked(isPre);
  return { isOk, lines: lines.filter((line) => !line.startsWith("√")), hints };
};

function installDefinitions(): void {
  for (const kind of customKinds) {
    kube.api.put(customResourceDefinitions, customResourceDefinition(kind) as KubeObject);
  }
}

describe("--pre", () => {
  test("all is well on an empty cluster", async () => {
    const { isOk, lines } = await checked(true);
    expect(isOk).toBe(true);
    expect(lines.every((line) => line.startsWith("√"))).toBe(true);
    expect(lines).toContain("√ rights-to-install: you may create namespace lever-system");
    expect(lines).toContain("√ lever-crds: leverservices.leveros.dev is free, or this version's");
  });

  test("no API server", async () => {
    kube.stop();
    expect((await failed(true)).lines).toEqual(["× kubernetes-api: the API server of context test answers"]);
  });

  test("an old Kubernetes", async () => {
    kube.answers.set("GET /version", () => ({ gitVersion: "v1.28.9" }));
    const { isOk, lines } = await failed(true);
    expect(isOk).toBe(false);
    expect(lines).toEqual(["× kubernetes-api: Kubernetes v1.28.9 has native sidecars (1.29 or later)"]);
  });

  test("no rights", async () => {
    kube.answers.set(review, (body) => {
      const { resourceAttributes } = (body as { spec: { resourceAttributes: { resource: string; verb: string } } })
        .spec;
      const { resource, verb } = resourceAttributes;
      return { status: { allowed: resource !== "clusterroles" && !(resource === "nodes" && verb === "watch") } };
    });
    const { lines, hints } = await failed(true);
    expect(lines).toEqual([
      "× rights-to-install: you may create CRDs and cluster roles",
      "× rights-to-install: you may grant the operator its rights",
    ]);
    expect(hints[0]).toMatch(/^You may not get\/create\/patch\/delete clusterroles\.rbac\.authorization\.k8s\.io\./);
    expect(hints[1]).toMatch(/^You may not watch nodes\./);
  });

  test.each<[string, (asked: Record<string, string>) => boolean, string[]]>([
    [
      "a right that a role grants in the cluster",
      ({ resource, name, verb }) => resource === "configmaps" && name === "lever-trust" && verb === "delete",
      ["delete configmaps lever-trust"],
    ],
    [
      "one that it grants in the namespace",
      ({ resource, namespace, verb }) => resource === "leases" && namespace === "lever-system" && verb === "create",
      ["create leases.coordination.k8s.io"],
    ],
    [
      "a subresource",
      ({ resource, subresource }) => resource === "leverservices" && subresource === "finalizers",
      ["update leverservices/finalizers.leveros.dev"],
    ],
    [
      "Helm's own Secrets",
      ({ resource, name, verb }) => resource === "secrets" && name === undefined && verb === "list",
      ["list secrets"],
    ],
  ])("without %s", async (_, isRefused, missing) => {
    const refuse = (refuses: (asked: Record<string, string>) => boolean) =>
      kube.answers.set(review, (body) => {
        const { resourceAttributes } = (body as { spec: { resourceAttributes: Record<string, string> } }).spec;
        return { status: { allowed: !refuses(resourceAttributes) } };
      });
    // Nor may one bind, or grant what one does not have.
    refuse((asked) => asked["verb"] === "bind" || isRefused(asked));
    expect((await failed(true)).hints).toEqual(missing.map((what) => expect.stringContaining(`You may not ${what}.`)));
    // The other way round it is of no use.
    refuse((asked) => asked["verb"] === "escalate" || isRefused(asked));
    expect((await failed(true)).isOk).toBe(false);
  });

  test("who may grant and bind anything need not have the rights", async () => {
    kube.answers.set(review, (body) => {
      const { resource, verb } = (body as { spec: { resourceAttributes: Record<string, string> } }).spec
        .resourceAttributes;
      return { status: { allowed: resource !== "leases" && verb !== "watch" } };
    });
    expect((await failed(true)).isOk).toBe(true);
  });

  test("a namespace that is Lever's already, and CRDs of another version", async () => {
    kube.api.put(
      { ...resourceKind("", "v1", "Namespace", "namespaces"), isNamespaced: false },
      {
        metadata: { name: "lever-system", labels: { "pod-security.kubernetes.io/enforce": "restricted" } },
      },
    );
    kube.operatorDeployment();
    installDefinitions();
    const { metadata } = customResourceDefinition(customKinds[0]!) as KubeObject;
    kube.api.put(customResourceDefinitions, {
      metadata,
      spec: { versions: [{ name: "v1", served: true }] },
    } as KubeObject);
    const { lines, isOk } = await failed(true);
    expect(lines).toEqual([
      "‼ namespace: namespace lever-system is free, or Lever's own",
      "× lever-crds: leverservices.leveros.dev is free, or this version's",
    ]);
    expect(isOk).toBe(false);
  });
});

interface Replica {
  leader: string;
  otherReplicas: number;
  endpoints: { instance: string; state: string; podUid: string }[];
}

async function replica(name: string): Promise<Replica> {
  const told: Replica = { leader: "operator-a", otherReplicas: 1, endpoints: endpoints() };
  const server = new OperatorServer({
    clock: runtimeClock(globalThis),
    sessionsMax: 10,
    calls: {
      listServices: () => ({ operator: { version, replica: name, ...told }, services: [] }),
      listEndpoints: () => [{ environment: "shop", service: "hello", endpoints: told.endpoints }],
      check: () => ({
        checks: [
          { category: "shop/hello", what: "2 of 2 instances serve", isOk: true, hint: null },
          {
            category: "blog/posts",
            what: "0 of 1 instances serve",
            isOk: false,
            hint: "ImagePullFailed: no such image",
          },
        ],
      }),
    },
  });
  const listener = await listenTcp("127.0.0.1", 0, (transport) => server.accept(transport));
  open.push(server, listener);
  kube.pod("lever-system", name, { app: "lever-operator" }, listener.port);
  return told;
}

const endpoints = () =>
  ["hello-1", "hello-2"].map((instance) => ({
    instance,
    state: "Serving",
    podUid: kube.api.object(pods, "shop", instance)?.metadata.uid ?? "",
  }));

function renewed(secondsAgo: number, holder = "operator-a"): void {
  const renewTime = new Date(Date.now() - secondsAgo * 1000).toISOString();
  kube.api.put(leases, {
    metadata: { namespace: "lever-system", name: "lever-operator" },
    spec: { holderIdentity: `${holder}_abc`, renewTime },
  } as KubeObject);
}

async function installed(): Promise<[Replica, Replica]> {
  installDefinitions();
  kube.operatorDeployment();
  renewed(1);
  for (const name of ["hello-1", "hello-2"]) kube.pod("shop", name, { "leveros.dev/service": "hello" });
  const { certificate } = await makeAuthority(Date.now());
  kube.api.put(resourceKind("", "v1", "ConfigMap", "configmaps"), {
    metadata: { namespace: "lever-system", name: "lever-trust" },
    data: { "ca.crt": certificate },
  } as KubeObject);
  kube.api.put(deployments, {
    metadata: { namespace: "lever-system", name: "lever-gateway" },
    spec: { replicas: 2 },
    status: { availableReplicas: 2 },
  } as KubeObject);
  return [await replica("operator-a"), await replica("operator-b")];
}

describe("an installation", () => {
  test("that is well, of one namespace", async () => {
    await installed();
    const { isOk, lines } = await checked(false, "shop");
    expect(lines).toEqual([
      "√ kubernetes-api: the API server of context test answers",
      "√ kubernetes-api: Kubernetes v1.34.1 has native sidecars (1.29 or later)",
      "√ kubernetes-api: the clocks of the API server and of this machine agree",
      "√ lever-crds: leverservices.leveros.dev is installed, as this command knows it",
      "√ lever-crds: leverendpointtables.leveros.dev is installed, as this command knows it",
      "√ lever-operator: the operator is installed in lever-system",
      "√ lever-operator: 2 of its 2 pods are ready",
      "√ lever-operator: one of them leads, and its Lease is fresh",
      "√ lever-operator: each of them answers",
      `√ lever-operator: their version is this command's, ${version}`,
      "√ lever-operator: they are in touch, and tell the same",
      "√ lever-identity: the CA that agents and operator trust is there, and lasts",
      "√ lever-gateway: the gateway is ready, or not installed",
      "√ shop/hello: 2 of 2 instances serve",
      "√ lever-services: the tables have the pods that there are",
      "√ lever-services: agents are those of the operator's version",
      "√ clocks: the nodes' clocks agree with the API server's",
    ]);
    expect(isOk).toBe(true);
  });

  test("a service that does not serve", async () => {
    await installed();
    expect(await failed()).toEqual({
      isOk: false,
      lines: ["× blog/posts: 0 of 1 instances serve"],
      hints: ["ImagePullFailed: no such image"],
    });
  });

  test("nothing installed", async () => {
    const { lines, hints } = await failed();
    expect(lines).toEqual([
      "× lever-crds: leverservices.leveros.dev is installed, as this command knows it",
      "× lever-crds: leverendpointtables.leveros.dev is installed, as this command knows it",
    ]);
    expect(hints[0]).toMatch(/^It is missing/);
    installDefinitions();
    expect((await failed()).hints[0]).toMatch(
      /^there is no operator of Lever in namespace lever-system.* Install it: helm/,
    );
  });

  test.each<[string, () => void, RegExp]>([
    ["a Lease that nobody renews", () => renewed(60), /renewed it \d+ s ago/],
    ["a leader that is gone", () => renewed(1, "operator-x"), /operator-x holds it, which is no pod/],
    ["no Lease", () => kube.api.remove(leases, "lever-system", "lever-operator"), /no replica was ever elected/],
    [
      "no bundle",
      () => kube.api.remove(resourceKind("", "v1", "ConfigMap", "configmaps"), "lever-system", "lever-trust"),
      /no ConfigMap lever-trust in lever-system/,
    ],
    [
      "a pod that no table has",
      () => kube.pod("shop", "hello-3", { "leveros.dev/service": "hello" }),
      /^shop\/hello-3 not in the tables/,
    ],
    [
      "an instance without a pod",
      () => kube.api.remove(pods, "shop", "hello-2"),
      /^shop\/hello-2 in the tables, and no pod/,
    ],
  ])("%s", async (_, breakIt, hint) => {
    await installed();
    breakIt();
    const { hints, isOk } = await failed();
    expect(isOk).toBe(false);
    expect(hints.filter((text) => hint.test(text))).toHaveLength(1);
  });

  test("replicas that differ, or do not see each other", async () => {
    const [, second] = await installed();
    second.endpoints = second.endpoints.slice(1);
    expect((await failed()).hints.join()).toMatch(/Their tables differ/);
    second.otherReplicas = 0;
    expect((await failed()).hints.join()).toMatch(/operator-b does not see the others/);
  });

  test("older agents, and what may not be looked at, are warnings", async () => {
    await installed();
    kube.api.put(leverServices, {
      metadata: { namespace: "shop", name: "hello" },
      status: { conditions: [{ type: "WorkloadAvailable", status: "True", reason: "AgentOutdated" }] },
    } as unknown as KubeObject);
    kube.refusal = (_method, path) => (path.endsWith("/leases") ? 403 : undefined);
    const list = new CheckList();
    await clusterChecks(list, { kubeconfig: kube.kubeconfig, namespace: "shop" }, false);
    expect(list.isOk).toBe(true);
    const warnings = list.checks.filter(({ isWarning }) => isWarning);
    expect(warnings.map(({ hint }) => hint)).toEqual([
      "Those of 1 services are older, and go with their next rollout: kubectl rollout restart deployment/hello -n shop",
      expect.stringMatching(/^it cannot be looked at: .*resources: \["leases"\], verbs: \["list"\]\.$/),
    ]);
  });
});
