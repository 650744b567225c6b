/** The operator of a cluster as the command line asks it, over port-forwards to servers that answer as replicas do. */

import { type Listener, listenTcp } from "@leveros/agent/host/socket.ts";
import { OperatorServer } from "@leveros/operator/discovery/operator-server.ts";
import { type KubeObject, leverServices } from "@leveros/operator/kube/kube-object.ts";
import { runtimeClock } from "@leveros/protocol/clock/runtime-clock.ts";
import { LeverError } from "leveros";
import pc from "picocolors";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { exitCodeOf } from "../exit-code.ts";
import { errorText } from "../output.ts";
import { Cluster } from "./cluster.ts";
import { ClusterOperator } from "./cluster-operator.ts";
import { KubeServer } from "./kube-server.fixture.ts";

interface Replica {
  readonly name: string;
  readonly server: OperatorServer;
  readonly listener: Listener;
  asked: string[];
}

let kube: KubeServer;
let operator: ClusterOperator;
let leader: string | undefined;
let replicas: Replica[];
/** Of the service `hello` in `shop`. */
let instances: { instance: string; state: string }[];

beforeEach(async () => {
  kube = await KubeServer.start();
  leader = undefined;
  replicas = [];
  instances = [
    { instance: "hello-a", state: "Serving" },
    { instance: "hello-b", state: "Serving" },
  ];
  operator = new ClusterOperator(new Cluster({ kubeconfig: kube.kubeconfig }), new AbortController().signal);
});
afterEach(async () => {
  await operator[Symbol.asyncDispose]();
  for (const { server, listener } of replicas) {
    server.close();
    listener.close();
  }
  kube[Symbol.dispose]();
});

async function replica(name: string): Promise<Replica> {
  const asked: string[] = [];
  const server = new OperatorServer({
    clock: runtimeClock(globalThis),
    sessionsMax: 10,
    calls: {
      listServices: () => {
        asked.push("listServices");
        return { operator: { replica: name }, services: [{ environment: "shop" }, { environment: "blog" }] };
      },
      listEndpoints: () => [{ environment: "shop", service: "hello", endpoints: instances }],
      explain: (args) => {
        asked.push("explain");
        if (name === leader) return { by: name, resource: args[2] };
        throw new LeverError("NOT_LEADER", `${name} does not lead`, {
          effect: "none",
          ...(leader !== undefined && { details: { leader } }),
        });
      },
    },
  });
  const listener = await listenTcp("127.0.0.1", 0, (transport) => server.accept(transport));
  kube.operatorDeployment();
  kube.pod("lever-system", name, { app: "lever-operator" }, listener.port);
  const made = { name, server, listener, asked };
  replicas.push(made);
  return made;
}

const explain = () => operator.ask("explain", ["shop", "hello", "room-7"]);
const failure = (asked: Promise<unknown>): Promise<LeverError> =>
  asked.then(
    () => {
      throw new Error("expected an error");
    },
    (error: unknown) => LeverError.from(error),
  );

describe("a question", () => {
  test("goes to a replica, and to the one that leads where only that one knows", async () => {
    await replica("operator-a");
    await replica("operator-b");
    leader = "operator-b";
    for (let index = 0; index < 3; index++) expect(await explain()).toEqual({ by: "operator-b", resource: "room-7" });
    expect(await operator.services("shop")).toMatchObject({ services: [{ environment: "shop" }] });
    expect(await operator.services()).toMatchObject({ services: [{ environment: "shop" }, { environment: "blog" }] });
  });

  test("waits for an election that is under way", async () => {
    await replica("operator-a");
    const asked = explain();
    setTimeout(() => {
      leader = "operator-a";
    }, 100);
    expect(await asked).toMatchObject({ by: "operator-a" });
  });

  test("goes to another replica when its own has gone", async () => {
    const first = await replica("operator-a");
    await operator.services();
    expect(first.asked).toEqual(["listServices"]);
    await replica("operator-b");
    kube.api.remove(
      { group: "", version: "v1", kind: "Pod", plural: "pods", isNamespaced: true },
      "lever-system",
      "operator-a",
    );
    first.server.close();
    kube.cut("operator-a");
    expect(await operator.services()).toMatchObject({ operator: { replica: "operator-b" } });
  });
});

test("a leader whose pod is gone is waited for to be replaced", async () => {
  await replica("operator-a");
  leader = "operator-gone";
  const asked = explain();
  setTimeout(() => {
    leader = "operator-a";
  }, 100);
  expect(await asked).toMatchObject({ by: "operator-a" });
});

