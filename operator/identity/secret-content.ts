/**
 * What is in the Secret of the operator's identity, and what it is worth.
 *
 * `tls.crt`, `tls.key`: the CA that signs. `ca.crt`: all CAs that are trusted. `drain-key`: the secret that the paths of
 * drain hooks are made from. Of a CA that Lever has made itself there is `rotation.json` too, which names it by its
 * fingerprint, and while the next one is waiting `next.crt` and `next.key`. A CA that `rotation.json` does not name is
 * somebody else's, cert-manager's say, whatever was left of one before it: it is used as it is, and never written. What
 * cannot be used is told, and never written over either.
 */

import type { X509Certificate } from "node:crypto";
import { isSignedBy } from "@leveros/agent/host/pem.ts";
import type { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { type Authority, broken, certificatesOf, readAuthority } from "./authority.ts";

export const certificateKey = "tls.crt";
export const privateKeyKey = "tls.key";
export const bundleKey = "ca.crt";
export const drainKeyKey = "drain-key";
export const nextCertificateKey = "next.crt";
export const nextPrivateKeyKey = "next.key";
export const rotationKey = "rotation.json";
/** On the Secret, with the value `now`: make the next CA. */
export const rotateAnnotation = "leveros.dev/rotate";
/** On the Secret, with the value `now`: make all that is in it anew, at once. */
export const replaceAnnotation = "leveros.dev/replace-ca";

const drainKeyCharsMin = 16;

/** Decoded, by key. */
export type SecretData = Readonly<Record<string, string>>;

/** Where the rotation of the own CA is. */
export interface Rotation {
  /** The next one is trusted since then, and waits. */
  readonly announcedAtMs?: number;
  /** The one that signs does so since then; the one before is still trusted. */
  readonly switchedAtMs?: number;
}

export type SecretState =
  /** No CA in it: it is to be filled. */
  | { readonly kind: "empty" }
  | { readonly kind: "usable"; readonly identity: SecretIdentity }
  | { readonly kind: "broken"; readonly error: LeverError };

export interface SecretIdentity {
  readonly authority: Authority;
  readonly bundle: readonly X509Certificate[];
  /** PEM. */
  readonly bundlePem: string;
  /** Undefined: none is there yet. */
  readonly drainKey: string | undefined;
  /** Undefined: the CA is somebody else's. */
  readonly rotation: Rotation | undefined;
  /** Of the rotation. */
  readonly next: Authority | undefined;
}

/** Of a Secret's `data`, in base64. */
export function secretData(data: Readonly<Record<string, string>> | null | undefined): SecretData {
  return Object.fromEntries(
    Object.entries(data ?? {}).map(([key, value]) => [key, Buffer.from(value, "base64").toString("utf8")]),
  );
}

export async function readSecret(data: SecretData): Promise<SecretState> {
  try {
    const [certificate, key, bundle] = [certificateKey, privateKeyKey, bundleKey].map((name) => textOf(data, name));
    const hasNext = textOf(data, nextCertificateKey) !== undefined;
    if (certificate === undefined && key === undefined && bundle === undefined) {
      if (textOf(data, rotationKey) === undefined && !hasNext) return { kind: "empty" };
    }
    if (certificate === undefined) throw broken(certificateKey, "is missing");
    if (key === undefined) throw broken(privateKeyKey, "is missing");
    const roots = bundle === undefined ? rootOf(certificate) : certificatesOf(bundleKey, bundle);
    const authority = await readAuthority({ certificate, key }, roots);
    const rotation = rotationOf(textOf(data, rotationKey), fingerprintOf(certificate));
    const drainKey = textOf(data, drainKeyKey);
    if (drainKey !== undefined && drainKey.length < drainKeyCharsMin) {
      throw broken(drainKeyKey, `has ${drainKey.length} characters, expected ${drainKeyCharsMin} or more`);
    }
    const next = hasNext && rotation !== undefined ? await nextOf(data, roots) : undefined;
    if (rotation !== undefined && (rotation.announcedAtMs !== undefined) !== (next !== undefined)) {
      throw broken(rotationKey, next === undefined ? "tells of a next CA that is not there" : "tells of no next CA");
    }
    return {
      kind: "usable",
      identity: { authority, bundle: roots, bundlePem: pemOf(roots), drainKey, rotation, next },
    };
  } catch (error) {
    return { kind: "broken", error: error as LeverError };
  }
}

export function pemOf(certificates: readonly X509Certificate[]): string {
  return certificates.map((certificate) => certificate.toString()).join("");
}

/** `certificate`: PEM of the CA that signs. */
export function rotationText({ announcedAtMs, switchedAtMs }: Rotation, certificate: string): string {
  const at = (ms: number | undefined) => (ms === undefined ? undefined : new Date(ms).toISOString());
  return JSON.stringify({
    madeBy: "lever-operator",
    ca: fingerprintOf(certificate),
    announcedAt: at(announcedAtMs),
    switchedAt: at(switchedAtMs),
  });
}

/** SHA-256 of the first certificate. */
function fingerprintOf(certificate: string): string {
  return (certificatesOf(certificateKey, certificate)[0] as X509Certificate).fingerprint256;
}

/** What a chart has left empty is not there. */
function textOf(data: SecretData, key: string): string | undefined {
  return data[key]?.trim() || undefined;
}

async function nextOf(data: SecretData, roots: readonly X509Certificate[]): Promise<Authority> {
  const [certificate, key] = [textOf(data, nextCertificateKey) ?? "", textOf(data, nextPrivateKeyKey)];
  if (key === undefined) throw broken(nextPrivateKeyKey, "is missing");
  return await readAuthority({ certificate, key }, roots, { certificate: nextCertificateKey, key: nextPrivateKeyKey });
}

/** Undefined: there is none, or it is of another CA than the one of this fingerprint. */
function rotationOf(text: string | undefined, fingerprint: string): Rotation | undefined {
  if (text === undefined) return undefined;
  let found: { readonly ca?: unknown; readonly announcedAt?: unknown; readonly switchedAt?: unknown };
  try {
    found = JSON.parse(text) as typeof found;
  } catch (cause) {
    throw broken(rotationKey, "is not JSON", cause);
  }
  if (found?.ca !== fingerprint) return undefined;
  const at = (name: "announcedAt" | "switchedAt") => {
    const value = found?.[name];
    if (value === undefined) return undefined;
    const ms = typeof value === "string" ? Date.parse(value) : Number.NaN;
    if (Number.isNaN(ms))
      throw broken(rotationKey, `has ${name} ${JSON.stringify(value)?.slice(0, 100)}, expected a time`);
    return ms;
  };
  const [announcedAtMs, switchedAtMs] = [at("announcedAt"), at("switchedAt")];
  return { ...(announcedAtMs !== undefined && { announcedAtMs }), ...(switchedAtMs !== undefined && { switchedAtMs }) };
}

/** Some issuers leave `ca.crt` out: a root is its own. */
function rootOf(certificate: string): X509Certificate[] {
  const last = certificatesOf(certificateKey, certificate).at(-1) as X509Certificate;
  if (!isSignedBy(last, last)) throw broken(bundleKey, "is missing, and tls.crt does not end with a root");
  return [last];
}
