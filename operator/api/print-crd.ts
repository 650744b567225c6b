/** Writes the CustomResourceDefinitions that are generated from the schemas: `npx node operator/api/print-crd.ts`. */

import { writeFileSync } from "node:fs";
import { crdFile, customKinds, printCustomResourceDefinition } from "./crd.ts";

for (const kind of customKinds) {
  writeFileSync(new URL(`../../${crdFile(kind)}`, import.meta.url), printCustomResourceDefinition(kind));
}
