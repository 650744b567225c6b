import { VirtualClock } from "@leveros/protocol/clock/virtual-clock.ts";
import { expect, test } from "vitest";
import { ApiServer } from "./api-server.fixture.ts";
import { type AnsweredRequest, KubeClient } from "./kube-client.ts";
import { KubeError } from "./kube-error.ts";
import { deployments, type KubeObject, leases, leverServices, pods, type ResourceKind } from "./kube-object.ts";
import { runFor } from "./run-clock.fixture.ts";

const namespaces: ResourceKind = {
  group: "",
  version: "v1",
  kind: "Namespace",
  plural: "namespaces",
  isNamespaced: false,
};
const pod: KubeObject = { metadata: { namespace: "shop", name: "a" } };

function world() {
  const clock = new VirtualClock();
  const server = new ApiServer(clock);
  const answers: AnsweredRequest[] = [];
  const client = new KubeClient({
    transport: server.transport(),
    clock,
    userAgent: "lever-operator/1.2.3",
    onAnswer: (answer) => answers.push(answer),
  });
  const errorOf = async (promise: Promise<unknown>): Promise<KubeError> => {
    const caught = promise.then(
      () => undefined,
      (error: unknown) => error,
    );
    await runFor(clock, 100_000);
    const error = await caught;
    expect(error).toBeInstanceOf(KubeError);
    return error as KubeError;
  };
  return { clock, server, client, answers, errorOf };
}

test("each request is the API's", async () => {
  const { server, client } = world();
  const service: KubeObject = { metadata: { namespace: "shop", name: "chat" } };
  await client.create(leverServices, service);
  const found = await client.get(leverServices, service.metadata);
  await client.replace(leverServices, found);
  await client.apply(deployments, service);
  await client.apply(deployments, service, { force: false, isDryRun: true });
  await client.applyStatus(leverServices, service);
  await client.mergePatch(leverServices, service.metadata, { spec: null });
  await client.list(pods, { namespace: "shop", labelSelector: "a=b", limit: 10 });
  await client.list(pods);
  await client.create(namespaces, { metadata: { name: "shop" } });
  await client.get(namespaces, { name: "shop" });
  await client.delete(leverServices, service.metadata);
  const list = "/api/v1/namespaces/shop/pods?labelSelector=a%3Db&limit=10&timeout=60000ms";
  const one = "/apis/leveros.dev/v1alpha1/namespaces/shop/leverservices/chat";
  const deployment = "/apis/apps/v1/namespaces/shop/deployments/chat";
  const manager = "fieldManager=lever-operator";
  expect(server.requests.map(({ method, path }) => `${method} ${path}`)).toEqual([
    `POST /apis/leveros.dev/v1alpha1/namespaces/shop/leverservices?${manager}&timeout=10000ms`,
    `GET ${one}?timeout=10000ms`,
    `PUT ${one}?${manager}&timeout=10000ms`,
    `PATCH ${deployment}?${manager}&force=true&timeout=10000ms`,
    `PATCH ${deployment}?${manager}&force=false&dryRun=All&timeout=10000ms`,
    `PATCH ${one}/status?${manager}&force=true&timeout=10000ms`,
    `PATCH ${one}?${manager}&timeout=10000ms`,
    `GET ${list}`,
    "GET /api/v1/pods?timeout=60000ms",
    `POST /api/v1/namespaces?${manager}&timeout=10000ms`,
    "GET /api/v1/namespaces/shop?timeout=10000ms",
    `DELETE ${one}?timeout=10000ms`,
  ]);
  const [created, got, , applied, , , patched] = server.requests;
  expect(JSON.parse(created?.body ?? "")).toMatchObject({ apiVersion: "leveros.dev/v1alpha1", kind: "LeverService" });
  expect(got?.headers).toEqual({ accept: "application/json", "user-agent": "lever-operator/1.2.3" });
  expect(applied?.headers["content-type"]).toBe("application/apply-patch+yaml");
  expect(JSON.parse(applied?.body ?? "")).toMatchObject({ apiVersion: "apps/v1", kind: "Deployment" });
  expect(patched?.headers["content-type"]).toBe("application/merge-patch+json");
});

test("names that would be another path, or are missing, are refused before anything is sent", async () => {
  const { server, client } = world();
  for (const name of ["", ".", "..", "a/b"]) {
    expect(() => client.get(pods, { namespace: "shop", name })).toThrow(/INVALID_OPTION/);
    expect(() => client.get(pods, { namespace: name, name: "a" })).toThrow(/INVALID_OPTION/);
  }
  expect(() => client.get(pods, { name: "a" })).toThrow(/a namespace is missing/);
  expect(() => client.get(namespaces, { namespace: "shop", name: "a" })).toThrow(/has no namespaces/);
  await expect(client.replace(pods, pod)).rejects.toThrow(/resourceVersion is missing/);
  expect(server.requests).toEqual([]);
  await expect(client.get(pods, { namespace: "shop", name: "a b?c" })).rejects.toThrow(/a%20b%3Fc.*NotFound/);
});

