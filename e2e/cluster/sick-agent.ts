/**
 * Agents for negative controls, in images of their own: bundled as the real one is, with a protection taken out of the
 * source text. A patch whose text is not found exactly once fails the bundle.
 */

import { readFile } from "node:fs/promises";
import path from "node:path";
import { build, type Plugin } from "esbuild";
import { bundleOptions } from "../../esbuild.config.ts";
import { type SourcePatch, withoutHold } from "../harness/source-patch.ts";

const root = path.resolve(import.meta.dirname, "../..");

/** By what the tag of the image ends with. */
export const sickAgents: Readonly<Record<string, readonly SourcePatch[]>> = { "without-hold": withoutHold };

/** Writes `main.js` and what it needs into `outdir`. */
export async function bundleSickAgent(patches: readonly SourcePatch[], outdir: string): Promise<void> {
  await build({
    ...bundleOptions,
    entryPoints: ["agent/main.ts"],
    outdir,
    plugins: [...(bundleOptions.plugins ?? []), patched(patches)],
  });
}

function patched(patches: readonly SourcePatch[]): Plugin {
  const files = Map.groupBy(patches, ({ file }) => path.join(root, file));
  return {
    name: "patched",
    setup({ onLoad, onEnd }) {
      const applied = new Set<string>();
      onLoad({ filter: /\.ts$/ }, async ({ path: file }) => {
        const ours = files.get(file);
        if (ours === undefined) return undefined;
        let contents = await readFile(file, "utf8");
        for (const { find, replace } of ours) {
          const count = contents.split(find).length - 1;
          if (count !== 1) throw new Error(`${file} has ${JSON.stringify(find)} ${count} times, expected once`);
          contents = contents.replace(find, () => replace);
        }
        applied.add(file);
        return { contents, loader: "ts" };
      });
      onEnd(() => {
        const missing = [...files.keys()].filter((file) => !applied.has(file));
        if (missing.length > 0) throw new Error(`no part of the bundle: ${missing.join(", ")}`);
      });
    },
  };
}
