/**
 * What the methods of the fixtures say of themselves: one JSON line each time that a method is entered, written before
 * anything else happens. It survives a SIGKILL of the process that wrote it.
 */

import { existsSync, readFileSync } from "node:fs";

export interface LogEntry {
  readonly event: string;
  /** The `id` in the call's metadata, or what the method was given. */
  readonly id?: string;
  readonly instance: string;
  readonly method: string;
  readonly [detail: string]: unknown;
}

export class CallLog {
  readonly file: string;

  constructor(file: string) {
    this.file = file;
  }

  entries(): LogEntry[] {
    if (!existsSync(this.file)) return [];
    return readFileSync(this.file, "utf8")
      .split("\n")
      .filter((line) => line !== "")
      .map((line) => JSON.parse(line) as LogEntry);
  }

  /** How often a method was entered for each id. */
  entered(): Map<string, number> {
    const counts = new Map<string, number>();
    for (const { event, id } of this.entries()) {
      if (event === "entered" && id !== undefined) counts.set(id, (counts.get(id) ?? 0) + 1);
    }
    return counts;
  }

  enteredWith(id: string): number {
    return this.entered().get(id) ?? 0;
  }

  /** The first entry that matches. */
  find(match: Partial<LogEntry>): LogEntry | undefined {
    return this.entries().find((entry) => Object.entries(match).every(([key, value]) => entry[key] === value));
  }
}
