/** Writes the CustomResourceDefinition that is generated from the schema into its file: `npx node operator/api/print-crd.ts`. */

import { writeFileSync } from "node:fs";
import { crdFile, printLeverServiceCrd } from "./crd.ts";

writeFileSync(new URL(`../../${crdFile}`, import.meta.url), printLeverServiceCrd());
