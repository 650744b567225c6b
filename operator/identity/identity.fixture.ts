/** Certificates and authorities for tests, among them such as Lever would not make. */

import "reflect-metadata";
import { X509Certificate as NodeCertificate, webcrypto } from "node:crypto";
import { pemBlocks } from "@leveros/agent/host/pem.ts";
import {
  BasicConstraintsExtension,
  type Extension,
  KeyUsageFlags,
  KeyUsagesExtension,
  X509Certificate,
  X509CertificateGenerator,
} from "@peculiar/x509";
import { vi } from "vitest";
import type { AuthorityPem } from "./authority.ts";

const ecdsa = (namedCurve: string) => ({ name: "ECDSA", namedCurve, hash: "SHA-256" });
const rsa = {
  name: "RSASSA-PKCS1-v1_5",
  hash: "SHA-256",
  modulusLength: 2048,
  publicExponent: new Uint8Array([1, 0, 1]),
};

/** The fingerprints of a PEM text's certificates, in their order. */
export function certificatesIn(pem: string | undefined): string[] {
  return pemBlocks(pem ?? "").map((block) => new NodeCertificate(block).fingerprint256);
}

/** Resolves when `check` does not throw any more; rejects with what it throws after 10 s. */
export function eventually<Value>(check: () => Value | Promise<Value>): Promise<Value> {
  return vi.waitFor(check, { timeout: 10_000 });
}

export interface ForeignOptions {
  readonly nowMs: number;
  readonly days?: number;
  readonly algorithm?: "P-256" | "P-384" | "P-521" | "RSA";
  readonly name?: string;
  readonly signer?: AuthorityPem;
  readonly isCa?: boolean;
  readonly usages?: number;
  /** Of the algorithm P-256: with the same key. */
  readonly keysOf?: AuthorityPem;
}

/** A CA as another tool makes it; with `signer` an intermediate one. */
export async function foreignAuthority({
  nowMs,
  days = 90,
  algorithm = "P-256",
  name = "Somebody's CA",
  signer,
  isCa = true,
  usages = KeyUsageFlags.keyCertSign,
  keysOf,
}: ForeignOptions): Promise<AuthorityPem> {
  const algorithms = algorithm === "RSA" ? rsa : ecdsa(algorithm);
  const keys =
    keysOf === undefined
      ? ((await webcrypto.subtle.generateKey(algorithms, true, ["sign", "verify"])) as webcrypto.CryptoKeyPair)
      : {
          publicKey: await new X509Certificate(keysOf.certificate).publicKey.export(),
          privateKey: await webcrypto.subtle.importKey("pkcs8", derOf(keysOf.key), algorithms, true, ["sign"]),
        };
  const extensions: Extension[] = [
    new BasicConstraintsExtension(isCa, undefined, true),
    new KeyUsagesExtension(usages, true),
  ];
  const common = {
    notBefore: new Date(nowMs - 60_000),
    notAfter: new Date(nowMs + days * 86_400_000),
    extensions,
  };
  const certificate =
    signer === undefined
      ? await X509CertificateGenerator.createSelfSigned({
          ...common,
          name: `CN=${name}`,
          signingAlgorithm: algorithms,
          keys,
        })
      : await X509CertificateGenerator.create({
          ...common,
          subject: `CN=${name}`,
          issuer: new X509Certificate(signer.certificate).subject,
          publicKey: keys.publicKey,
          signingKey: await webcrypto.subtle.importKey("pkcs8", derOf(signer.key), ecdsa("P-256"), false, ["sign"]),
          signingAlgorithm: ecdsa("P-256"),
        });
  return { certificate: `${certificate.toString("pem")}\n`, key: await pkcs8Pem(keys.privateKey) };
}

async function pkcs8Pem(key: webcrypto.CryptoKey): Promise<string> {
  const text = Buffer.from(await webcrypto.subtle.exportKey("pkcs8", key)).toString("base64");
  return `-----BEGIN PRIVATE KEY-----\n${text.match(/.{1,64}/g)?.join("\n")}\n-----END PRIVATE KEY-----\n`;
}

function derOf(pem: string): Buffer {
  return Buffer.from(pem.replace(/-----[^-]+-----|\s/g, ""), "base64");
}
