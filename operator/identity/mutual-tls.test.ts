/** The operator, agents and a gateway as in a cluster, but for the API server: real TLS on loopback, from empty Secret to call. */

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { hostLeaseClock } from "@leveros/agent/host/host-lease-clock.ts";
import { HostedAgent } from "@leveros/agent/host/hosted-agent.ts";
import { dialOperator } from "@leveros/agent/host/operator-sessions.ts";
import { PodIdentity } from "@leveros/agent/host/pod-identity.ts";
import { Refusals } from "@leveros/agent/host/refusals.ts";
import { dialTcp, type Listener } from "@leveros/agent/host/socket.ts";
import { dialTls } from "@leveros/agent/host/tls.ts";
import { startChannel } from "@leveros/protocol/channel/open-channel.ts";
import { runtimeClock } from "@leveros/protocol/clock/runtime-clock.ts";
import { DeadlineWheel } from "@leveros/protocol/deadline/deadline-wheel.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { AssemblyBudget } from "@leveros/protocol/invocation/assembly.ts";
import { startCall } from "@leveros/protocol/invocation/outgoing-call.ts";
import type { Session } from "@leveros/protocol/session/session.ts";
import { Target } from "@leveros/protocol/target/target.ts";
import type { Transport } from "@leveros/protocol/transport/transport.ts";
import { encodeArgs } from "@leveros/protocol/value/form.ts";
import { Client, serve } from "leveros";
import { afterAll, beforeAll, expect, test } from "vitest";
import { parse } from "yaml";
import { ApiServer } from "../kube/api-server.fixture.ts";
import { KubeClient } from "../kube/kube-client.ts";
import { deployments, type KubeObject, leverServices, pods } from "../kube/kube-object.ts";
import { KubeOperator } from "../kube/kube-operator.ts";
import type { LeverServiceObject } from "../kube/reconcile/kubernetes-object.ts";
import { hello, pod, settings } from "../kube/reconcile/objects.fixture.ts";
import { certificatesIn, eventually } from "./identity.fixture.ts";
import type { Identity } from "./identity-secret.ts";
import { type SecretObject, secrets } from "./identity-secret.ts";
import { listenForAgents } from "./operator-door.ts";
import { OperatorIdentity } from "./operator-identity.ts";
import { type ConfigMapObject, configMaps } from "./trust-maps.ts";

const clock = runtimeClock(globalThis);
const namespace = "lever-system";
const api = new ApiServer(clock);
const logs: string[] = [];
const directory = mkdtempSync(path.join(tmpdir(), "lever-identity-"));
const refusals = new Refusals({ onLog: (text) => logs.push(text) });
const closes: (() => unknown)[] = [];
let identity: OperatorIdentity;
let operator: KubeOperator;
let door: Listener;

beforeAll(async () => {
  api.put(secrets, { metadata: { namespace, name: "lever-identity" } });
  const common = { client: new KubeClient({ transport: api.transport(), clock }), clock, random: Math.random };
  const onLog = (level: string, text: string) => void logs.push(`${level} ${text}`);
  identity = new OperatorIdentity({
    ...common,
    wallMs: Date.now,
    namespace,
    name: "operator-1",
    secretName: "lever-identity",
    gatewayServiceAccount: "lever-gateway",
    audience: "lever-operator",
    onLog,
  });
  operator = new KubeOperator({
    ...common,
    leaseClock: hostLeaseClock(),
    wallMs: Date.now,
    namespace,
    name: "operator-1",
    identity,
    agent: () => ({ ...settings, drainKey: (identity.secret.identity as Identity).drainKey }),
    dial: (to) => dialOperator(to, { role: "operator" }),
    observer: { onLog },
  });
  door = await listenForAgents({
    host: "127.0.0.1",
    port: 0,
    credentials: identity,
    refusals,
    operator: () => (operator.isReady ? operator : undefined),
  });
  expect(await operator.start()).toBe(true);
  await eventually(() => expect(operator.election.isLeader).toBe(true));
  for (const name of ["chat-1", "chat-2"]) addPod(name);
  api.put(leverServices, { metadata: { name: "chat", namespace: "shop" }, spec: parse(hello) } as KubeObject);
}, 30_000);

afterAll(async () => {
  for (const close of closes.reverse()) await close();
  door.close();
  await operator.close();
  rmSync(directory, { recursive: true });
});

