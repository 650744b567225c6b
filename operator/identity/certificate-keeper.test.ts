import "reflect-metadata";
import { X509Certificate as Certificate, type webcrypto } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { CertificateKeeper } from "@leveros/agent/host/certificate-keeper.ts";
import { DiscoveryServer } from "@leveros/operator/discovery/discovery-server.ts";
import { runtimeClock } from "@leveros/protocol/clock/runtime-clock.ts";
import { decodeCertificateRequest } from "@leveros/protocol/control/certificate-request.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { defaultSessionLimits } from "@leveros/protocol/session/limits.ts";
import { Session } from "@leveros/protocol/session/session.ts";
import { memoryTransportPair } from "@leveros/protocol/transport/memory-transport.ts";
import { Pkcs10CertificateRequest } from "@peculiar/x509";
import { afterEach, beforeEach, expect, test } from "vitest";
import { EndpointTables } from "../core/endpoint-table.ts";
import { ServiceRegistry } from "../core/service-registry.ts";
import { type AuthorityPem, issue, makeAuthority, readAuthority } from "./authority.ts";
import { certificatesIn, eventually } from "./identity.fixture.ts";
import { dayMs, hourMs } from "./lifetimes.ts";

const clock = runtimeClock(globalThis);

/** An operator that issues whatever is asked for, at the time of the test, over memory. */
class Rig {
  readonly directory = mkdtempSync(path.join(tmpdir(), "lever-keeper-"));
  readonly tokenFile = path.join(this.directory, "token");
  readonly trustFile = path.join(this.directory, "ca.crt");
  readonly logs: string[] = [];
  /** What was asked for, by token. */
  readonly asked: string[] = [];
  nowMs = Date.now();
  /** How far the operator's clock is ahead of the agent's. */
  aheadMs = 0;
  monotonicMs = 0;
  fault: LeverError | undefined;
  authority: AuthorityPem = { certificate: "", key: "" };
  keeper!: CertificateKeeper;

