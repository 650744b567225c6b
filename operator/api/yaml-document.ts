/**
 * From the bytes of a file to plain values whose every field knows its place.
 *
 * Scalars mean what they mean to kubectl (YAML 1.1: `yes` and `on` are booleans, `0644` is octal, `<<` merges), without
 * the tags that have no JSON form. Whatever the bytes are, the outcome is documents or problems, in time linear in the
 * file and what its aliases stand for, which is bounded. What documents mean is for the manifest reader.
 */

import {
  type Alias,
  CST,
  type Document,
  isAlias,
  isMap,
  isScalar,
  isSeq,
  Lexer,
  LineCounter,
  type Node,
  type Pair,
  parseAllDocuments,
  type Scalar,
  type YAMLMap,
} from "yaml";
import type { FieldPath } from "./field-schema.ts";
import { type ManifestPlace, type ManifestProblem, problemAt, shorten } from "./manifest-problem.ts";

export const fileBytesMax = 1024 ** 2;
export const documentsMax = 1000;
export const depthMax = 64;
/** Names, values and signs of one file: to parse one takes about a kilobyte of memory. */
export const tokensMax = 100_000;
/** Nodes that the aliases of one document may add to it. */
export const aliasedNodesMax = 20_000;

/** Where a field stands: its key, its value, and the text of a value that was written without quotes. */
interface FieldSource {
  readonly keyOffset: number;
  readonly valueOffset: number;
  readonly plainText: string | undefined;
}

/** A value of a document: JSON's types. Maps are plain objects, never with a key `__proto__`. */
export type YamlValue = null | boolean | number | string | YamlValue[] | { [key: string]: YamlValue };

/** A value with the places of all its fields. */
export class LocatedValue {
  readonly value: YamlValue;
  readonly #fields: ReadonlyMap<object, ReadonlyMap<string | number, FieldSource>>;
  readonly #root: FieldSource;
  readonly #place: (offset: number) => ManifestPlace;

  constructor(
    value: YamlValue,
    fields: ReadonlyMap<object, ReadonlyMap<string | number, FieldSource>>,
    root: FieldSource,
    place: (offset: number) => ManifestPlace,
  ) {
    this.value = value;
    this.#fields = fields;
    this.#root = root;
    this.#place = place;
  }

  /** The place of the value at `path`; where there is none, that of the nearest one around it. */
  place(path: FieldPath): ManifestPlace {
    return this.#place(this.#find(path).valueOffset);
  }

  /** The place of the key of the field at `path`. */
  placeOfKey(path: FieldPath): ManifestPlace {
    return this.#place(this.#find(path).keyOffset);
  }

  /** The text of the value at `path` as it stands there, if it was written without quotes. */
  plainText(path: FieldPath): string | undefined {
    return this.#find(path).plainText;
  }

  /** What is at `path`, with the same places; `undefined` without a value there. */
  at(path: FieldPath): LocatedValue | undefined {
    const value = valueAt(this.value, path);
    return value === undefined ? undefined : new LocatedValue(value, this.#fields, this.#find(path), this.#place);
  }

  #find(path: FieldPath): FieldSource {
    let value: YamlValue | undefined = this.value;
    let source = this.#root;
    for (const step of path) {
      const next: FieldSource | undefined = isContainer(value) ? this.#fields.get(value)?.get(step) : undefined;
      if (next === undefined) break;
      source = next;
      value = valueAt(value, [step]);
    }
    return source;
  }
}

export function valueAt(value: YamlValue | undefined, path: FieldPath): YamlValue | undefined {
  for (const step of path) {
    if (!isContainer(value) || !Object.hasOwn(value, step)) return undefined;
    value = (value as { [key: string | number]: YamlValue })[step];
  }
  return value;
}

function isContainer(value: YamlValue | undefined): value is YamlValue[] | { [key: string]: YamlValue } {
  return typeof value === "object" && value !== null;
}

/** A document whose syntax is sound. Its values are read on demand: nobody needs those of other kinds. */
export class YamlDocument {
  readonly #document: Document;
  readonly #place: (offset: number) => ManifestPlace;

  constructor(document: Document, place: (offset: number) => ManifestPlace) {
    this.#document = document;
    this.#place = place;
  }

