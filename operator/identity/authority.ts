/**
 * A certificate authority: how one is made, how one is read from PEM, and what it signs.
 *
 * An authority that was read can sign: its key is that of its certificate, which may sign certificates, and its chain
 * leads to a root in the bundle (peers trust nothing less). Keys may be P-256, P-384 or RSA (cert-manager makes any of
 * them); what Lever makes is P-256.
 *
 * Source: RFC 5280; the SPIFFE X.509-SVID standard.
 */

import "reflect-metadata";
import { createPrivateKey, X509Certificate as NodeCertificate, randomBytes, webcrypto } from "node:crypto";
import { isSignedBy, pemBlocks } from "@leveros/agent/host/pem.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import {
  AuthorityKeyIdentifierExtension,
  BasicConstraintsExtension,
  ExtendedKeyUsage,
  ExtendedKeyUsageExtension,
  KeyUsageFlags,
  KeyUsagesExtension,
  SubjectAlternativeNameExtension,
  SubjectKeyIdentifierExtension,
  X509Certificate,
  X509CertificateGenerator,
} from "@peculiar/x509";
import { authorityLifeMs, certificateLifeMs, clockSkewMs } from "./lifetimes.ts";

const p256 = { name: "ECDSA", namedCurve: "P-256", hash: "SHA-256" } as const;
/** Of a bundle, or of a chain. */
const certificatesMax = 32;

/** As PEM. */
export interface AuthorityPem {
  readonly certificate: string;
  readonly key: string;
}

export interface Authority {
  readonly certificate: X509Certificate;
  /** What is sent behind a certificate that it has signed: PEM, without the roots, which peers have. */
  readonly chain: string;
  readonly key: webcrypto.CryptoKey;
  readonly algorithm: { readonly name: string; readonly hash: string };
  readonly notBeforeMs: number;
  /** When it ends, or one above it does: then nobody trusts what it has signed. */
  readonly notAfterMs: number;
}

