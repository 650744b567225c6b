/**
 * Source text that is changed while it is loaded: how the simulator is shown to find what is wrong. Nothing on disk is
 * touched, and no shipped file has a switch for it.
 */

import { registerHooks } from "node:module";
import path from "node:path";

export interface Patch {
  /** From the root of the repository. */
  readonly file: string;
  /** Text that is in the file exactly once. */
  readonly find: string;
  readonly replace: string;
}

const root = path.join(import.meta.dirname, "../..");

/** Of a patch whose text is not there once. */
export class PatchMismatch extends Error {
  constructor({ file, find }: Patch, times: number) {
    super(`${file} has the text ${times} times, expected once:\n${find}`);
    this.name = "PatchMismatch";
  }
}

export function applyPatches(source: string, patches: readonly Patch[]): string {
  let text = source;
  for (const patch of patches) {
    const times = text.split(patch.find).length - 1;
    if (times !== 1) throw new PatchMismatch(patch, times);
    text = text.replace(patch.find, () => patch.replace);
  }
  return text;
}

/** For all that this thread loads from now on. The function that it returns throws if a file was never loaded. */
export function loadPatched(patches: readonly Patch[]): () => void {
  const byFile = new Map<string, Patch[]>();
  for (const patch of patches) {
    const url = new URL(`file://${path.join(root, patch.file)}`).href;
    byFile.set(url, [...(byFile.get(url) ?? []), patch]);
  }
  const loaded = new Set<string>();
  registerHooks({
    load(url, context, nextLoad) {
      const result = nextLoad(url, context);
      const own = byFile.get(url);
      if (own === undefined) return result;
      loaded.add(url);
      return { ...result, source: applyPatches(String(result.source), own) };
    },
  });
  return () => {
    for (const url of byFile.keys()) if (!loaded.has(url)) throw new Error(`the patched ${url} was never loaded`);
  };
}