describe("what is wrong is said with what to do", () => {
  test("no operator", async () => {
    const error = await failure(operator.services());
    expect(error).toMatchObject({ reason: "DISCOVERY_UNAVAILABLE", effect: "none" });
    expect(error.rawMessage).toBe("there is no operator of Lever in namespace lever-system of context test");
    expect(error.details).toMatchObject({ remedy: expect.stringMatching(/^Install it: helm install lever/) });
    expect(exitCodeOf(error)).toBe(3);
  });

  test("no replica that is ready", async () => {
    kube.operatorDeployment();
    kube.pod("lever-system", "operator-a", { app: "lever-operator" }, undefined, false);
    expect((await failure(operator.services())).rawMessage).toBe("none of the operator's 1 pods is ready");
  });

  test("no rights to port-forward", async () => {
    await replica("operator-a");
    kube.refusal = (_method, path) => (path.endsWith("/portforward") ? 403 : undefined);
    const error = await failure(operator.services());
    expect(error).toMatchObject({ reason: "PERMISSION_DENIED", code: "PERMISSION_DENIED" });
    expect(error.details).toMatchObject({
      remedy:
        'Have somebody grant you in namespace lever-system: apiGroups: [""], resources: ["pods/portforward"], verbs: ["get", "create"].',
    });
    expect(exitCodeOf(error)).toBe(2);
  });

  test("credentials that have ended", async () => {
    kube.refusal = () => 401;
    expect(await failure(operator.services())).toMatchObject({ reason: "UNAUTHENTICATED" });
  });

  test("no API server", async () => {
    kube.stop();
    expect(await failure(operator.services())).toMatchObject({ reason: "AGENT_UNREACHABLE" });
  });

  test("no such context, no such kubeconfig, and a namespace that is none", () => {
    const { kubeconfig } = kube;
    expect(() => new Cluster({ kubeconfig, context: "prod" })).toThrow(/no context "prod".*there are: test, away/);
    expect(() => new Cluster({ kubeconfig: "/none" })).toThrow(expect.objectContaining({ reason: "INVALID_OPTION" }));
    expect(() => new Cluster({ kubeconfig, namespace: "Shop" })).toThrow(/--namespace is "Shop"/);
    expect(new Cluster({ kubeconfig })).toMatchObject({ namespace: "shop", operatorNamespace: "lever-system" });
  });

  test("a pod whose port for people nobody listens at", async () => {
    kube.operatorDeployment();
    kube.pod("lever-system", "operator-a", { app: "lever-operator" });
    const error = await failure(operator.ask("listServices", [], 100));
    expect(error.rawMessage).toMatch(/operator-a.*error forwarding port 3839/);
    expect(errorText(error, pc.createColors(false))).toMatch(/is older than this command: `kubectl rollout restart`/);
  }, 40_000);
});

describe("what changes something is done at the API server", () => {
  test("scale", async () => {
    kube.api.put(leverServices, {
      metadata: { namespace: "shop", name: "hello" },
      spec: { replicas: 2 },
    } as KubeObject);
    expect(await operator.scale("hello", 5)).toEqual({ environment: "shop", service: "hello", before: 2, after: 5 });
    const [patch] = kube.api.requestsTo("PATCH");
    expect(patch?.path).toMatch(/\/namespaces\/shop\/leverservices\/hello\/scale\?fieldManager=lever&/);
    expect(JSON.parse(patch?.body ?? "")).toEqual({ spec: { replicas: 5 } });
    expect(await failure(operator.scale("helo", 5))).toMatchObject({
      reason: "SERVICE_NOT_FOUND",
      rawMessage: "there is no LeverService helo in namespace shop",
    });
  });

  test("evict waits until another instance serves", async () => {
    await replica("operator-a");
    kube.answers.set("POST /api/v1/namespaces/shop/pods/hello-a/eviction", (body) => {
      instances = [
        { instance: "hello-b", state: "Serving" },
        { instance: "hello-c", state: "Starting" },
      ];
      setTimeout(() => {
        instances = [
          { instance: "hello-b", state: "Serving" },
          { instance: "hello-c", state: "Serving" },
        ];
      }, 300);
      return { kind: "Status", status: "Success", body };
    });
    expect(await operator.evict("hello-a")).toEqual({
      environment: "shop",
      service: "hello",
      evicted: "hello-a",
      replacement: "hello-c",
    });
    expect(await failure(operator.evict("hello-x"))).toMatchObject({ reason: "INVALID_ARGUMENTS" });
  });

  test("evict that a disruption budget forbids", async () => {
    await replica("operator-a");
    kube.refusal = (_method, path) => (path.endsWith("/eviction") ? 429 : undefined);
    expect(await failure(operator.evict("hello-a"))).toMatchObject({ reason: "OVERLOADED", effect: "none" });
  });
});