/** A new CA, which nobody trusts yet. */
export async function makeAuthority(nowMs: number): Promise<AuthorityPem> {
  const keys = await webcrypto.subtle.generateKey(p256, true, ["sign", "verify"]);
  const serialNumber = newSerial();
  const certificate = await X509CertificateGenerator.createSelfSigned({
    serialNumber,
    // Of its own: peers find the one that has signed by its name.
    name: `CN=Lever CA ${serialNumber.slice(-8)}, O=leveros.dev`,
    notBefore: new Date(nowMs - clockSkewMs),
    notAfter: new Date(nowMs + authorityLifeMs),
    signingAlgorithm: p256,
    keys,
    extensions: [
      new BasicConstraintsExtension(true, 0, true),
      new KeyUsagesExtension(KeyUsageFlags.keyCertSign | KeyUsageFlags.cRLSign, true),
      await SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  const pkcs8 = Buffer.from(await webcrypto.subtle.exportKey("pkcs8", keys.privateKey)).toString("base64");
  const lines = pkcs8.match(/.{1,64}/g)?.join("\n");
  return {
    certificate: `${certificate.toString("pem")}\n`,
    key: `-----BEGIN PRIVATE KEY-----\n${lines}\n-----END PRIVATE KEY-----\n`,
  };
}

/** The certificates of a PEM text, in their order. Throws INVALID_IDENTITY naming `field`. */
export function certificatesOf(field: string, pem: string): NodeCertificate[] {
  const blocks = pemBlocks(pem);
  if (blocks.length === 0) throw broken(field, "has no certificate in PEM");
  if (blocks.length > certificatesMax) throw broken(field, `has over ${certificatesMax} certificates`);
  return blocks.map((block) => {
    try {
      return new NodeCertificate(block);
    } catch (cause) {
      throw broken(field, "has a certificate that cannot be read", cause);
    }
  });
}

/**
 * The authority of `tls.crt` (perhaps with intermediates behind it) and `tls.key`, whose certificates are trusted by
 * `bundle`. Throws INVALID_IDENTITY saying which field is wrong, and how; a certificate that has ended is no error here.
 */
export async function readAuthority(
  { certificate, key }: AuthorityPem,
  bundle: readonly NodeCertificate[],
  fields: { readonly certificate: string; readonly key: string } = { certificate: "tls.crt", key: "tls.key" },
): Promise<Authority> {
  const chain = certificatesOf(fields.certificate, certificate);
  const own = chain[0] as NodeCertificate;
  if (!own.ca) throw broken(fields.certificate, `is of ${subject(own)}, which is no CA`);
  let privateKey: ReturnType<typeof createPrivateKey>;
  try {
    privateKey = createPrivateKey(key);
  } catch (cause) {
    throw broken(fields.key, "has no private key in PEM", cause);
  }
  if (!own.checkPrivateKey(privateKey)) throw broken(fields.key, `is not the key of ${fields.certificate}`);
  const notAfterMs = trustedUntilMs(own, chain, bundle);
  if (notAfterMs === undefined) throw broken("ca.crt", whatIsMissing(own, [...chain, ...bundle], fields.certificate));
  const { import: importAs, sign } = algorithmOf(fields.key, privateKey);
  return {
    certificate: new X509Certificate(own.raw),
    chain: chain
      .filter((link) => !isSignedBy(link, link))
      .map((link) => link.toString())
      .join(""),
    key: await webcrypto.subtle.importKey(
      "pkcs8",
      privateKey.export({ type: "pkcs8", format: "der" }),
      importAs,
      false,
      ["sign"],
    ),
    algorithm: sign,
    notBeforeMs: own.validFromDate.getTime(),
    notAfterMs,
  };
}

/**
 * When the first one on the way from `own` to a root of the bundle ends, by the way that lasts longest; undefined: there is
 * no way.
 */
function trustedUntilMs(
  own: NodeCertificate,
  chain: readonly NodeCertificate[],
  bundle: readonly NodeCertificate[],
): number | undefined {
  const until = new Map<NodeCertificate, number>();
  const queue: NodeCertificate[] = [];
  const reached = (certificate: NodeCertificate, signerUntilMs: number) => {
    const ms = Math.min(certificate.validToDate.getTime(), signerUntilMs);
    if ((until.get(certificate) ?? Number.NEGATIVE_INFINITY) >= ms) return;
    until.set(certificate, ms);
    queue.push(certificate);
  };
  const known = [...chain, ...bundle];
  for (const root of bundle) {
    if (!isSignedBy(root, root)) continue;
    for (const same of known) if (same.raw.equals(root.raw)) reached(same, Number.POSITIVE_INFINITY);
  }
  for (let signer = queue.pop(); signer !== undefined; signer = queue.pop()) {
    const signerUntilMs = until.get(signer) as number;
    for (const certificate of known) {
      if (certificate !== signer && isSignedBy(certificate, signer)) reached(certificate, signerUntilMs);
    }
  }
  return until.get(own);
}

/** Of the bundle, when it does not have the root that `own` leads to. */
function whatIsMissing(own: NodeCertificate, known: readonly NodeCertificate[], field: string): string {
  let top = own;
  const below = new Set<NodeCertificate>();
  for (let signer: NodeCertificate | undefined = own; signer !== undefined; ) {
    top = signer;
    below.add(top);
    signer = known.find((other) => !below.has(other) && isSignedBy(top, other));
  }
  if (isSignedBy(top, top))
    return `does not have ${subject(top)}, the root that ${field} leads to: add its certificate`;
  const above = JSON.stringify(top.issuer.replaceAll("\n", ", ").slice(0, 200));
  return (
    `does not have the CA that has signed ${subject(top)}, which is ${above}: add its certificate, and those above it ` +
    "up to the self-signed root; an intermediate CA alone is trusted by nobody"
  );
}

export interface CertificateOrder {
  readonly publicKey: webcrypto.CryptoKey;
  /** The one URI it is for. */
  readonly id: string;
  readonly nowMs: number;
}

export interface IssuedCertificate {
  /** PEM: the certificate, then what its peers need beside the bundle. */
  readonly chain: string;
  readonly notAfterMs: number;
}

/** Signs a certificate of `certificateLifeMs`, or less if the authority ends before. */
export async function issue(
  { certificate, chain, key, algorithm, notAfterMs }: Authority,
  { publicKey, id, nowMs }: CertificateOrder,
): Promise<IssuedCertificate> {
  const ends = Math.min(nowMs + certificateLifeMs, notAfterMs);
  const issued = await X509CertificateGenerator.create({
    serialNumber: newSerial(),
    issuer: certificate.subject,
    notBefore: new Date(nowMs - clockSkewMs),
    notAfter: new Date(ends),
    signingAlgorithm: algorithm,
    publicKey,
    signingKey: key,
    extensions: [
      new BasicConstraintsExtension(false, undefined, true),
      new KeyUsagesExtension(KeyUsageFlags.digitalSignature, true),
      new ExtendedKeyUsageExtension([ExtendedKeyUsage.serverAuth, ExtendedKeyUsage.clientAuth]),
      // The subject is empty: then this one is critical.
      new SubjectAlternativeNameExtension([{ type: "url", value: id }], true),
      await AuthorityKeyIdentifierExtension.create(certificate.publicKey),
    ],
  });
  // Whole seconds are all that a certificate has.
  return { chain: `${issued.toString("pem")}\n${chain}`, notAfterMs: issued.notAfter.getTime() };
}

function newSerial(): string {
  const bytes = randomBytes(16);
  // Positive, and its first byte not zero.
  bytes[0] = ((bytes[0] as number) & 0x7f) | 0x40;
  return bytes.toString("hex");
}

function algorithmOf(field: string, key: ReturnType<typeof createPrivateKey>) {
  const { asymmetricKeyType: type, asymmetricKeyDetails: details } = key;
  if (type === "ec" && (details?.namedCurve === "prime256v1" || details?.namedCurve === "secp384r1")) {
    const isP256 = details.namedCurve === "prime256v1";
    return {
      import: { name: "ECDSA", namedCurve: isP256 ? "P-256" : "P-384" },
      sign: { name: "ECDSA", hash: isP256 ? "SHA-256" : "SHA-384" },
    };
  }
  if (type === "rsa" && (details?.modulusLength ?? 0) >= 2048) {
    const sign = { name: "RSASSA-PKCS1-v1_5", hash: "SHA-256" };
    return { import: sign, sign };
  }
  throw broken(field, "is of another kind than P-256, P-384 or RSA of 2048 bits or more");
}

function subject({ subject: name }: NodeCertificate): string {
  return JSON.stringify(name?.replaceAll("\n", ", ").slice(0, 200) ?? "");
}

export function broken(field: string, what: string, cause?: unknown): LeverError {
  return new LeverError("INVALID_IDENTITY", `${field} ${what}`, cause === undefined ? {} : { cause });
}