/** As the kubelet starts a pod: what it is mounted, and its token. */
function addPod(name: string, further: object = {}): void {
  const meta = { namespace: "shop", labels: { "leveros.dev/service": "chat" } };
  const { metadata, ...rest } = pod({ name, meta });
  const { uid: _, ...named } = metadata;
  api.put(pods, { metadata: named, ...rest, status: { phase: "Running" }, ...further } as unknown as KubeObject);
}

function uidOf(name: string): string {
  return api.object<KubeObject>(pods, "shop", name)?.metadata.uid ?? "";
}

function tokenOf(name: string, audiences = ["lever-operator"]): string {
  const token = `token-of-${name}-${audiences}`;
  api.tokens.set(token, {
    username: "system:serviceaccount:shop:default",
    audiences,
    extra: {
      "authentication.kubernetes.io/pod-name": [name],
      "authentication.kubernetes.io/pod-uid": [uidOf(name)],
    },
  });
  return token;
}

function trustMap(where = "shop"): string | undefined {
  return api.object<ConfigMapObject>(configMaps, where, "lever-trust")?.data?.["ca.crt"];
}

async function startAgent(instance: string, token: string) {
  await eventually(() => expect(trustMap()).toBeDefined());
  const own = mkdtempSync(path.join(directory, "pod-"));
  const files = { tokenFile: path.join(own, "token"), trustFile: path.join(own, "ca.crt"), lookMs: 200 };
  writeFileSync(files.tokenFile, token);
  writeFileSync(files.trustFile, trustMap() ?? "");
  const agentLogs: string[] = [];
  const hosted = await HostedAgent.start({
    environment: "shop",
    service: "chat",
    instance,
    operator: door.address,
    socketPath: path.join(own, "agent.sock"),
    host: "127.0.0.1",
    port: 0,
    adminPort: 0,
    identityFiles: files,
    onLog: (level, text) => agentLogs.push(`${level} ${text}`),
  });
  closes.push(() => hosted.close());
  const ask = async (page: string) => await (await fetch(`http://127.0.0.1:${hosted.adminPort}/${page}`)).text();
  return { hosted, files, agentLogs, ask };
}

async function anonymousSession(): Promise<Session> {
  const credentials = { bundle: trustMap(namespace) ?? "" };
  const accepts = ({ kind }: { kind: string }) => kind === "operator";
  return await dialOperator(door.address, { role: "agent" }, (to, timeoutMs) =>
    dialTls(to, { timeoutMs, credentials, accepts, expected: "the operator" }),
  );
}

const runtime = { wheel: new DeadlineWheel(clock), budget: new AssemblyBudget(1e6), now: () => clock.now() };
const options = { timeoutMs: 5000, fields: new Uint8Array(0) };

test("agents get certificates and call each other; nothing of it is plain", async () => {
  const [one, two] = [await startAgent("chat-1", tokenOf("chat-1")), await startAgent("chat-2", tokenOf("chat-2"))];
  const app = await serve(
    { hello: (name: string) => `hello ${name}` },
    { agent: `unix://${two.hosted.socketPath}`, handleSignals: false, drainTimeoutMs: 0 },
  );
  const client = new Client({ agent: `unix://${one.hosted.socketPath}` });
  closes.push(
    () => app.drain(),
    () => client.close(),
  );
  await eventually(async () => expect(await one.ask("readyz")).toBe("the app has not registered its methods\n"));
  const call = () => client.invoke("lever://shop/chat/hello", ["you"]);
  await eventually(async () => expect(await call()).toBe("hello you"));
  expect(await two.ask("readyz")).toBe("ok\n");
  const metrics = await two.ask("metrics");
  const left = Number(/^lever_agent_certificate_remaining_seconds (\S+)$/m.exec(metrics)?.[1]);
  expect(left).toBeGreaterThan(86_000);
  // Plainly nobody gets in.
  const plain = await dialTcp(two.hosted.address, 1000);
  const isOver = new Promise((resolve) => plain.start({ onData: () => {}, onDrain: () => {}, onClose: resolve }));
  plain.write([Buffer.from("0000000000000000")], () => {});
  await isOver;
  expect(await two.ask("metrics")).toMatch(/^lever_agent_refused_connections_total\{reason="plain"\} 1$/m);
  expect(two.agentLogs.filter((text) => text.includes("refused"))).toHaveLength(1);
  expect(identity.issuer.issued.instance).toBe(2);
});

