/** Writes what of charts/lever is generated: `npx node charts/print-chart.ts`. */

import { globSync, mkdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { generatedChartFiles } from "./chart.ts";

const root = path.resolve(import.meta.dirname, "..");

for (const [file, text] of Object.entries(generatedChartFiles(globSync("crds/*.yaml", { cwd: root })))) {
  mkdirSync(path.join(root, path.dirname(file)), { recursive: true });
  writeFileSync(path.join(root, file), text);
}
