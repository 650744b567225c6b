/** The cluster that the other tests run on is one: nodes, pods of images that were built, a network, and identities. */

import { beforeAll, describe, expect, test } from "vitest";
import { kubectl, kubectlJson } from "../harness/kubectl.ts";
import { testNamespace } from "../harness/test-namespace.ts";
import { until } from "../harness/until.ts";

/** Ids by name of the images that were built for the run; none on a cluster that was given. */
const imageIds = JSON.parse(process.env["LEVER_E2E_IMAGES"] ?? "{}") as Record<string, string>;
const ownCluster = Object.keys(imageIds).length > 0;
const image = Object.keys(imageIds).find((name) => name.includes("/node:")) ?? "node:24";

interface Pod {
  readonly metadata: { readonly name: string; readonly uid: string };
  readonly spec: { readonly nodeName: string };
  readonly status: {
    readonly podIP?: string;
    readonly containerStatuses?: readonly { readonly ready: boolean; readonly imageID: string }[];
  };
}

interface Node {
  readonly metadata: { readonly name: string };
  readonly spec: { readonly unschedulable?: boolean };
  readonly status: { readonly conditions: readonly { readonly type: string; readonly status: string }[] };
}

const audience = "lever.test";
const server = `
  const { createServer } = require("node:http");
  createServer((_, response) => response.end(process.env.NODE_NAME)).listen(8080);
  process.on("SIGTERM", () => process.exit(0));
`;

/** One on each node, as restricted as pods can be. */
const daemons = JSON.stringify({
  apiVersion: "apps/v1",
  kind: "DaemonSet",
  metadata: { name: "server" },
  spec: {
    selector: { matchLabels: { app: "server" } },
    template: {
      metadata: { labels: { app: "server" } },
      spec: {
        securityContext: { runAsNonRoot: true, runAsUser: 65532, seccompProfile: { type: "RuntimeDefault" } },
        terminationGracePeriodSeconds: 1,
        containers: [
          {
            name: "app",
            image,
            command: ["node", "-e", server],
            env: [{ name: "NODE_NAME", valueFrom: { fieldRef: { fieldPath: "spec.nodeName" } } }],
            readinessProbe: { httpGet: { port: 8080 }, periodSeconds: 1 },
            securityContext: {
              allowPrivilegeEscalation: false,
              capabilities: { drop: ["ALL"] },
              readOnlyRootFilesystem: true,
            },
            volumeMounts: [{ name: "token", mountPath: "/token" }],
          },
        ],
        volumes: [{ name: "token", projected: { sources: [{ serviceAccountToken: { audience, path: "token" } }] } }],
      },
    },
  },
});

let namespace: string;
let nodes: readonly Node[];
let pods: readonly Pod[];

beforeAll(async () => {
  namespace = await testNamespace("cluster");
  await kubectl(["label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted"]);
  nodes = (await kubectlJson<{ items: Node[] }>(["get", "nodes"])).items.filter((node) => !node.spec.unschedulable);
  await kubectl(["apply", "--namespace", namespace, "--filename=-"], { input: daemons });
  pods = await until(
    "a ready pod on each node",
    async () => {
      const { items } = await kubectlJson<{ items: Pod[] }>(["get", "pods", "--namespace", namespace]);
      const ready = items.filter((pod) => pod.status.containerStatuses?.every((container) => container.ready));
      return ready.length >= (ownCluster ? nodes.length : 1) && ready.length === items.length && ready;
    },
    100_000,
  );
});

test("every node is Ready; of our own there are three, in a zone each", () => {
  const ready = nodes.map((node) => node.status.conditions.find(({ type }) => type === "Ready")?.status);
  expect(ready).toEqual(nodes.map(() => "True"));
  if (ownCluster) expect(nodes).toHaveLength(3);
});

test.runIf(ownCluster)("the pods run the image that was built, one on each node", () => {
  expect(pods.map((pod) => pod.spec.nodeName).sort()).toEqual(nodes.map((node) => node.metadata.name).sort());
  for (const pod of pods) expect(pod.status.containerStatuses?.[0]?.imageID).toBe(imageIds[image]);
});

const exec = (pod: Pod, ...command: string[]) =>
  kubectl(["exec", "--namespace", namespace, pod.metadata.name, "--", ...command]);

async function ask(from: Pod, url: string): Promise<string> {
  const program = `fetch(${JSON.stringify(url)}).then(async (answer) => console.log(await answer.text()))`;
  return (await exec(from, "node", "-e", program)).trim();
}

test("pods reach each other across nodes, and those of their own node", async () => {
  for (const from of pods) {
    for (const to of pods) expect(await ask(from, `http://${to.status.podIP}:8080`)).toBe(to.spec.nodeName);
  }
});

test("a Service reaches every pod, by its address and by its names", async () => {
  await kubectl(["create", "service", "clusterip", "server", "--tcp=80:8080", "--namespace", namespace]);
  const service = await kubectlJson<{ spec: { clusterIP: string } }>(["get", "svc/server", "--namespace", namespace]);
  const answers = new Set<string>();
  await until("an answer of every pod", async () => {
    answers.add(await ask(pods[0] as Pod, `http://${service.spec.clusterIP}`).catch(() => ""));
    answers.delete("");
    return answers.size === pods.length;
  });
  for (const name of ["server", `server.${namespace}`, `server.${namespace}.svc.cluster.local`]) {
    expect(await ask(pods[0] as Pod, `http://${name}`)).not.toBe("");
  }
});

describe("a projected token", () => {
  async function review(token: string, audiences: readonly string[]) {
    const request = { apiVersion: "authentication.k8s.io/v1", kind: "TokenReview", spec: { token, audiences } };
    const answer = await kubectl(["create", "--filename=-", "--output=json"], { input: JSON.stringify(request) });
    return (JSON.parse(answer) as { status: { authenticated?: boolean; user: { username: string; extra: Extra } } })
      .status;
  }
  type Extra = Readonly<Record<string, readonly string[]>>;

  test("is accepted for its audience, and says whose it is", async () => {
    for (const pod of pods) {
      const { authenticated, user } = await review(await exec(pod, "cat", "/token/token"), [audience]);
      expect(authenticated).toBe(true);
      expect(user.username).toBe(`system:serviceaccount:${namespace}:default`);
      expect(user.extra["authentication.kubernetes.io/pod-uid"]).toEqual([pod.metadata.uid]);
      expect(user.extra["authentication.kubernetes.io/node-name"]).toEqual([pod.spec.nodeName]);
    }
  });

  test("is refused for another audience, and when it was changed", async () => {
    const token = await exec(pods[0] as Pod, "cat", "/token/token");
    expect((await review(token, ["another.test"])).authenticated).toBeFalsy();
    const [head, body, signature] = token.split(".");
    const changed = JSON.parse(Buffer.from(body as string, "base64url").toString()) as { sub: string };
    changed.sub = "system:serviceaccount:kube-system:default";
    const forged = [head, Buffer.from(JSON.stringify(changed)).toString("base64url"), signature].join(".");
    expect((await review(forged, [audience])).authenticated).toBeFalsy();
  });
});
