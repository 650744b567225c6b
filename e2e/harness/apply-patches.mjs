/** Loaded before a program (`--import`): applies the patches of E2E_PATCHES to modules as they are read. */

import { registerHooks } from "node:module";

const root = new URL("../../", import.meta.url).href;
/** @type {{ file: string, find: string, replace: string }[]} */
const patches = JSON.parse(process.env.E2E_PATCHES ?? "[]");

registerHooks({
  load(url, context, nextLoad) {
    const loaded = nextLoad(url, context);
    const ours = patches.filter(({ file }) => url === root + file);
    if (ours.length === 0) return loaded;
    let text = String(typeof loaded.source === "string" ? loaded.source : Buffer.from(loaded.source));
    for (const { file, find, replace } of ours) {
      const count = text.split(find).length - 1;
      if (count !== 1) {
        console.error(`${file} has ${JSON.stringify(find)} ${count} times, and a patch of a test wants it once`);
        process.exit(70);
      }
      text = text.replace(find, () => replace);
    }
    return { ...loaded, source: text };
  },
});
