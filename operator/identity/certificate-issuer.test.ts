import { X509Certificate as Certificate, createPublicKey, generateKeyPairSync } from "node:crypto";
import { signingRequest } from "@leveros/agent/host/signing-request.ts";
import { spiffeIdOf } from "@leveros/agent/host/tls.ts";
import { runtimeClock } from "@leveros/protocol/clock/runtime-clock.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { beforeAll, beforeEach, describe, expect, test } from "vitest";
import { ApiServer, type KnownToken } from "../kube/api-server.fixture.ts";
import { KubeClient } from "../kube/kube-client.ts";
import { type AuthorityPem, makeAuthority, readAuthority } from "./authority.ts";
import { CertificateIssuer, type IssueRefusal, type KnownInstance } from "./certificate-issuer.ts";
import { foreignAuthority } from "./identity.fixture.ts";
import type { Identity } from "./identity-secret.ts";
import { addressRate } from "./issue-limits.ts";

const clock = runtimeClock(globalThis);
const nowMs = Date.now();
const uid = "5b8ef8a0-5f1c-4f51-9c1f-1f0d3c1f0001";
const bound = (pod: string, podUid = uid) => ({
  "authentication.kubernetes.io/pod-name": [pod],
  "authentication.kubernetes.io/pod-uid": [podUid],
});
const good: KnownToken = {
  username: "system:serviceaccount:shop:default",
  audiences: ["lever-operator"],
  extra: bound("chat-1"),
};
const gateway: KnownToken = { ...good, username: "system:serviceaccount:lever-system:lever-gateway" };

let authority: AuthorityPem;
let identity: Identity;
let api: ApiServer;
let observed: Map<string, KnownInstance | "other">;
let logs: string[];
let issuer: CertificateIssuer;

async function identityOf(pem: AuthorityPem, bundle = pem.certificate): Promise<Identity> {
  const blocks = bundle.match(/-----BEGIN[\s\S]+?END CERTIFICATE-----/g) ?? [];
  const roots = blocks.map((block) => new Certificate(block));
  return { authority: await readAuthority(pem, roots), bundle, drainKey: "" };
}

beforeAll(async () => {
  authority = await makeAuthority(nowMs);
  identity = await identityOf(authority);
});

beforeEach(() => {
  api = new ApiServer(clock);
  observed = new Map([["shop/chat-1", { service: "chat", uid }]]);
  logs = [];
  issuer = makeIssuer();
});

function makeIssuer(known: () => Identity | undefined = () => identity, observeMs = 0): CertificateIssuer {
  return new CertificateIssuer({
    client: new KubeClient({ transport: api.transport(), clock }),
    clock,
    wallMs: () => nowMs,
    identity: known,
    audience: "lever-operator",
    gatewayAccount: "lever-system:lever-gateway",
    instanceOf: (namespace, pod) => observed.get(`${namespace}/${pod}`),
    mayBeInstance: async (_, pod) => pod !== "plain-1",
    observeMs,
    onLog: (level, text) => void logs.push(`${level} ${text}`),
  });
}

const keysOf = (namedCurve: string) => generateKeyPairSync("ec", { namedCurve });

function ask(token: KnownToken | undefined, { keys = keysOf("P-256"), request = signingRequest(keys) } = {}) {
  if (token !== undefined) api.tokens.set("the-token", token);
  return issuer.issue([{ token: "the-token", request: request.toString("base64") }], "10.1.2.3");
}

