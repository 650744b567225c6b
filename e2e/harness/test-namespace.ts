/** Namespaces of tests: marked, so that what they leave can be read and removed on whatever cluster it is. */

import { randomBytes } from "node:crypto";
import { kubectl } from "./kubectl.ts";

export const testNamespaceLabel = "leveros.dev/e2e=true";

/** Makes a namespace whose name begins with `prefix`. It stays until the run is over, for the logs of what failed. */
export async function testNamespace(prefix: string): Promise<string> {
  const name = `${prefix}-${randomBytes(4).toString("hex")}`;
  await kubectl(["create", "namespace", name]);
  await kubectl(["label", "namespace", name, testNamespaceLabel]);
  return name;
}
