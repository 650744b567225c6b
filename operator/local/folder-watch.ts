/**
 * Tells when something below a folder has changed, for restarts: once for what changes together.
 *
 * `node_modules`, names that begin with a dot, and files that programs write rather than people (logs, databases,
 * editors' copies, what comes and goes at once) do not count; links are not followed. One watch for each folder, at most `foldersMax`: the platform's
 * recursive one would walk through node_modules too.
 */

import { type FSWatcher, lstatSync, readdirSync, watch } from "node:fs";
import path from "node:path";
import type { Clock, TimerHandle } from "@leveros/protocol/clock/clock.ts";

export const watchedFoldersMax = 5000;
/** What changes within this time of each other is one change. */
const debounceMs = 200;

const ignoredFile = /(~|\.(log|db|sqlite3?|tmp|pid|sock|swp|swx))$|\.(db|sqlite3?)-(wal|shm|journal)$/i;

export interface FolderWatchOptions {
  /** Absolute. */
  readonly directory: string;
  readonly clock: Clock;
  /** Only what lies in the folder itself. */
  readonly isFlat?: boolean;
  /** Whether a change of this file (absolute) counts; all do unless set. */
  counts?(file: string): boolean;
  /** With one of the files or folders that have changed. */
  onChange(file: string): void;
  /** Part of the folder is not watched, and why; once. */
  onProblem?(text: string): void;
}

export class FolderWatch {
  readonly #options: FolderWatchOptions;
  /** By folder, with the names of what is in it. */
  readonly #watched = new Map<string, { readonly watcher: FSWatcher; readonly names: Set<string> }>();
  #timer: TimerHandle | undefined;
  /** What has changed since the last time that it was told of; whether it was there before. */
  readonly #changed = new Map<string, boolean>();
  #hasProblem = false;
  #isClosed = false;

  /** Watches from here on. A folder that is not there has no changes. */
  constructor(options: FolderWatchOptions) {
    this.#options = options;
    this.#add(options.directory);
  }

  /** Repeating it changes nothing. */
  close(): void {
    this.#isClosed = true;
    this.#options.clock.clearTimer(this.#timer);
    for (const { watcher } of this.#watched.values()) watcher.close();
    this.#watched.clear();
  }

  #add(folder: string): void {
    if (this.#isClosed || this.#watched.has(folder)) return;
    const { directory, isFlat = false } = this.#options;
    if (this.#watched.size >= watchedFoldersMax) {
      return this.#problem(`${directory} has more than ${watchedFoldersMax} folders; the rest is not watched`);
    }
    try {
      const watcher = watch(folder, { persistent: false }, (_, name) => this.#onEvent(folder, name));
      watcher.on("error", () => this.#remove(folder));
      const names = new Set<string>();
      this.#watched.set(folder, { watcher, names });
      for (const entry of readdirSync(folder, { withFileTypes: true })) {
        if (isIgnored(entry.name)) continue;
        names.add(entry.name);
        if (!isFlat && entry.isDirectory()) this.#add(path.join(folder, entry.name));
      }
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      // It has gone meanwhile, or is none any more.
      if (code === "ENOENT" || code === "ENOTDIR") this.#remove(folder);
      else this.#problem(`${folder} is not watched: ${message}`);
    }
  }

  #remove(folder: string): void {
    this.#watched.get(folder)?.watcher.close();
    this.#watched.delete(folder);
  }

  /** The system says which entry of the folder, but not what it is or was. */
  #onEvent(folder: string, name: string | null): void {
    const names = this.#watched.get(folder)?.names;
    if (this.#isClosed || names === undefined || name === null || isIgnored(name)) return;
    const file = path.join(folder, name);
    const { clock, isFlat = false, counts } = this.#options;
    const entry = lstatSync(file, { throwIfNoEntry: false });
    const wasThere = names.has(name);
    if (entry === undefined) names.delete(name);
    else names.add(name);
    if (entry?.isDirectory() === true) {
      // Its own watch tells of what is in it. What was there before is told of now.
      if (isFlat || this.#watched.has(file)) return;
      this.#add(file);
    } else {
      for (const watched of this.#watched.keys()) {
        if (watched === file || watched.startsWith(`${file}${path.sep}`)) this.#remove(watched);
      }
      if (counts?.(file) === false) return;
    }
    if (!this.#changed.has(file)) this.#changed.set(file, wasThere);
    clock.clearTimer(this.#timer);
    this.#timer = clock.setTimer(() => this.#tell(), debounceMs);
  }

  #tell(): void {
    const changed = [...this.#changed].find(
      ([file, wasThere]) => wasThere || lstatSync(file, { throwIfNoEntry: false }) !== undefined,
    );
    this.#changed.clear();
    if (changed !== undefined) this.#options.onChange(changed[0]);
  }

  #problem(text: string): void {
    if (this.#hasProblem) return;
    this.#hasProblem = true;
    this.#options.onProblem?.(text);
  }
}

function isIgnored(name: string): boolean {
  return name === "node_modules" || name.startsWith(".") || ignoredFile.test(name);
}