  get start(): ManifestPlace {
    return this.#place(offsetOf(this.#document.contents as Node | null));
  }

  /** The text of a top-level field, or of one field below: enough to see what the document is. */
  peek(...path: string[]): string | undefined {
    let node: unknown = this.#document.contents;
    for (const key of path) {
      if (!isMap(node)) return undefined;
      node = node.items.find((pair) => isScalar(pair.key) && pair.key.value === key)?.value;
    }
    const value = isScalar(node) ? scalarValue(node) : undefined;
    return typeof value === "string" ? value : undefined;
  }

  /** The value and its places, or what is wrong with the document as data. */
  read(): LocatedValue | ManifestProblem[] {
    const reader = new ValueReader(this.#place);
    const contents = this.#document.contents as Node | null;
    const value = reader.read(contents, [], 0);
    if (reader.problems.length > 0) return reader.problems;
    return new LocatedValue(value ?? null, reader.fields, reader.source(contents, contents), this.#place);
  }
}

export interface YamlFile {
  readonly documents: YamlDocument[];
  readonly problems: ManifestProblem[];
}

/** `content` as documents; empty ones are left out. Never throws. */
export function readYaml(file: string, content: Uint8Array | string): YamlFile {
  const fail = (line: number, column: number, rule: string, found: string, expected: string, remedy: string) => ({
    documents: [],
    problems: [problemAt({ file, line, column }, rule, [], found, expected, remedy)],
  });

  const bytes = typeof content === "string" ? new TextEncoder().encode(content) : content;
  if (bytes.length > fileBytesMax) {
    return fail(1, 1, "file-too-large", `${bytes.length} bytes`, `at most ${fileBytesMax}`, "Split the file.");
  }
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    const remedy = "Save the file as UTF-8.";
    return fail(lineOfInvalidText(bytes), 1, "not-utf8", "bytes that are not UTF-8", "text in UTF-8", remedy);
  }

  const lineCounter = new LineCounter();
  lineCounter.addNewLine(0);
  for (let at = text.indexOf("\n"); at !== -1; at = text.indexOf("\n", at + 1)) lineCounter.addNewLine(at + 1);
  const place = (offset: number): ManifestPlace => {
    const { line, col } = lineCounter.linePos(Math.min(offset, text.length));
    return { file, line: Math.max(line, 1), column: Math.max(col, 1) };
  };

  // biome-ignore lint/suspicious/noControlCharactersInRegex: YAML has no place for them.
  const control = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f]/.exec(text);
  if (control !== null) {
    const { line, column } = place(control.index);
    const name = `U+${control[0].charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
    const remedy = 'Remove it; inside double quotes it can be written as an escape, such as "\\x1b".';
    return fail(line, column, "control-character", `the control character ${name}`, "text", remedy);
  }

  const excess = findExcess(text);
  if (excess !== undefined) {
    const { line, column } = place(excess.offset);
    return fail(line, column, excess.rule, "more", excess.expected, excess.remedy);
  }

  let parsed: Document[];
  try {
    const result = parseAllDocuments(text, {
      // Every scalar comes as text: plainValue says what it means.
      schema: "failsafe",
      resolveKnownTags: false,
      // Keys are compared by ValueReader: the library takes a time quadratic in their number.
      uniqueKeys: false,
      prettyErrors: false,
      logLevel: "silent",
    });
    parsed = Array.isArray(result) ? result : [];
  } catch (error) {
    // Only what the parser does not expect itself; there is no better place than the file.
    const found = shorten(error instanceof Error ? error.message : String(error));
    return fail(1, 1, "yaml-syntax", found, "YAML", "Simplify the file.");
  }

  const result: YamlFile = { documents: [], problems: [] };
  if (parsed.length > documentsMax) {
    return fail(1, 1, "too-many-documents", `${parsed.length} documents`, `at most ${documentsMax}`, "Split the file.");
  }
  for (const document of parsed) {
    const flaw = document.errors[0] ?? document.warnings[0];
    if (flaw !== undefined) {
      const rule = document.errors.length > 0 ? "yaml-syntax" : "yaml-tag";
      const remedy = rule === "yaml-tag" ? "Remove the tag." : (syntaxRemedies[flaw.code] ?? "Correct the YAML there.");
      const found = shorten(flaw.message.replace(/\.$/, ""));
      result.problems.push(problemAt(place(flaw.pos[0]), rule, [], `an error: ${found}`, "YAML", remedy));
    } else if (!isEmpty(document.contents as Node | null)) {
      result.documents.push(new YamlDocument(document, place));
    }
  }
  return result;
}

/**
 * What would cost the parser too much: it recurses into nested collections, and makes objects of every token. A pass
 * over the tokens is cheap, and ends where the limit is exceeded. (Nesting by indentation costs a line's length each.)
 */
function findExcess(text: string) {
  let offset = 0;
  let tokens = 0;
  let flowDepth = 0;
  let indicators = 0;
  for (const token of new Lexer().lex(text)) {
    const type = CST.tokenType(token);
    // These mark a place in the text and are not of it.
    if (type === "scalar" || type === "doc-mode" || type === "flow-error-end") {
      if (type !== "scalar") flowDepth = 0;
      continue;
    }
    if (type !== "space" && type !== "newline" && type !== "comment") {
      tokens++;
      if (type === "flow-map-start" || type === "flow-seq-start") flowDepth++;
      else if (type === "flow-map-end" || type === "flow-seq-end") flowDepth = Math.max(0, flowDepth - 1);
      // `- - - a`: collections that begin on one line.
      indicators = type === "seq-item-ind" || type === "explicit-key-ind" ? indicators + 1 : 0;
    } else if (type === "newline") {
      indicators = 0;
    }
    if (flowDepth > depthMax || indicators > depthMax) {
      return {
        offset,
        rule: "too-deep",
        expected: `at most ${depthMax} levels of nesting`,
        remedy: "Nest less deeply.",
      };
    }
    if (tokens > tokensMax) {
      const expected = `at most ${tokensMax} names, values and signs in a file`;
      return { offset, rule: "file-too-large", expected, remedy: "Split the file." };
    }
    offset += token.length;
  }
  return undefined;
}

/**
 * What a scalar without quotes means, as kubectl's YAML reader (sigs.k8s.io/yaml) has it: numbers in Go's notation,
 * with octals, and the booleans of YAML 1.1. Undefined: a number that JSON does not have.
 */
function plainValue(text: string): null | boolean | number | string | undefined {
  if (/^(~|null|Null|NULL)?$/.test(text)) return null;
  if (/^(y|Y|yes|Yes|YES|true|True|TRUE|on|On|ON)$/.test(text)) return true;
  if (/^(n|N|no|No|NO|false|False|FALSE|off|Off|OFF)$/.test(text)) return false;
  if (/^([-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$/.test(text)) return undefined;
  if (!/^[-+]?\.?[0-9]/.test(text)) return text;
  const digits = text.replaceAll("_", "");
  const integer = /^([-+]?)0([xX][0-9a-fA-F]+|[bB][01]+|[oO]?[0-7]+)$/.exec(digits);
  if (integer !== null) {
    const body = (integer[2] as string).toLowerCase();
    const magnitude = Number(/^[xbo]/.test(body) ? `0${body}` : `0o${body}`);
    return integer[1] === "-" && magnitude !== 0 ? -magnitude : magnitude;
  }
  if (!/^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$/.test(digits)) return text;
  const value = Number(digits);
  // Too large for a double: there it is text.
  return Number.isFinite(value) ? value + 0 : text;
}

/** The value of a scalar, by how it is written. */
function scalarValue(node: Scalar): null | boolean | number | string | undefined {
  const text = String(node.value ?? "");
  return isPlain(node) ? plainValue(text) : text;
}

/** Without quotes and without a tag (`!!str 5` is a string). */
function isPlain(node: Scalar): boolean {
  return (node.type === undefined || node.type === "PLAIN") && node.tag === undefined;
}

const syntaxRemedies: Readonly<Record<string, string>> = {
  TAB_AS_INDENT: "Indent with spaces, not tabs.",
  BAD_INDENT: "Line the fields up with their neighbours.",
  BLOCK_AS_IMPLICIT_KEY: "Put quotes around a value that contains a colon, or start a new line.",
  MULTILINE_IMPLICIT_KEY: "A field needs a colon and a space after its name.",
  MISSING_CHAR: "Add the missing character.",
  RESOURCE_EXHAUSTION: "Nest less deeply.",
  BAD_ALIAS: "Name an anchor that stands before, or put the value in quotes.",
};

function isEmpty(contents: Node | null): boolean {
  return contents === null || (isScalar(contents) && scalarValue(contents) === null);
}

/** No byte of a longer UTF-8 sequence is a line feed, so lines can be tried one by one. */
function lineOfInvalidText(bytes: Uint8Array): number {
  const decoder = new TextDecoder("utf-8", { fatal: true });
  let line = 1;
  for (let start = 0; start < bytes.length; line++) {
    const end = bytes.indexOf(0x0a, start);
    try {
      decoder.decode(bytes.subarray(start, end === -1 ? bytes.length : end));
    } catch {
      return line;
    }
    if (end === -1) break;
    start = end + 1;
  }
  return line;
}

function offsetOf(node: Node | null | undefined): number {
  return node?.range?.[0] ?? 0;
}

const problemsPerDocumentMax = 20;
/** The key `<<` without quotes. */
const mergeKey = Symbol("<<");

/** Turns one document's nodes into values. */
class ValueReader {
  readonly fields = new Map<object, Map<string | number, FieldSource>>();
  readonly problems: ManifestProblem[] = [];
  readonly #place: (offset: number) => ManifestPlace;
  /** The last node of each anchor so far; an alias means the one before it. */
  readonly #anchors = new Map<string, Node>();
  readonly #open = new Set<Node>();
  #aliasedNodes = 0;
  #aliasDepth = 0;

  constructor(place: (offset: number) => ManifestPlace) {
    this.#place = place;
  }

  read(node: Node | null, path: FieldPath, depth: number): YamlValue | undefined {
    if (node === null) return null;
    if (this.problems.length >= problemsPerDocumentMax) return undefined;
    if (this.#aliasDepth > 0 && ++this.#aliasedNodes > aliasedNodesMax) {
      // More problems would come from every further alias.
      if (this.#aliasedNodes === aliasedNodesMax + 1) {
        const expected = `at most ${aliasedNodesMax} values by aliases`;
        this.#problem(node, "alias-too-large", path, "aliases that stand for more", expected, "Write the values out.");
      }
      return undefined;
    }
    if (depth > depthMax) {
      this.#problem(node, "too-deep", path, "more", `at most ${depthMax} levels of nesting`, "Nest less deeply.");
      return undefined;
    }
    if (isAlias(node)) return this.#readAlias(node, path, depth);
    if (node.anchor !== undefined && this.#aliasDepth === 0) this.#anchors.set(node.anchor, node);
    if (isScalar(node)) return this.#readScalar(node, path);
    if (!isMap(node) && !isSeq(node)) return undefined;
    this.#open.add(node);
    const value = isMap(node) ? this.#readMap(node, path, depth) : this.#readList(node.items, path, depth);
    this.#open.delete(node);
    return value;
  }

  source(key: Node | null, value: Node | null): FieldSource {
    const valueOffset = value === null ? (key?.range?.[1] ?? offsetOf(key)) : offsetOf(value);
    return {
      keyOffset: offsetOf(key),
      valueOffset,
      plainText: isScalar(value) && isPlain(value) ? String(value.value ?? "") : undefined,
    };
  }

  #readScalar(node: Scalar, path: FieldPath): YamlValue | undefined {
    const value = scalarValue(node);
    if (value !== undefined) return value;
    this.#problem(node, "not-json", path, shorten(String(node.value)), "a value that JSON has", "Put it in quotes.");
    return undefined;
  }

  #readAlias(alias: Alias, path: FieldPath, depth: number): YamlValue | undefined {
    const target = this.#anchors.get(alias.source);
    if (target === undefined || this.#open.has(target)) {
      const found = `*${shorten(alias.source)}${target === undefined ? "" : " inside its own anchor"}`;
      this.#problem(alias, "alias-invalid", path, found, "an anchor that ends before", "Write the value out.");
      return undefined;
    }
    this.#aliasDepth++;
    const value = this.read(target, path, depth);
    this.#aliasDepth--;
    return value;
  }

  #readList(items: readonly unknown[], path: FieldPath, depth: number): YamlValue[] {
    const list: YamlValue[] = [];
    const sources = new Map<string | number, FieldSource>();
    for (const [index, item] of items.entries()) {
      // `[a: 1]` has a pair as an entry only in ordered maps, whose tag is not taken; the parser wraps it in a map.
      const node = item as Node | null;
      sources.set(index, this.source(node, node));
      list.push(this.read(node, [...path, index], depth + 1) ?? null);
    }
    this.fields.set(list, sources);
    return list;
  }

  #readMap(node: YAMLMap, path: FieldPath, depth: number): { [key: string]: YamlValue } {
    const map: { [key: string]: YamlValue } = {};
    const sources = new Map<string | number, FieldSource>();
    this.fields.set(map, sources);
    const merged: { value: { [key: string]: YamlValue }; source: FieldSource }[] = [];
    for (const pair of node.items as Pair<Node | null, Node | null>[]) {
      const source = this.source(pair.key, pair.value);
      const key = this.#readKey(pair, path, depth);
      if (key === undefined) continue;
      if (key === mergeKey) {
        for (const value of this.#mergeSources(pair, path, depth)) merged.push({ value, source });
        continue;
      }
      const first = sources.get(key);
      if (first !== undefined) {
        const { line, column } = this.#place(first.keyOffset);
        const found = `a second ${shorten(key)}; the first is at ${line}:${column}`;
        this.#problem(pair.key, "duplicate-key", [...path, key], found, "each key once", "Remove one of the two.");
        continue;
      }
      sources.set(key, source);
      map[key] = this.read(pair.value, [...path, key], depth + 1) ?? null;
    }
    for (const { value, source } of merged) {
      const from = this.fields.get(value);
      for (const key of Object.keys(value)) {
        if (Object.hasOwn(map, key)) continue;
        map[key] = value[key] as YamlValue;
        sources.set(key, from?.get(key) ?? source);
      }
    }
    return map;
  }

  /** A string, the merge key, or undefined after a problem. */
  #readKey(pair: Pair<Node | null, Node | null>, path: FieldPath, depth: number): string | typeof mergeKey | undefined {
    const node = pair.key;
    if (isScalar(node) && isPlain(node) && node.value === "<<") return mergeKey;
    const key = node === null ? null : this.read(node, path, depth + 1);
    if (key === undefined) return undefined;
    if (typeof key !== "string") {
      const isCollection = typeof key === "object" && key !== null;
      const found = isCollection ? "a list or map as a key" : `the key ${String(key)}, which is not a string`;
      const remedy = isCollection ? "Use a name as the key; put text with braces in quotes." : "Put the key in quotes.";
      this.#problem(node ?? pair.value, "key-not-string", path, found, "keys that are strings", remedy);
      return undefined;
    }
    if (key === "__proto__") {
      this.#problem(node, "key-not-string", path, "the key __proto__", "the name of a field", "Remove it.");
      return undefined;
    }
    return key;
  }

  /** `<<: *a` or `<<: [*a, *b]`; the earlier one wins. */
  #mergeSources(pair: Pair<Node | null, Node | null>, path: FieldPath, depth: number) {
    const value = this.read(pair.value, path, depth + 1);
    if (value === undefined) return [];
    const sources = Array.isArray(value) ? value : [value];
    if (sources.every((source) => isContainer(source) && !Array.isArray(source))) {
      return sources as { [key: string]: YamlValue }[];
    }
    const remedy = 'Merge an alias of a map, or put "<<" in quotes.';
    this.#problem(pair.value ?? pair.key, "merge-invalid", path, "a merge of something else", "a map after <<", remedy);
    return [];
  }

  #problem(node: Node | null, rule: string, path: FieldPath, found: string, expected: string, remedy: string): void {
    if (this.problems.length < problemsPerDocumentMax) {
      this.problems.push(problemAt(this.#place(offsetOf(node)), rule, path, found, expected, remedy));
    }
  }
}