test("without a certificate there is nothing to be had of the operator but that", async () => {
  const session = await anonymousSession();
  closes.push(() => session.destroy(new LeverError("CANCELLED", "the test is over")));
  const target = (method: string) => new Target("lever-system", "operator", method);
  for (const method of ["discoveryChan", "ownershipChan", "replicaChan"]) {
    const opened = startChannel(runtime, session, target(method), encodeArgs([{ role: "gateway" }]), options);
    await expect(opened, method).rejects.toMatchObject({ reason: "METHOD_NOT_FOUND" });
  }
  const asked = startCall(
    runtime,
    session,
    target("issueCertificate"),
    encodeArgs([{ token: "x", request: "AA==" }]),
    options,
  );
  await expect(asked).rejects.toMatchObject({ reason: "INVALID_ARGUMENTS" });
});

test("sessions are counted as those of the identity that is proven, else of the address", async () => {
  addPod("chat-5");
  const { files } = await startAgent("chat-5", tokenOf("chat-5"));
  const pod = new PodIdentity({ ...files, operator: door.address, identity: { role: "agent" } });
  const counted: string[] = [];
  const acceptor = (kind: string) => ({
    accept: (transport: Transport, peer: string) => {
      counted.push(`${kind} ${peer}`);
      transport.destroy();
    },
  });
  const recorded = { server: acceptor("proven"), strangers: acceptor("stranger") };
  const address = { host: "127.0.0.1", port: 0 };
  const listener = await listenForAgents({ ...address, credentials: identity, refusals, operator: () => recorded });
  closes.push(
    () => listener.close(),
    () => pod.close(),
  );
  const dial = { timeoutMs: 5000, accepts: () => true, expected: "the operator" };
  const credentials = await pod.keeper.whenCurrent(5000);
  await dialTls(listener.address, { ...dial, credentials });
  await dialTls(listener.address, { ...dial, credentials: { bundle: credentials.bundle } });
  await eventually(() => expect(counted).toHaveLength(2));
  expect(counted).toEqual([
    `proven spiffe://leveros.dev/environment/shop/service/chat/instance/chat-5/uid/${uidOf("chat-5")}`,
    "stranger 127.0.0.1",
  ]);
});

test.each([
  ["a token for somebody else", () => tokenOf("chat-1", ["vault"]), /not valid for this cluster and this operator/],
  ["no token of the cluster", () => "made-up", /not valid for this cluster and this operator/],
  [
    "the token of a pod without an agent",
    () => {
      addPod("bare-1", { spec: { containers: [] } });
      return tokenOf("bare-1");
    },
    /pod shop\/bare-1 is no instance/,
  ],
])("an agent with %s is not ready, and says why", async (_, token, message) => {
  const { ask, agentLogs } = await startAgent("chat-1", token());
  await eventually(async () => expect(await ask("readyz")).toMatch(message));
  expect(agentLogs.filter((text) => text.includes("no certificate"))).toHaveLength(1);
});

test("an agent that says it is another one than its token proves is met by nobody", async () => {
  addPod("chat-3");
  const { ask, hosted } = await startAgent("chat-1", tokenOf("chat-3"));
  await eventually(() => expect(refusals.counts.identity).toBeGreaterThan(0));
  expect(logs.filter((text) => text.includes("says that it is agent shop/chat/chat-1"))).toHaveLength(1);
  expect(hosted.agent.isReady).toBe(false);
  expect(await ask("metrics")).toMatch(/^lever_agent_certificate_remaining_seconds 8\d{4}/m);
});

