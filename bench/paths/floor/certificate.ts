/** A certificate for one run, made by the `openssl` command: Node can read certificates but not issue them. */

import { execFile } from "node:child_process";
import { promisify } from "node:util";

/** The name in the certificate. */
export const SERVER_NAME = "lever-bench";

/** The paths of a self-signed P-256 certificate and its key in `directory`; `undefined` without `openssl`. */
export async function certificate(directory: string): Promise<{ certificate: string; key: string } | undefined> {
  const files = { certificate: `${directory}/certificate.pem`, key: `${directory}/key.pem` };
  const curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
  const name = ["-subj", `/CN=${SERVER_NAME}`, "-addext", `subjectAltName=DNS:${SERVER_NAME}`, "-days", "1"];
  const out = ["-out", files.certificate, "-keyout", files.key];
  try {
    await promisify(execFile)("openssl", ["req", "-x509", ...curve, ...name, ...out], { timeout: 20_000 });
    return files;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}
