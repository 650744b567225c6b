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
    ["an intermediate, in the bundle too, under its root", () => of(middle, middle.certificate + root.certificate)],
    [
      "one two below its root, the one between in the bundle",
      async () => of(await foreignAuthority({ nowMs, signer: middle }), root.certificate + middle.certificate),
    ],
    [
      "one two below its root, the one between behind it",
      async () => {
        const lowest = await foreignAuthority({ nowMs, signer: middle });
        return of({ ...lowest, certificate: lowest.certificate + middle.certificate }, root.certificate);
      },
    ],
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

test("an authority ends when one above it does, by the way that lasts longest", async () => {
  const dayMs = 86_400_000;
  const ends = async (data: SecretData) => {
    const state = await readSecret(data);
    return state.kind === "usable" && Math.round((state.identity.authority.notAfterMs - nowMs) / dayMs);
  };
  const short = await foreignAuthority({ nowMs, name: "root", days: 10 });
  expect(await ends(of(root, root.certificate))).toBe(90);
  expect(await ends(of(await foreignAuthority({ nowMs, signer: short, days: 30 }), short.certificate))).toBe(10);
  // A root that was renewed with the key that it had.
  const renewed = await foreignAuthority({ nowMs, name: "root", days: 60, keysOf: short });
  const below = of(await foreignAuthority({ nowMs, signer: short, days: 30 }), short.certificate + renewed.certificate);
  expect(await ends(below)).toBe(30);
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
    [
      "an intermediate alone in the bundle",
      () => of(middle, middle.certificate),
      /^ca\.crt does not have the CA that has signed "CN=middle", which is "CN=root": add its certificate/,
    ],
    [
      "a root behind an intermediate, and none in the bundle",
      () => of({ ...middle, certificate: middle.certificate + root.certificate }, middle.certificate),
      /^ca\.crt does not have "CN=root", the root that tls\.crt leads to: add its certificate/,
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
