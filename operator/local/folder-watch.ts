/**
 * Tells when something below a folder has changed, for restarts: once for what changes together.
 *
 * `node_modules`, names that begin with a dot, and files that programs write rather than people (logs, databases,
 * editors' copies) do not count; links are not followed. One watch for each folder, at most `foldersMax`: the platform's
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
  /** Whether a change of this file (absolute) counts; all do unless set. */
  counts?(file: string): boolean;
  /** With one of the files or folders that have changed. */
  onChange(file: string): void;
  /** Part of the folder is not watched, and why; once. */
  onProblem?(text: string): void;
}

export class FolderWatch {
  readonly #options: FolderWatchOptions;
  readonly #watchers = new Map<string, FSWatcher>();
  #timer: TimerHandle | undefined;
  #changed = "";
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
    for (const watcher of this.#watchers.values()) watcher.close();
    this.#watchers.clear();
  }

  #add(folder: string): void {
    if (this.#isClosed || this.#watchers.has(folder)) return;
    if (this.#watchers.size >= watchedFoldersMax) {
      return this.#problem(
        `${this.#options.directory} has more than ${watchedFoldersMax} folders; the rest is not watched`,
      );
    }
    try {
      const watcher = watch(folder, { persistent: false }, (_, name) => this.#onEvent(folder, name));
      watcher.on("error", () => this.#remove(folder));
      this.#watchers.set(folder, watcher);
      for (const entry of readdirSync(folder, { withFileTypes: true })) {
        if (entry.isDirectory() && !isIgnored(entry.name)) this.#add(path.join(folder, entry.name));
      }
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException;
      // It has gone meanwhile, or is none any more.
      if (code === "ENOENT" || code === "ENOTDIR") this.#remove(folder);
      else this.#problem(`${folder} is not watched: ${message}`);
    }
  }

  #remove(folder: string): void {
    this.#watchers.get(folder)?.close();
    this.#watchers.delete(folder);
  }

  /** The system says which entry of the folder, but not what it is or was. */
  #onEvent(folder: string, name: string | null): void {
    if (this.#isClosed || name === null || isIgnored(name)) return;
    const file = path.join(folder, name);
    const isFolder = lstatSync(file, { throwIfNoEntry: false })?.isDirectory() === true;
    if (isFolder) {
      // Its files may have been there before it was watched.
      if (this.#watchers.has(file)) return;
      this.#add(file);
    } else {
      for (const watched of this.#watchers.keys()) {
        if (watched === file || watched.startsWith(`${file}${path.sep}`)) this.#remove(watched);
      }
      if (this.#options.counts?.(file) === false) return;
    }
    const { clock, onChange } = this.#options;
    this.#changed = file;
    clock.clearTimer(this.#timer);
    this.#timer = clock.setTimer(() => onChange(this.#changed), debounceMs);
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
