/**
 * Negative controls: the same program with one protection taken out of its source text while it is loaded. No shipped
 * file has a switch for that. A patch whose text is not found exactly once ends the process that loads the file: a
 * control that changes nothing would show nothing.
 */

export interface SourcePatch {
  /** Path below the root of the repository. */
  readonly file: string;
  readonly find: string;
  readonly replace: string;
}

export const patchesVariable = "E2E_PATCHES";

/** Variables that have a Node process, and all that it starts, load its modules with the patches. */
export function patchEnvironment(patches: readonly SourcePatch[]): Record<string, string> {
  if (patches.length === 0) return {};
  return {
    [patchesVariable]: JSON.stringify(patches),
    NODE_OPTIONS: `--import=${new URL("./apply-patches.mjs", import.meta.url).href}`,
  };
}

/** An agent that does not hold calls for resources that move: it answers at once. */
export const withoutHold: readonly SourcePatch[] = [
  {
    file: "agent/core/relay.ts",
    find: 'if (this.#call.startsInHook && (row.holder === "" || row.isMoving)) {',
    replace: 'if (row.holder === "" || row.isMoving) {',
  },
  {
    file: "agent/core/relay.ts",
    find: "if (this.#call.startsInHook) return this.#fail(inTransition(error.rawMessage));",
    replace: "return this.#fail(inTransition(error.rawMessage));",
  },
];
