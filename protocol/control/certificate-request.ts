/**
 * How an agent or a gateway asks the operator for its certificate:
 * `lever://lever-system/operator/issueCertificate`, on a session where it has proven nothing yet.
 *
 * One argument, `{ token, request }`: its service account token, for the operator's audience and bound to its pod, and a
 * PKCS #10 certificate signing request (DER, base64) of a P-256 key, whose subject and attributes mean nothing. The result
 * is `{ certificate, bundle, notAfterMs }`.
 */

import { FieldReader } from "./field-reader.ts";

export const issueCertificateMethod = "issueCertificate";

/** Tokens of service accounts have about 1 KB. */
export const tokenCharsMax = 16_384;
export const requestCharsMax = 8192;
const pemCharsMax = 256 * 1024;

export interface CertificateRequest {
  readonly token: string;
  readonly request: string;
}

export interface CertificateAnswer {
  /** PEM: the certificate, then what its peers need beside the bundle. */
  readonly certificate: string;
  /** PEM of all trusted CAs. */
  readonly bundle: string;
  /** Since 1970: when it ends. */
  readonly notAfterMs: number;
}

/** Throws INVALID_ARGUMENTS (`details.field`). */
export function decodeCertificateRequest(args: readonly unknown[]): CertificateRequest {
  const fields = new FieldReader(args[0], "args[0]", "INVALID_ARGUMENTS");
  return {
    // Whatever it is, no part of it is shown.
    token: fields.text("token", tokenCharsMax),
    request: fields.text("request", requestCharsMax, (text) => /^[\w+/=]+$/.test(text), "a request in DER, as base64"),
  };
}

/** Throws PROTOCOL_VIOLATION (`details.field`). */
export function decodeCertificateAnswer(value: unknown): CertificateAnswer {
  const fields = new FieldReader(value, "result", "PROTOCOL_VIOLATION");
  const isPem = (text: string) => text.includes("-----BEGIN CERTIFICATE-----");
  return {
    certificate: fields.text("certificate", pemCharsMax, isPem, "certificates in PEM"),
    bundle: fields.text("bundle", pemCharsMax, isPem, "certificates in PEM"),
    notAfterMs: fields.integer("notAfterMs", 0, Number.MAX_SAFE_INTEGER),
  };
}