test.each([
  [
    { status: 404, reason: "NotFound" },
    { isNotFound: true, isUnknown: false, isTransient: false },
  ],
  [
    { status: 409, reason: "Conflict" },
    { isConflict: true, isUnknown: false, isTransient: false },
  ],
  [
    { status: 409, reason: "AlreadyExists" },
    { isConflict: true, isUnknown: false, isTransient: false },
  ],
  [
    { status: 410, reason: "Expired" },
    { isExpired: true, isUnknown: false, isTransient: false },
  ],
  [
    { status: 403, reason: "Forbidden" },
    { isUnknown: false, isTransient: false },
  ],
  [
    { status: 429, reason: "TooManyRequests" },
    { isUnknown: false, isTransient: true },
  ],
  [
    { status: 500, reason: "InternalError" },
    { isUnknown: true, isTransient: true },
  ],
  [
    { status: 504, reason: "Timeout" },
    { isUnknown: true, isTransient: true },
  ],
])("%o is one error, with what it means", async (fault, meaning) => {
  const { server, client, errorOf, answers } = world();
  server.fault = () => fault;
  const error = await errorOf(client.create(pods, pod));
  expect(error).toMatchObject({ name: "KubeError", status: fault.status, reason: fault.reason, ...meaning });
  expect(error.message).toContain("create /api/v1/namespaces/shop/pods: made up");
  expect(answers).toEqual([{ verb: "create", kind: pods, status: fault.status, tookMs: 0 }]);
});

test("an answer of something on the way, that is no Status", async () => {
  const { server, client, errorOf } = world();
  server.fault = () => ({ status: 503 });
  expect(await errorOf(client.create(pods, pod))).toMatchObject({ status: 503, reason: "ServiceUnavailable" });
  server.fault = () => ({ status: 418 });
  expect(await errorOf(client.create(pods, pod))).toMatchObject({ status: 418, reason: "Unknown" });
  server.fault = () => ({ status: 200, body: "<html>" });
  expect(await errorOf(client.create(pods, pod))).toMatchObject({ status: 0, reason: "Malformed", isUnknown: true });
  expect(await errorOf(client.list(pods))).toMatchObject({ reason: "Malformed" });
  server.fault = () => ({ status: 200, body: "{}" });
  expect(await errorOf(client.list(pods))).toMatchObject({ reason: "Malformed" });
});

test("when to ask again, by header or Status, within reason", async () => {
  const { server, client, errorOf } = world();
  server.fault = () => ({ status: 429, retryAfter: 3 });
  expect((await errorOf(client.get(pods, { namespace: "shop", name: "a" }))).retryAfterMs).toBe(3000);
  server.fault = () => ({ status: 429, retryAfter: 3600 });
  expect((await errorOf(client.get(pods, { namespace: "shop", name: "a" }))).retryAfterMs).toBe(60_000);
  const body = { kind: "Status", code: 429, reason: "TooManyRequests", details: { retryAfterSeconds: 2 } };
  server.fault = () => ({ status: 429, body: JSON.stringify(body) });
  expect((await errorOf(client.get(pods, { namespace: "shop", name: "a" }))).retryAfterMs).toBe(2000);
});

test("no answer: the request ends when its time is over, and may have been done", async () => {
  const { clock, server, client } = world();
  server.fault = () => ({ silent: "after" });
  let error: unknown;
  client.create(pods, pod, { timeoutMs: 2000 }).catch((thrown: unknown) => {
    error = thrown;
  });
  await runFor(clock, 1999);
  expect(error).toBeUndefined();
  await runFor(clock, 1);
  expect(error).toMatchObject({ status: 0, reason: "TimedOut", isUnknown: true });
  expect(clock.timerCount).toBe(0);
});

test("a connection that breaks", async () => {
  const { server, client, errorOf } = world();
  server.fault = () => ({ reset: "after" });
  const error = await errorOf(client.create(pods, pod));
  expect(error).toMatchObject({ status: 0, reason: "ConnectionFailed", isUnknown: true });
  expect(error.cause).toBeInstanceOf(Error);
});

test("given up by who asked, before or while it waits", async () => {
  const { clock, server, client, errorOf } = world();
  expect(await errorOf(client.list(pods, { signal: AbortSignal.abort() }))).toMatchObject({ reason: "Aborted" });
  expect(server.requests).toEqual([]);
  server.fault = () => ({ silent: "before" });
  const abort = new AbortController();
  clock.setTimer(() => abort.abort(), 50);
  expect(await errorOf(client.list(pods, { signal: abort.signal }))).toMatchObject({ reason: "Aborted" });
});

test("a list without items has null in their place", async () => {
  const { server, client } = world();
  server.fault = () => ({ status: 200, body: '{"metadata":{"resourceVersion":"5"},"items":null}' });
  expect(await client.list(leases)).toEqual({ metadata: { resourceVersion: "5" }, items: [] });
});

test("what a watch's listener throws ends the watch, and is no error of the connection", async () => {
  const { clock, server, client } = world();
  const bug = new Error("bug");
  const watch = client.watch(pods, { resourceVersion: server.version, timeoutSeconds: 60 }, () => {
    throw bug;
  });
  watch.catch(() => {});
  await runFor(clock, 0);
  server.put(pods, pod);
  await runFor(clock, 0);
  await expect(watch).rejects.toBe(bug);
  expect(server.watcherCount).toBe(0);
  expect(clock.timerCount).toBe(0);
});
