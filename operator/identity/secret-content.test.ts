import "reflect-metadata";
import { createPrivateKey } from "node:crypto";
import { KeyUsageFlags } from "@peculiar/x509";
import { beforeAll, describe, expect, test } from "vitest";
import type { AuthorityPem } from "./authority.ts";
import { foreignAuthority } from "./identity.fixture.ts";
import { readSecret, type SecretData } from "./secret-content.ts";

const nowMs = Date.now();
let root: AuthorityPem;
let middle: AuthorityPem;

beforeAll(async () => {
  root = await foreignAuthority({ nowMs, name: "root" });
  middle = await foreignAuthority({ nowMs, name: "middle", signer: root });
});

const of = ({ certificate, key }: AuthorityPem, bundle?: string): SecretData => ({
  "tls.crt": certificate,
  "tls.key": key,
  ...(bundle !== undefined && { "ca.crt": bundle }),
});

describe("what can be used", () => {
  test.each<[string, () => SecretData | Promise<SecretData>]>([
    ["a root", () => of(root, root.certificate)],
    ["a root without ca.crt", () => of(root)],
    ["an intermediate under its root", () => of(middle, root.certificate)],
    [
      "an intermediate with its root behind it",
      () => of({ ...middle, certificate: middle.certificate + root.certificate }),
    ],
    ["an intermediate that is itself trusted", () => of(middle, middle.certificate)],
    ["P-384", async () => of(await foreignAuthority({ nowMs, algorithm: "P-384" }))],
    ["RSA", async () => of(await foreignAuthority({ nowMs, algorithm: "RSA" }))],
    ["one that has ended: what it means is for those who sign", async () => of(await foreignAuthority({ nowMs: 0 }))],
    [
      "a key in SEC 1, as cert-manager writes it",
      () => {
        const key = createPrivateKey(root.key).export({ type: "sec1", format: "pem" }).toString();
        return of({ ...root, key });
      },
    ],
    ["text around the certificates", () => of(root, `# root\n${root.certificate}\n`)],
  ])("%s", async (_, data) => {
    expect(await readSecret(await data())).toMatchObject({ kind: "usable" });
  });
});

describe("what cannot be used, and why", () => {
  test.each<[string, () => SecretData | Promise<SecretData>, RegExp]>([
    ["no certificate", () => ({ ...of(root), "tls.crt": "" }), /^tls\.crt is missing/],
    ["no key", () => ({ ...of(root), "tls.key": "" }), /^tls\.key is missing/],
    ["a bundle alone", () => ({ "ca.crt": root.certificate }), /^tls\.crt is missing/],
    ["text for a certificate", () => ({ ...of(root), "tls.crt": "x" }), /^tls\.crt has no certificate/],
    [
      "a certificate that is cut off",
      () => ({ ...of(root), "tls.crt": root.certificate.replace(/[A-Za-z0-9+/]{40}\n/, "\n") }),
      /^tls\.crt has a certificate that cannot be read/,
    ],
    ["text for a key", () => ({ ...of(root), "tls.key": "x" }), /^tls\.key has no private key/],
    ["another's key", () => of({ ...root, key: middle.key }), /^tls\.key is not the key of tls\.crt/],
    ["a certificate that is no CA's", async () => of(await foreignAuthority({ nowMs, isCa: false })), /which is no CA/],
    [
      "one that may sign no certificates",
      async () => {
        const ca = await foreignAuthority({ nowMs, usages: KeyUsageFlags.digitalSignature });
        return of(ca, ca.certificate);
      },
      /which is no CA/,
    ],
    [
      "a kind of key that is not known",
      async () => of(await foreignAuthority({ nowMs, algorithm: "P-521" })),
      /^tls\.key is of another kind/,
    ],
    ["an intermediate without its root", () => of(middle), /^ca\.crt is missing/],
    [
      "an intermediate under another root",
      async () => of(middle, (await foreignAuthority({ nowMs, name: "root" })).certificate),
      /^ca\.crt does not have the CA that has signed/,
    ],
    ["too many certificates", () => of(root, root.certificate.repeat(33)), /^ca\.crt has over 32 certificates/],
    ["a short drain key", () => ({ ...of(root), "drain-key": "short" }), /^drain-key has 5 characters, expected 16/],
  ])("%s", async (_, data, message) => {
    expect(await readSecret(await data())).toMatchObject({
      kind: "broken",
      error: { reason: "INVALID_IDENTITY", rawMessage: expect.stringMatching(message) },
    });
  });

  test("no key is ever in what is told", async () => {
    const state = await readSecret({ ...of(root), "tls.key": "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n" });
    expect(JSON.stringify(state)).not.toContain("c2VjcmV0");
  });
});