  async start(): Promise<this> {
    this.authority = await makeAuthority(this.nowMs);
    const registry = new ServiceRegistry({ tables: new EndpointTables({ startVersion: 1, origin: "t" }), clock });
    const server = new DiscoveryServer({ registry, clock, calls: { issueCertificate: (args) => this.#issue(args) } });
    this.keeper = new CertificateKeeper({
      tokenFile: this.tokenFile,
      trustFile: this.trustFile,
      dial: async () => {
        const [a, b] = memoryTransportPair(clock);
        server.accept(b);
        const identity = { role: "agent" as const };
        return new Session({
          transport: a,
          clock,
          side: "dialer",
          identity,
          limits: defaultSessionLimits,
          handler: {},
        });
      },
      onLog: (level, text) => this.logs.push(`${level} ${text}`),
      wallMs: () => this.nowMs,
      now: () => this.monotonicMs,
      random: () => 0.5,
      lookMs: 20,
    });
    return this;
  }

  async #issue(args: readonly unknown[]): Promise<unknown> {
    const { token, request } = decodeCertificateRequest(args);
    this.asked.push(token);
    if (this.fault !== undefined) throw this.fault;
    const parsed = new Pkcs10CertificateRequest(Buffer.from(request, "base64"));
    const authority = await readAuthority(this.authority, [new Certificate(this.authority.certificate)]);
    const publicKey = (await parsed.publicKey.export()) as webcrypto.CryptoKey;
    const issued = await issue(authority, {
      publicKey,
      id: "spiffe://leveros.dev/operator/x",
      nowMs: this.nowMs + this.aheadMs,
    });
    return { certificate: issued.chain, bundle: this.authority.certificate, notAfterMs: issued.notAfterMs };
  }

  mount(): void {
    writeFileSync(this.tokenFile, "token-1\n");
    writeFileSync(this.trustFile, this.authority.certificate);
  }

  /** The certificate that is used. */
  get used(): string | undefined {
    return certificatesIn(this.keeper.current?.certificate)[0];
  }
}

let rig: Rig;
beforeEach(async () => {
  rig = await new Rig().start();
});
afterEach(() => {
  rig.keeper.close();
  rmSync(rig.directory, { recursive: true });
});

test("waits for what the kubelet mounts, says what is missing, and asks then", async () => {
  rig.keeper.start();
  await eventually(() => expect(rig.keeper.whyNotReady()).toMatch(/^no certificate yet: the trust bundle .*ENOENT/));
  rig.monotonicMs += hourMs;
  writeFileSync(rig.trustFile, rig.authority.certificate);
  await eventually(() => expect(rig.keeper.whyNotReady()).toMatch(/^no certificate yet: the token .*ENOENT/));
  rig.monotonicMs += hourMs;
  rig.mount();
  await eventually(() => expect(rig.keeper.whyNotReady()).toBeUndefined());
  expect(rig.asked).toEqual(["token-1"]);
  expect(rig.keeper.current?.notAfterMs).toBeGreaterThan(rig.nowMs + dayMs - 2000);
  const { certificate = "", key = "" } = rig.keeper.current ?? {};
  expect(new Certificate(certificate).checkPrivateKey((await import("node:crypto")).createPrivateKey(key))).toBe(true);
  expect(rig.logs.join("\n")).not.toContain("token-1");
});

test("renews after two thirds of its life, with another key and the token of then", async () => {
  rig.mount();
  rig.keeper.start();
  await rig.keeper.whenCurrent(5000);
  const [first, key] = [rig.used, rig.keeper.current?.key];
  writeFileSync(rig.tokenFile, "token-2");
  rig.nowMs += dayMs * 0.6;
  await new Promise((resolve) => setTimeout(resolve, 100));
  expect(rig.used).toBe(first);
  rig.nowMs += dayMs * 0.1;
  await eventually(() => expect(rig.used).not.toBe(first));
  expect(rig.keeper.current?.key).not.toBe(key);
  expect(rig.asked).toEqual(["token-1", "token-2"]);
});

test("goes on with what it has while the operator refuses, and says so once it has ended", async () => {
  rig.mount();
  rig.keeper.start();
  await rig.keeper.whenCurrent(5000);
  const first = rig.used;
  rig.fault = new LeverError("IDENTITY_UNAVAILABLE", "made up", { effect: "none" });
  rig.nowMs += dayMs * 0.7;
  await eventually(() => expect(rig.asked.length).toBeGreaterThan(1));
  expect(rig.used).toBe(first);
  expect(rig.keeper.whyNotReady()).toBeUndefined();
  rig.nowMs += dayMs;
  await eventually(() => expect(rig.keeper.whyNotReady()).toMatch(/^the certificate ended at \S+: made up/));
  expect(rig.logs.filter((text) => text.includes("made up"))).toHaveLength(1);
  rig.fault = undefined;
  rig.monotonicMs += hourMs;
  await eventually(() => expect(rig.keeper.whyNotReady()).toBeUndefined());
});

test("a clock that is set back prolongs no pause", async () => {
  rig.fault = new LeverError("IDENTITY_UNAVAILABLE", "made up", { effect: "none" });
  rig.mount();
  rig.nowMs += 2 * hourMs;
  rig.keeper.start();
  await eventually(() => expect(rig.asked).toHaveLength(1));
  rig.nowMs -= 2 * hourMs;
  rig.fault = undefined;
  rig.monotonicMs += 30_000;
  await eventually(() => expect(rig.keeper.whyNotReady()).toBeUndefined());
});

test("a certificate that has not begun, for a clock was set back, is no certificate: another one is asked for", async () => {
  rig.mount();
  rig.nowMs += 2 * hourMs;
  rig.keeper.start();
  await rig.keeper.whenCurrent(5000);
  const first = rig.used;
  rig.fault = new LeverError("IDENTITY_UNAVAILABLE", "made up", { effect: "none" });
  rig.nowMs -= 2 * hourMs;
  await eventually(() =>
    expect(rig.keeper.whyNotReady()).toMatch(/^the certificate begins at \S+, and here it is \S+: made up/),
  );
  expect(rig.used).toBe(first);
  rig.fault = undefined;
  rig.monotonicMs += 30_000;
  await eventually(() => expect(rig.keeper.whyNotReady()).toBeUndefined());
  expect(rig.used).not.toBe(first);
});

test("one that is not valid by the own clock as it comes is asked for anew with pauses, and told", async () => {
  rig.mount();
  rig.aheadMs = hourMs;
  rig.keeper.start();
  await eventually(() =>
    expect(rig.keeper.whyNotReady()).toMatch(/^the certificate begins at .*: the clocks of this node/),
  );
  await new Promise((resolve) => setTimeout(resolve, 100));
  expect(rig.asked).toHaveLength(1);
  rig.aheadMs = -2 * dayMs;
  rig.monotonicMs += 30_000;
  await eventually(() =>
    expect(rig.keeper.whyNotReady()).toMatch(/^the certificate ended at .*: the clocks of this node/),
  );
  expect(rig.asked).toHaveLength(2);
  expect(rig.logs.filter((text) => text.includes("the clocks of this node"))).toHaveLength(1);
  rig.aheadMs = 0;
  rig.monotonicMs += 30_000;
  await eventually(() => expect(rig.keeper.whyNotReady()).toBeUndefined());
});

test("takes on a bundle that has changed, keeps the last one that could be read, and asks anew if it is no longer trusted", async () => {
  rig.mount();
  rig.keeper.start();
  await rig.keeper.whenCurrent(5000);
  const first = rig.used;
  const [old, next] = [rig.authority, await makeAuthority(rig.nowMs)];
  let changes = 0;
  rig.keeper.subscribe(() => changes++);
  writeFileSync(rig.trustFile, old.certificate + next.certificate);
  await eventually(() => expect(certificatesIn(rig.keeper.current?.bundle)).toHaveLength(2));
  expect([rig.used, changes]).toEqual([first, 1]);
  writeFileSync(rig.trustFile, "nonsense");
  await eventually(() => expect(rig.logs.join("\n")).toContain("it has no certificate in PEM"));
  expect([certificatesIn(rig.keeper.current?.bundle).length, changes]).toEqual([2, 1]);
  // The CA was replaced.
  rig.authority = next;
  writeFileSync(rig.trustFile, next.certificate);
  await eventually(() => expect(rig.used).not.toBe(first));
  expect(certificatesIn(rig.keeper.current?.bundle)).toEqual(certificatesIn(next.certificate));
});

test("who waits for a certificate is told why there is none, in time", async () => {
  rig.fault = new LeverError("UNAUTHENTICATED", "made up", { effect: "none" });
  rig.mount();
  rig.keeper.start();
  await expect(rig.keeper.whenCurrent(300)).rejects.toMatchObject({ reason: "INVALID_IDENTITY", effect: "none" });
  expect(rig.keeper.whyNotReady()).toBe("no certificate yet: made up");
});
