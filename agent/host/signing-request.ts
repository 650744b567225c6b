/**
 * A PKCS #10 certificate signing request (RFC 2986) for a P-256 key, with an empty subject and no attributes: all that it
 * says is the public key, and that who asks has the private one. `node:crypto` makes keys and signatures, and no requests.
 */

import { type KeyObject, sign } from "node:crypto";

const sequence = 0x30;
const bitString = 0x03;
/** 1.2.840.10045.4.3.2, ecdsa-with-SHA256. */
const ecdsaWithSha256 = Buffer.from("06082a8648ce3d040302", "hex");
const versionZero = Buffer.from("020100", "hex");
const noAttributes = Buffer.from("a000", "hex");

/** DER. */
export function signingRequest(keys: { readonly publicKey: KeyObject; readonly privateKey: KeyObject }): Buffer {
  const spki = keys.publicKey.export({ type: "spki", format: "der" });
  const information = der(sequence, versionZero, der(sequence), spki, noAttributes);
  const signature = sign("sha256", information, keys.privateKey);
  return der(sequence, information, der(sequence, ecdsaWithSha256), der(bitString, Buffer.from([0]), signature));
}

function der(tag: number, ...parts: readonly Buffer[]): Buffer {
  const content = Buffer.concat(parts);
  const { length } = content;
  const lengthBytes = length < 128 ? [length] : length < 256 ? [0x81, length] : [0x82, length >> 8, length & 0xff];
  return Buffer.concat([Buffer.from([tag, ...lengthBytes]), content]);
}
