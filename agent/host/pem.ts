/** Certificates in PEM, of which a text has any number. */

import type { X509Certificate } from "node:crypto";

const pemPattern = /-----BEGIN CERTIFICATE-----[\s\S]+?-----END CERTIFICATE-----/g;

/** Each certificate's own PEM, in their order; whether it can be read is another matter. */
export function pemBlocks(text: string): readonly string[] {
  return text.match(pemPattern) ?? [];
}

export function isSignedBy(certificate: X509Certificate, by: X509Certificate): boolean {
  return certificate.checkIssued(by) && certificate.verify(by.publicKey);
}
