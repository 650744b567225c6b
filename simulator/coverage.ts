/** Which lines of which files ran, as V8 counts them: of sources that Node runs as they are, with types blanked out. */

import { readFileSync } from "node:fs";
import { Session } from "node:inspector/promises";
import { stripTypeScriptTypes } from "node:module";
import { fileURLToPath } from "node:url";

export interface FileCoverage {
  readonly file: string;
  readonly lines: number;
  readonly covered: number;
  /** Numbers of lines, from 1. */
  readonly missed: readonly number[];
}

export class LineCoverage {
  readonly #session = new Session();

  /** Call it before the sources are loaded. */
  async start(): Promise<void> {
    this.#session.connect();
    await this.#session.post("Profiler.enable");
    await this.#session.post("Profiler.startPreciseCoverage", { callCount: true, detailed: true });
  }

  /** Of all loaded files whose path, from `root`, the pattern matches. */
  async take(root: string, pattern: RegExp): Promise<FileCoverage[]> {
    const { result } = await this.#session.post("Profiler.takePreciseCoverage");
    const files: FileCoverage[] = [];
    for (const { url, functions } of result) {
      if (!url.startsWith("file://")) continue;
      const path = fileURLToPath(url);
      const file = path.startsWith(root) ? path.slice(root.length + 1) : "";
      if (!pattern.test(file)) continue;
      const ranges = functions.flatMap((each) => each.ranges);
      files.push({ file, ...coveredLines(readFileSync(path, "utf8"), ranges) });
    }
    return files.sort((a, b) => (a.file < b.file ? -1 : 1));
  }
}

interface CountedRange {
  readonly startOffset: number;
  readonly endOffset: number;
  readonly count: number;
}

/** A line counts if it has code, brackets alone not being any; it is covered if its first character was run. */
function coveredLines(source: string, ranges: readonly CountedRange[]): Omit<FileCoverage, "file"> {
  const code = withoutComments(stripTypeScriptTypes(source, { mode: "strip" }));
  const counts = new Int32Array(code.length).fill(1);
  // Inner ranges lie within outer ones, and say it better.
  const outerFirst = [...ranges].sort((a, b) => b.endOffset - b.startOffset - (a.endOffset - a.startOffset));
  for (const { startOffset, endOffset, count } of outerFirst) counts.fill(count, startOffset, endOffset);
  const missed: number[] = [];
  let lines = 0;
  let at = 0;
  for (const [index, line] of code.split("\n").entries()) {
    const first = line.search(/[^\s{}()[\];,]/);
    if (first >= 0) {
      lines++;
      if (counts[at + first] === 0) missed.push(index + 1);
    }
    at += line.length + 1;
  }
  return { lines, covered: lines - missed.length, missed };
}

/** Blanked out, of the same length. Good enough for sources whose strings hold no comment's beginning. */
function withoutComments(code: string): string {
  const blank = (text: string) => text.replace(/[^\n]/g, " ");
  return code.replace(/\/\*[\s\S]*?\*\//g, blank).replace(/(^|\s)\/\/[^\n]*/g, blank);
}
