/** What is wrong in a manifest, where, and what to do. */

import { type FieldPath, formatPath } from "./field-schema.ts";

/** Lines and columns from 1. */
export interface ManifestPlace {
  readonly file: string;
  readonly line: number;
  readonly column: number;
}

export interface ManifestProblem extends ManifestPlace {
  /** A stable word: a kind of problem (`unknown-field`, `yaml-syntax`) or the name of the cross-field rule. */
  readonly rule: string;
  /** `spec.methods[2].name`; empty where the problem is about the text, or the whole document. */
  readonly path: string;
  readonly found: string;
  readonly expected: string;
  /** What to do: a sentence. */
  readonly remedy: string;
}

/** One line: `chat.yaml:12:13 spec.replicas: found -1, expected an integer from 0 to 1000. Correct the value.` */
export function formatProblem(problem: ManifestProblem): string {
  const where = `${problem.file}:${problem.line}:${problem.column}`;
  const subject = problem.path === "" ? where : `${where} ${problem.path}`;
  return `${subject}: found ${problem.found}, expected ${problem.expected}. ${problem.remedy}`;
}

/** A problem at a place. */
export function problemAt(
  place: ManifestPlace,
  rule: string,
  path: FieldPath,
  found: string,
  expected: string,
  remedy: string,
): ManifestProblem {
  const { file, line, column } = place;
  return { rule, file, line, column, path: formatPath(path), found, expected, remedy };
}

/** A value as a problem shows it: short, on one line. */
export function describeValue(value: unknown): string {
  if (value === undefined) return "nothing";
  if (Array.isArray(value)) return value.length === 0 ? "an empty list" : `a list of ${value.length}`;
  if (typeof value === "object" && value !== null) {
    const keys = Object.keys(value);
    return keys.length === 0 ? "an empty map" : `a map with ${quoteList(keys)}`;
  }
  return shorten(JSON.stringify(value));
}

/** Text from a manifest inside a message: on one line, at most 80 characters. */
export function shorten(text: string): string {
  // Control characters and those that change the direction of text must not reach a terminal.
  const line = text.replace(/[\p{Cc}\p{Cf}\u2028\u2029]+/gu, " ");
  return line.length > 80 ? `${line.slice(0, 79)}…` : line;
}

function quoteList(names: readonly string[]): string {
  const shown = names.slice(0, 3).map(shorten).join(", ");
  return names.length > 3 ? `${shown} and ${names.length - 3} more` : shown;
}

/** The name among `known` that `name` was most likely meant to be; undefined where none is near. */
export function nearestName(name: string, known: readonly string[]): string | undefined {
  if (name.length > 64) return undefined;
  let nearest: string | undefined;
  // Two letters of six may differ, and case does not count.
  let distanceMax = Math.max(1, Math.floor(name.length / 3));
  for (const candidate of known) {
    const distance = editDistance(name.toLowerCase(), candidate.toLowerCase());
    if (distance <= distanceMax) {
      nearest = candidate;
      distanceMax = distance - 1;
    }
  }
  return nearest;
}

/** Levenshtein's distance, by rows. */
function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitution = (previous[j - 1] as number) + (a[i - 1] === b[j - 1] ? 0 : 1);
      row.push(Math.min(substitution, (previous[j] as number) + 1, (row[j - 1] as number) + 1));
    }
    previous = row;
  }
  return previous[b.length] as number;
}
