/** Follows the files that `lever dev -f` names: reads again when manifests change, come or go. One reading at a time. */

import { statSync } from "node:fs";
import path from "node:path";
import { FolderWatch } from "@leveros/operator/local/folder-watch.ts";
import { runtimeClock } from "@leveros/protocol/clock/runtime-clock.ts";

export class ManifestWatch implements Disposable {
  readonly #watches: FolderWatch[];
  readonly #read: () => Promise<void>;
  #isReading = false;
  #isOutdated = false;

  /** `read` does not reject. */
  constructor(paths: readonly string[], read: () => Promise<void>) {
    this.#read = read;
    this.#watches = paths.map((named) => {
      const full = path.resolve(named);
      const isFolder = statSync(full, { throwIfNoEntry: false })?.isDirectory() === true;
      return new FolderWatch({
        directory: isFolder ? full : path.dirname(full),
        isFlat: !isFolder,
        clock: runtimeClock(globalThis),
        counts: (file) => (isFolder ? /\.ya?ml$/.test(file) : file === full),
        onChange: () => void this.#changed(),
      });
    });
  }

  async #changed(): Promise<void> {
    this.#isOutdated = true;
    if (this.#isReading) return;
    this.#isReading = true;
    while (this.#isOutdated) {
      this.#isOutdated = false;
      await this.#read();
    }
    this.#isReading = false;
  }

  [Symbol.dispose](): void {
    for (const watch of this.#watches) watch.close();
  }
}
