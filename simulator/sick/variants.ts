/**
 * Ways in which ownership could be built wrongly, each a patch of the source text; the numbers are those of the list that
 * the rules of ownership keep. The simulator has to find every one of them.
 */

import type { Patch } from "./patch.ts";

export interface Variant {
  readonly number: number;
  readonly name: string;
  readonly patches: readonly Patch[];
}

export const variants: readonly Variant[] = [];
