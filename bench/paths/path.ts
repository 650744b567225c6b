/** What a path is to the bench: a name, and how its processes are started. */

import type { Stage } from "../control/stage.ts";

export interface Path {
  readonly name: string;
  /** What a call crosses, in one line that is printed with the results. */
  readonly about: string;
  /**
   * Starts every process of the path through `stage`, the client last, and resolves when a call can be made.
   * Throws `PathUnavailable` where this machine lacks what the path needs: it is then left out, with the reason.
   */
  start(stage: Stage): Promise<void>;
}

export class PathUnavailable extends Error {}
