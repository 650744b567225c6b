import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import https from "node:https";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { KubeConfig } from "@kubernetes/client-node";
import { runtimeClock } from "@leveros/protocol/clock/runtime-clock.ts";
import { afterEach, beforeEach, expect, test } from "vitest";
import { ApiServer } from "./api-server.fixture.ts";
import { HttpsTransport } from "./https-transport.ts";
import { KubeClient } from "./kube-client.ts";
import { loadKubeConfig, namespaceOf } from "./kube-config.ts";
import { type KubeObject, pods } from "./kube-object.ts";
import { Reflector } from "./reflector.ts";

const clock = runtimeClock(globalThis);
const pod = (name: string): KubeObject => ({ metadata: { namespace: "shop", name } });

let server: ApiServer;
let client: KubeClient;
let folder: string;

function kubeConfig(server: string, user: object = {}, cluster: object = {}): KubeConfig {
  const config = new KubeConfig();
  config.loadFromOptions({
    clusters: [{ name: "c", server, skipTLSVerify: true, ...cluster }],
    users: [{ name: "u", token: "secret", ...user }],
    contexts: [{ name: "x", cluster: "c", user: "u", namespace: "shop" }],
    currentContext: "x",
  });
  return config;
}

beforeEach(async () => {
  folder = mkdtempSync(path.join(tmpdir(), "lever-kube-"));
  server = new ApiServer(clock);
  const transport = new HttpsTransport(kubeConfig(await server.listen()));
  client = new KubeClient({ transport, clock, requestTimeoutMs: 5000 });
});

afterEach(async () => {
  client.close();
  await server.close();
  rmSync(folder, { recursive: true });
});

async function until(isDone: () => boolean): Promise<void> {
  while (!isDone()) await new Promise((resolve) => setTimeout(resolve, 2));
}

test("requests go over one connection that is kept, with the user's token", async () => {
  await client.create(pods, pod("a"));
  for (let i = 0; i < 20; i++) await client.get(pods, pod("a").metadata);
  await expect(client.get(pods, pod("none").metadata)).rejects.toMatchObject({ status: 404, reason: "NotFound" });
  await client.list(pods);
  expect(server.connectionCount).toBe(1);
  expect(server.requests[0]?.headers).toMatchObject({
    authorization: "Bearer secret",
    "content-type": "application/json",
    "user-agent": "lever-operator",
  });
});

test("bodies that come in many pieces are whole", async () => {
  const text = "ß€𝄞".repeat(100_000);
  const object = { metadata: { namespace: "shop", name: "large", annotations: { text } } };
  const created = await client.create<KubeObject>(pods, object);
  expect(created.metadata.annotations?.["text"]).toBe(text);
  const { items } = await client.list(pods);
  expect(items[0]?.metadata.annotations?.["text"]).toBe(text);
});

test("a reflector over HTTP: list, watch, bookmark, 410, resets, garbage, and at the end the server's state", async () => {
  for (let i = 0; i < 25; i++) server.put(pods, pod(`p${i}`));
  const reflector = new Reflector({
    client,
    kind: pods,
    clock,
    random: Math.random,
    pageItems: 10,
    backoff: { minMs: 1, maxMs: 20 },
  });
  reflector.start();
  await reflector.whenSynced();
  const isInStep = () =>
    reflector.size === server.objects(pods).length &&
    server
      .objects(pods)
      .every(
        ({ metadata }) => reflector.get("shop", metadata.name)?.metadata.resourceVersion === metadata.resourceVersion,
      );
  let next = 0;
  const change = () => {
    server.put(pods, pod(`p${next % 40}`));
    server.remove(pods, "shop", `p${(next + 7) % 40}`);
    next++;
  };
  const watching = () => until(() => server.watcherCount === 1);

  for (let i = 0; i < 100; i++) change();
  await until(isInStep);
  server.sendBookmarks();
  for (const how of ["reset", "close", "reset"] as const) {
    await watching();
    server.endWatches(how);
    change();
    await until(isInStep);
  }
  await watching();
  const faults = [
    { status: 429, reason: "TooManyRequests", retryAfter: 0 },
    { status: 500 },
    { reset: "before" as const },
    { afterLines: 1, watchFault: { line: "no JSON" } },
  ];
  server.fault = () => faults.shift();
  server.endWatches("reset");
  change();
  await until(() => faults.length === 0 && isInStep());
  server.compact();
  await watching();
  server.expireWatches();
  change();
  await until(() => reflector.counts.lists.expired === 1 && isInStep());
  expect(reflector.counts.watchEnds.failed).toBeGreaterThanOrEqual(4);
  expect(reflector.counts.watchEnds).toMatchObject({ throttled: 1, expired: 1 });
  await watching();
  await reflector.close();
  await until(() => server.watcherCount === 0);
});