describe("what is issued", () => {
  test("to an instance's agent: for its pod and its key, a day long, and nothing else", async () => {
    const keys = keysOf("P-256");
    const answer = await ask(good, { keys });
    const certificate = new Certificate(answer.certificate);
    expect(certificate.subjectAltName).toBe(
      `URI:spiffe://leveros.dev/environment/shop/service/chat/instance/chat-1/uid/${uid}`,
    );
    expect(spiffeIdOf(certificate)).toEqual({
      kind: "instance",
      environment: "shop",
      service: "chat",
      instance: "chat-1",
      uid,
    });
    expect(certificate.verify(createPublicKey(authority.certificate))).toBe(true);
    expect(certificate.checkPrivateKey(keys.privateKey)).toBe(true);
    expect(certificate.ca).toBe(false);
    expect(certificate.keyUsage).toEqual(["1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"]);
    expect(certificate.subject).toBeUndefined();
    const lifeMs = certificate.validToDate.getTime() - nowMs;
    expect(lifeMs).toBeGreaterThan(86_400_000 - 2000);
    expect(lifeMs).toBeLessThanOrEqual(86_400_000);
    expect(answer.notAfterMs).toBe(certificate.validToDate.getTime());
    expect(answer.bundle).toBe(authority.certificate);
    expect(issuer.issued).toEqual({ instance: 1, gateway: 0 });
  });

  test("to a gateway: by its service account, whatever is observed", async () => {
    const { certificate } = await ask(gateway);
    expect(new Certificate(certificate).subjectAltName).toBe(`URI:spiffe://leveros.dev/gateway/chat-1/uid/${uid}`);
    expect(issuer.issued).toEqual({ instance: 0, gateway: 1 });
  });

  test("no longer than the CA lives, and nothing once that has ended", async () => {
    const short = await identityOf(await foreignAuthority({ nowMs, days: 0.1 }));
    issuer = makeIssuer(() => short);
    expect((await ask(good)).notAfterMs).toBe(short.authority.notAfterMs);
    const ended = await identityOf(await foreignAuthority({ nowMs: nowMs - 1000, days: 0 }));
    issuer = makeIssuer(() => ended);
    await expect(ask(good)).rejects.toMatchObject({ reason: "IDENTITY_UNAVAILABLE", effect: "none" });
  });

  test.each(["P-256", "P-384", "RSA"] as const)(
    "by somebody's intermediate CA of %s: with it behind",
    async (algorithm) => {
      const root = await foreignAuthority({ nowMs, name: "root" });
      const middle = await foreignAuthority({ nowMs, name: "middle", signer: root, algorithm });
      const known = await identityOf(middle, root.certificate);
      issuer = makeIssuer(() => known);
      const blocks = (await ask(good)).certificate.match(/-----BEGIN[\s\S]+?END CERTIFICATE-----/g) ?? [];
      const [own, by] = blocks.map((block) => new Certificate(block)) as [Certificate, Certificate];
      expect(blocks).toHaveLength(2);
      expect(own.checkIssued(by) && own.verify(by.publicKey)).toBe(true);
      expect(by.verify(createPublicKey(root.certificate))).toBe(true);
    },
  );
});

