/** The cluster's keys and certificates: one authority for everything, for the life of one cluster. */

import { generateKeyPairSync } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import { run } from "./command.ts";

const validDays = "30";

export class CertificateAuthority {
  readonly directory: string;

  constructor(directory: string) {
    this.directory = directory;
  }

  /** Path of `name`'s certificate or key. */
  file(name: string, kind: "crt" | "key" | "pub"): string {
    return path.join(this.directory, `${name}.${kind}`);
  }

  async create(): Promise<void> {
    await this.#request("ca", "/CN=lever-e2e-ca", [
      "basicConstraints=critical,CA:TRUE",
      "keyUsage=critical,keyCertSign,digitalSignature,cRLSign",
    ]);
  }

  /** A certificate for both sides of a connection; `names` as in `DNS:a,IP:127.0.0.1`. */
  async issue(name: string, subject: string, names?: string): Promise<void> {
    await this.#request(
      name,
      subject,
      [
        "basicConstraints=critical,CA:FALSE",
        "keyUsage=critical,digitalSignature",
        "extendedKeyUsage=serverAuth,clientAuth",
        ...(names === undefined ? [] : [`subjectAltName=${names}`]),
      ],
      ["-CA", this.file("ca", "crt"), "-CAkey", this.file("ca", "key")],
    );
  }

  /** A key pair without a certificate, as service-account tokens are signed with. */
  async keyPair(name: string): Promise<void> {
    const { privateKey, publicKey } = generateKeyPairSync("ec", {
      namedCurve: "P-256",
      privateKeyEncoding: { type: "pkcs8", format: "pem" },
      publicKeyEncoding: { type: "spki", format: "pem" },
    });
    await writeFile(this.file(name, "key"), privateKey, { mode: 0o600 });
    await writeFile(this.file(name, "pub"), publicKey);
  }

  /** A kubeconfig for whoever holds `name`'s certificate. */
  async kubeconfig(name: string, server: string): Promise<string> {
    const base64 = async (file: string) => (await readFile(file)).toString("base64");
    const cluster = { server, "certificate-authority-data": await base64(this.file("ca", "crt")) };
    const user = {
      "client-certificate-data": await base64(this.file(name, "crt")),
      "client-key-data": await base64(this.file(name, "key")),
    };
    const config = {
      apiVersion: "v1",
      kind: "Config",
      "current-context": "lever-e2e",
      contexts: [{ name: "lever-e2e", context: { cluster: "lever-e2e", user: name } }],
      clusters: [{ name: "lever-e2e", cluster }],
      users: [{ name, user }],
    };
    const file = path.join(this.directory, `${name}.kubeconfig`);
    await writeFile(file, JSON.stringify(config), { mode: 0o600 });
    return file;
  }

  async #request(name: string, subject: string, extensions: readonly string[], signer: readonly string[] = []) {
    const key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-keyout", this.file(name, "key")];
    const added = extensions.flatMap((extension) => ["-addext", extension]);
    // Without a configuration, whose own extensions would come on top.
    const args = ["req", "-config", "/dev/null", "-x509", "-days", validDays, "-subj", subject];
    await run("openssl", [...args, ...key, ...added, ...signer, "-out", this.file(name, "crt")]);
  }
}