test("silence: the request ends, and so does its connection", async () => {
  server.fault = () => ({ silent: "before" });
  await expect(client.get(pods, pod("a").metadata, { timeoutMs: 50 })).rejects.toMatchObject({ reason: "TimedOut" });
  await until(() => server.connectionCount === 0);
  server.fault = () => undefined;
  server.put(pods, pod("a"));
  expect((await client.get(pods, pod("a").metadata)).metadata.name).toBe("a");
});

test("a watch that is given up leaves no connection", async () => {
  const abort = new AbortController();
  const watch = client.watch(
    pods,
    { resourceVersion: server.version, timeoutSeconds: 60, signal: abort.signal },
    () => {},
  );
  watch.catch(() => {});
  await until(() => server.watcherCount === 1);
  abort.abort();
  await expect(watch).rejects.toMatchObject({ reason: "Aborted" });
  await until(() => server.connectionCount === 0);
});

test("a reset while the answer is awaited, and no server at all", async () => {
  server.fault = () => ({ reset: "after" });
  await expect(client.create(pods, pod("a"))).rejects.toMatchObject({ status: 0, reason: "ConnectionFailed" });
  expect(server.objects(pods)).toHaveLength(1);
  await server.close();
  await expect(client.get(pods, pod("a").metadata)).rejects.toMatchObject({ status: 0, reason: "ConnectionFailed" });
});

test("an answer that is too large is not read to its end", async () => {
  server.fault = () => ({ status: 403, body: "x".repeat(2_000_000) });
  await expect(client.get(pods, pod("a").metadata)).rejects.toMatchObject({ reason: "TooLarge" });
  await until(() => server.connectionCount === 0);
});

test("TLS: the cluster's CA is checked, and a server prefix is kept", async () => {
  const fixtures = path.join(import.meta.dirname, "../../protocol/transport/fixtures");
  const cert = readFileSync(path.join(fixtures, "test-only-certificate.pem"));
  const key = readFileSync(path.join(fixtures, "test-only-key.pem"));
  const paths: (string | undefined)[] = [];
  const secure = https.createServer({ cert, key }, (request, response) => {
    paths.push(request.url);
    response.end(JSON.stringify({ metadata: { name: "a" } }));
  });
  await new Promise<void>((resolve) => secure.listen(0, "127.0.0.1", resolve));
  const url = `https://127.0.0.1:${(secure.address() as AddressInfo).port}/k8s/clusters/one/`;
  const caFile = path.join(folder, "ca.pem");
  writeFileSync(caFile, cert);
  const get = async (cluster: object) => {
    const over = new KubeClient({
      transport: new HttpsTransport(kubeConfig(url, {}, { skipTLSVerify: false, ...cluster })),
      clock,
    });
    try {
      return await over.get(pods, pod("a").metadata);
    } finally {
      over.close();
    }
  };
  try {
    await expect(get({})).rejects.toMatchObject({ reason: "ConnectionFailed" });
    expect(paths).toEqual([]);
    await get({ caFile, tlsServerName: "localhost" });
    expect(paths).toEqual(["/k8s/clusters/one/api/v1/namespaces/shop/pods/a?timeout=10000ms"]);
  } finally {
    secure.closeAllConnections();
    secure.close();
  }
});

test("a token comes from its file, as a pod has it", async () => {
  const tokenFile = path.join(folder, "token");
  writeFileSync(tokenFile, "first");
  const user = { token: undefined, authProvider: { name: "tokenFile", config: { tokenFile } } };
  const over = new KubeClient({ transport: new HttpsTransport(kubeConfig(await server.listen(), user)), clock });
  await over.list(pods);
  expect(server.requests.at(-1)?.headers["authorization"]).toBe("Bearer first");
  over.close();
});

test("a kubeconfig by file and context, and what is wrong with it", () => {
  const file = path.join(folder, "config");
  writeFileSync(
    file,
    JSON.stringify({
      clusters: [{ name: "c", cluster: { server: "http://127.0.0.1:1" } }],
      users: [{ name: "u", user: { token: "t" } }],
      contexts: [
        { name: "one", context: { cluster: "c", user: "u", namespace: "shop" } },
        { name: "two", context: { cluster: "gone", user: "u" } },
      ],
      "current-context": "one",
    }),
  );
  expect(namespaceOf(loadKubeConfig({ file }))).toBe("shop");
  const other = loadKubeConfig({ file, context: "two" });
  expect(namespaceOf(other)).toBeUndefined();
  expect(() => new HttpsTransport(other)).toThrow(/"two" names no cluster/);
  expect(() => loadKubeConfig({ file, context: "three" })).toThrow(/there are: one, two/);
  expect(() => loadKubeConfig({ file: path.join(folder, "none") })).toThrow(/^INVALID_OPTION: the kubeconfig .*none/);
});