describe("what is refused", () => {
  const tamper = (request: Buffer, at: number) => {
    const copy = Buffer.from(request);
    copy[copy.length + at] = (copy[copy.length + at] as number) ^ 1;
    return copy;
  };
  const rows: readonly [string, IssueRefusal, string, () => Promise<unknown>][] = [
    ["a token that the API server does not know", "token", "UNAUTHENTICATED", () => ask(undefined)],
    ["one for another audience", "token", "UNAUTHENTICATED", () => ask({ ...good, audiences: ["vault"] })],
    ["one that is bound to no pod", "pod", "IDENTITY_DENIED", () => ask({ ...good, extra: {} })],
    ["one of a user", "pod", "IDENTITY_DENIED", () => ask({ ...good, username: "jane" })],
    [
      "one of a user with a like name",
      "pod",
      "IDENTITY_DENIED",
      () => ask({ ...good, username: "x:system:serviceaccount:shop" }),
    ],
    [
      "a pod that is no instance",
      "pod",
      "IDENTITY_DENIED",
      () => {
        observed.set("shop/chat-1", "other");
        return ask(good);
      },
    ],
    [
      "a pod that nobody has seen",
      "unknown-pod",
      "IDENTITY_UNAVAILABLE",
      () => ask({ ...good, extra: bound("other-1") }),
    ],
    [
      "a pod of that name with another uid",
      "pod",
      "IDENTITY_DENIED",
      () => ask({ ...good, extra: bound("chat-1", "another") }),
    ],
    [
      "a pod of that name in another namespace",
      "unknown-pod",
      "IDENTITY_UNAVAILABLE",
      () => ask({ ...good, username: "system:serviceaccount:blog:default" }),
    ],
    [
      "a gateway's account of another namespace",
      "unknown-pod",
      "IDENTITY_UNAVAILABLE",
      () => ask({ ...gateway, username: "system:serviceaccount:blog:lever-gateway" }),
    ],
    [
      "a request with another's signature",
      "request",
      "INVALID_ARGUMENTS",
      () => ask(good, { request: tamper(signingRequest(keysOf("P-256")), -3) }),
    ],
    [
      "a request for another's key",
      "request",
      "INVALID_ARGUMENTS",
      () =>
        ask(good, {
          request: signingRequest({ publicKey: keysOf("P-256").publicKey, privateKey: keysOf("P-256").privateKey }),
        }),
    ],
    [
      "a request for a key of another curve",
      "request",
      "INVALID_ARGUMENTS",
      () => ask(good, { keys: keysOf("P-384") }),
    ],
    ["a request that is none", "request", "INVALID_ARGUMENTS", () => ask(good, { request: Buffer.from("nonsense") })],
    [
      "anything, while the API server does not answer",
      "unavailable",
      "IDENTITY_UNAVAILABLE",
      () => {
        api.fault = () => ({ status: 503 });
        return ask(good);
      },
    ],
  ];

  test.each(rows)("%s", async (_, reason, code, doAsk) => {
    await expect(doAsk()).rejects.toMatchObject({ reason: code, effect: "none" });
    expect(issuer.refused[reason]).toBe(1);
    expect(issuer.issued).toEqual({ instance: 0, gateway: 0 });
    expect(logs).toHaveLength(1);
    expect(logs[0]).not.toContain("the-token");
    // Told once.
    await doAsk().catch(() => {});
    expect(logs).toHaveLength(1);
    expect(issuer.refused[reason]).toBe(2);
  });

  test("an API server that says nothing of audiences has not looked at them", async () => {
    api.fault = (request) => {
      const body = JSON.parse(request.body ?? "{}");
      const user = { username: good.username, extra: good.extra };
      return { status: 201, body: JSON.stringify({ ...body, status: { authenticated: true, user } }) };
    };
    await expect(ask(good)).rejects.toMatchObject({ reason: "UNAUTHENTICATED" });
    expect(issuer.refused.audience).toBe(1);
  });

  test("one pod that asks on and on", async () => {
    for (let i = 0; i < 10; i++) await ask(good);
    await expect(ask(good)).rejects.toMatchObject({ reason: "OVERLOADED", effect: "none" });
    observed.set("shop/chat-2", { service: "chat", uid: "another" });
    await expect(ask({ ...good, extra: bound("chat-2", "another") })).resolves.toBeDefined();
  });

  test("one address that asks on and on: nothing is looked at any more, and others are served", async () => {
    const garbage = (source: string) => issuer.issue([{ token: "t", request: "AA==" }], source);
    for (let i = 0; i < addressRate.burst; i++) {
      await expect(garbage("10.6.6.6")).rejects.toMatchObject({ reason: "INVALID_ARGUMENTS" });
    }
    await expect(garbage("10.6.6.6")).rejects.toMatchObject({
      reason: "OVERLOADED",
      effect: "none",
      rawMessage: expect.stringMatching(
        /from 10\.6\.6\.6 too often: at most 125, then 12\.5 a second; ask again later/,
      ),
    });
    // Also of what is no request at all.
    await expect(issuer.issue([], "10.6.6.6")).rejects.toMatchObject({ reason: "OVERLOADED" });
    expect(issuer.refused).toMatchObject({ request: addressRate.burst, rate: 2 });
    await expect(ask(good)).resolves.toBeDefined();
  });

  test.each([[[]], [[{}]], [[{ token: 1, request: "" }]], [[{ token: "t".repeat(20_000), request: "AA==" }]]])(
    "arguments that are none",
    async (args) => {
      const error = await issuer.issue(args, "10.1.2.3").catch((thrown: unknown) => thrown);
      expect(LeverError.is(error) && error.reason).toBe("INVALID_ARGUMENTS");
      expect(api.requests).toHaveLength(0);
    },
  );
});

test("a pod that comes by the watch a moment later is waited for", async () => {
  issuer = makeIssuer(() => identity, 5000);
  observed.clear();
  const asked = ask(good);
  setTimeout(() => observed.set("shop/chat-1", { service: "chat", uid }), 150);
  await expect(asked).resolves.toBeDefined();
  expect(logs).toEqual([]);
});
