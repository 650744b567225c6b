/**
 * `npm run bundle`: the programs of the images, each as one file without dependencies: `dist/operator/main.js` of
 * `operator/main.ts`. Containerfiles copy a folder of `dist` as it is.
 *
 * Arguments are the programs to bundle instead of all: `npm run bundle -- examples/chat/main.ts`. Programs of one folder
 * share what they have in common.
 */

import { globSync } from "node:fs";
import { mkdir, rm, writeFile } from "node:fs/promises";
import path from "node:path";
import { type BuildOptions, build, type Plugin } from "esbuild";

const root = import.meta.dirname;
const programs = "{operator,agent,gateway,examples/*}/main.ts";

/**
 * What is loaded and never used takes 9 MiB of the 70 that an idle agent has without this. An `import` of "node:http"
 * reads all that the module has, which brings `fetch`, TLS and HTTP/2 along; and the metrics' library loads a client of
 * its push gateway, and of OpenTelemetry, for options that nobody sets.
 */
export const withoutUnused: Plugin = {
  name: "without-unused",
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /^node:/ }, ({ path }) => ({ path, namespace: "builtin" }));
    onLoad({ filter: /.*/, namespace: "builtin" }, ({ path }) => ({
      contents: `module.exports = process.getBuiltinModule(${JSON.stringify(path)});`,
    }));
    const unused = /[\\/]node_modules[\\/](prom-client[\\/]lib[\\/]pushgateway\.js|@opentelemetry[\\/]api[\\/].*)$/;
    onLoad({ filter: unused }, () => ({ contents: "module.exports = {};" }));
  },
};

/** Of every bundle. */
export const bundleOptions: BuildOptions = {
  absWorkingDir: root,
  bundle: true,
  platform: "node",
  format: "esm",
  target: "node24",
  minifyWhitespace: true,
  // What errors and logs call things by.
  keepNames: true,
  legalComments: "linked",
  plugins: [withoutUnused],
  // For libraries in the old form that ask for Node's own modules.
  banner: {
    js: 'import { createRequire as $createRequire } from "node:module"; const require = $createRequire(import.meta.url);',
  },
};

async function main(given: readonly string[]): Promise<void> {
  const files = given.length > 0 ? given : globSync(programs, { cwd: root });
  const folders = Map.groupBy(files, (file) => path.dirname(file));
  for (const [folder, entryPoints] of folders) {
    const outdir = path.join(root, "dist", folder);
    await rm(outdir, { recursive: true, force: true });
    await mkdir(outdir, { recursive: true });
    await build({ ...bundleOptions, entryPoints, outdir, splitting: entryPoints.length > 1 });
    await writeFile(path.join(outdir, "package.json"), '{ "type": "module" }\n');
  }
}

if (import.meta.main) await main(process.argv.slice(2));