test("the bundle is in each namespace with a service and in the operator's own, and follows the Secret", async () => {
  const first = trustMap();
  expect(certificatesIn(first)).toHaveLength(1);
  expect(trustMap(namespace)).toBe(first);
  api.put(leverServices, { metadata: { name: "other", namespace: "blog" }, spec: parse(hello) } as KubeObject);
  await eventually(() => expect(trustMap("blog")).toBe(first));
  const found = api.object<SecretObject>(secrets, namespace, "lever-identity") as SecretObject;
  api.put(secrets, { ...found, metadata: { ...found.metadata, annotations: { "leveros.dev/rotate": "now" } } });
  await eventually(() => {
    for (const where of ["shop", "blog", namespace]) expect(certificatesIn(trustMap(where))).toHaveLength(2);
  });
  // What somebody changes or deletes comes back.
  api.remove(configMaps, "blog", "lever-trust");
  await eventually(() => expect(certificatesIn(trustMap("blog"))).toHaveLength(2));
  const map = api.object<ConfigMapObject>(configMaps, "blog", "lever-trust") as ConfigMapObject;
  api.put(configMaps, { ...map, data: { "ca.crt": "x" } } as ConfigMapObject);
  await eventually(() => expect(certificatesIn(trustMap("blog"))).toHaveLength(2));
  // Somebody else's is left alone.
  api.put(configMaps, {
    metadata: { name: "lever-trust", namespace: "alien" },
    data: { "ca.crt": "x" },
  } as ConfigMapObject);
  api.put(leverServices, { metadata: { name: "other", namespace: "alien" }, spec: parse(hello) } as KubeObject);
  await eventually(() => expect(logs.join("\n")).toMatch(/alien\/lever-trust .*is left alone/));
  expect(trustMap("alien")).toBe("x");
  // With the last service of a namespace it goes; the own one stays.
  api.remove(leverServices, "blog", "other");
  api.remove(leverServices, "alien", "other");
  await eventually(() => expect(trustMap("blog")).toBeUndefined());
  expect(trustMap("alien")).toBe("x");
  expect(certificatesIn(trustMap(namespace))).toHaveLength(2);
});

test("what stands in the way of the bundle is told by the services of the namespace, until it is gone", async () => {
  let isFull = true;
  api.fault = ({ method, path }) => {
    // Somebody is quicker than the operator, which has found none.
    if (method === "POST" && path.includes("/namespaces/late/configmaps")) {
      const metadata = { name: "lever-trust", namespace: "late" };
      if (trustMap("late") === undefined) api.put(configMaps, { metadata, data: { "ca.crt": "x" } } as KubeObject);
    }
    if (!isFull || method !== "POST" || !path.includes("/namespaces/full/configmaps")) return undefined;
    const message = 'configmaps "lever-trust" is forbidden: exceeded quota: small, limited: configmaps=1';
    return { status: 403, body: JSON.stringify({ kind: "Status", reason: "Forbidden", code: 403, message }) };
  };
  const available = (where: string) =>
    api
      .object<LeverServiceObject & KubeObject>(leverServices, where, "other")
      ?.status?.conditions?.find(({ type }) => type === "WorkloadAvailable");
  for (const where of ["late", "full"]) {
    api.put(leverServices, { metadata: { name: "other", namespace: where }, spec: parse(hello) } as KubeObject);
    await eventually(() => expect(api.object(deployments, where, "other")).toBeDefined());
    const deployment = api.object<KubeObject>(deployments, where, "other") as KubeObject;
    const { generation = 0 } = deployment.metadata;
    api.put(deployments, { ...deployment, status: { observedGeneration: generation, replicas: 1 } } as KubeObject);
    await eventually(() => expect(available(where)).toMatchObject({ status: "False", reason: "TrustMissing" }));
  }
  expect(available("late")?.message).toMatch(/kubectl delete configmap lever-trust -n late/);
  expect(available("full")?.message).toMatch(/exceeded quota: small, .*Raise the ResourceQuota of full/);
  expect(trustMap("late")).toBe("x");
  isFull = false;
  api.fault = () => undefined;
  api.remove(configMaps, "late", "lever-trust");
  for (const where of ["late", "full"]) {
    await eventually(() => expect(available(where)).toMatchObject({ status: "Unknown", reason: "RollingOut" }));
    expect(trustMap(where)).toBe(trustMap(namespace));
    api.remove(leverServices, where, "other");
  }
});

test("a bundle that changes is taken on at once, and a session that is open does not notice", async () => {
  addPod("chat-4");
  const { hosted, files, agentLogs } = await startAgent("chat-4", tokenOf("chat-4"));
  await eventually(() => expect(agentLogs.join("\n")).toContain("has its certificate"));
  await eventually(() => expect(hosted.agent.sessions).toBeDefined());
  writeFileSync(files.trustFile, "nonsense");
  await eventually(() => expect(agentLogs.join("\n")).toMatch(/trust bundle .*no certificate in PEM/));
  writeFileSync(files.trustFile, `${trustMap()}\n`);
  await eventually(() => expect(agentLogs.join("\n")).toContain("the bundle of trusted CAs has changed"));
}, 20_000);
