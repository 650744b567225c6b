/**
 * From the text of manifests to services with every default in place, the ConfigMaps and Secrets beside them, and
 * problems. The manifests are those that `kubectl apply` takes; fields that the server sets (`status`, `metadata.uid`)
 * are skipped.
 *
 * Pure: whoever calls it reads the files. Whatever the text is, the outcome is services and problems, never an
 * exception, in time linear in the text. A document with a problem gives no service. What Secrets hold never gets into
 * a problem.
 */

import type * as z from "zod";
import { expectedText, type FieldPath, type FieldSchema, schemaAt, serviceFieldSchema } from "./field-schema.ts";
import {
  describeValue,
  type ManifestPlace,
  type ManifestProblem,
  nearestName,
  problemAt,
  shorten,
} from "./manifest-problem.ts";
import type { CrossFieldRule } from "./v1alpha1/cross-field-rule.ts";
import { leverEndpointTableKind } from "./v1alpha1/lever-endpoint-table.ts";
import {
  apiGroup,
  apiVersion,
  devCommandAnnotation,
  devDirectoryAnnotation,
  type LeverService,
  leverServiceKind,
  leverServiceSchema,
  localNamespace,
} from "./v1alpha1/lever-service.ts";
import { LocatedValue, readYaml, valueAt, type YamlDocument, type YamlValue } from "./yaml-document.ts";

export interface ManifestFile {
  /** As problems name it; `leveros.dev/dev-directory` is relative to its folder. */
  readonly file: string;
  readonly content: Uint8Array | string;
}

/** A ConfigMap or a Secret: what `valueFrom` and `envFrom` need of it. */
export interface DataObject {
  readonly kind: "ConfigMap" | "Secret";
  readonly name: string;
  readonly namespace: string;
  /** Text by key; `undefined` for bytes that are not text, which no environment variable can hold. */
  readonly data: ReadonlyMap<string, string | undefined>;
  readonly place: ManifestPlace;
}

export interface SkippedDocument extends ManifestPlace {
  readonly kind: string;
  readonly name: string;
}

/** A service with the places of its fields. */
export interface LocatedService {
  readonly service: LeverService;
  /** The place of the value at `path`; where the manifest has none, that of the nearest one around it. */
  place(path: FieldPath): ManifestPlace;
}

export interface ManifestSet {
  /** The names of all that was read. */
  readonly files: readonly string[];
  /** In the order of the files. */
  readonly services: readonly LeverService[];
  readonly configMaps: readonly DataObject[];
  readonly secrets: readonly DataObject[];
  /** Documents of kinds that are not read. */
  readonly skipped: readonly SkippedDocument[];
  /** Empty if all is well. */
  readonly problems: readonly ManifestProblem[];
  /** Where a service of this set comes from. */
  locate(service: LeverService): LocatedService;
}

export interface ReadManifestsOptions {
  /** The namespace of documents that name none; `dev` unless set. */
  readonly namespace?: string | undefined;
}

/** Problems beyond these are counted, not listed. */
export const problemsMax = 100;

export function readManifests(files: readonly ManifestFile[], options: ReadManifestsOptions = {}): ManifestSet {
  const collector = new Collector(options.namespace ?? localNamespace);
  for (const { file, content } of files) {
    collector.files.push(file);
    const { documents, problems } = readYaml(file, content);
    collector.addProblems(problems);
    for (const document of documents) collector.addDocument(document);
    collector.endFile();
  }
  return collector.result();
}

interface Subject {
  readonly located: LocatedValue;
  /** Its path in the document: `items[2]` of a List. */
  readonly prefix: FieldPath;
}

class Collector {
  readonly files: string[] = [];
  /** Of the files before this one, in order. */
  readonly #problems: ManifestProblem[] = [];
  /** Of this file, as they are found. */
  #fileProblems: ManifestProblem[] = [];
  readonly #namespace: string;
  readonly #services = new Map<LeverService, LocatedValue>();
  readonly #configMaps: DataObject[] = [];
  readonly #secrets: DataObject[] = [];
  readonly #skipped: SkippedDocument[] = [];
  /** kind/namespace/name → place, to find duplicates. */
  readonly #names = new Map<string, ManifestPlace>();

  constructor(namespace: string) {
    this.#namespace = namespace;
  }

  result(): ManifestSet {
    const services = this.#services;
    return {
      files: this.files,
      services: [...services.keys()],
      configMaps: this.#configMaps,
      secrets: this.#secrets,
      skipped: this.#skipped,
      problems: bounded(this.#problems),
      locate(service) {
        const located = services.get(service);
        if (located === undefined) throw new TypeError("a service of another set");
        return { service, place: (path) => located.place(path) };
      },
    };
  }

  addProblems(problems: readonly ManifestProblem[]): void {
    for (const problem of problems) this.#fileProblems.push(problem);
  }

  /** From here on problems belong to another file. */
  endFile(): void {
    this.#fileProblems.sort((a, b) => a.line - b.line || a.column - b.column);
    for (const problem of this.#fileProblems) this.#problems.push(problem);
    this.#fileProblems = [];
  }

  addDocument(document: YamlDocument): void {
    const kind = document.peek("kind");
    const version = document.peek("apiVersion");
    if (kind !== undefined && version !== undefined && !isRead(kind, version)) {
      const name = document.peek("metadata", "name") ?? "";
      this.#skipped.push({ ...document.start, kind: shorten(kind), name: shorten(name) });
      return;
    }
    const located = document.read();
    if (located instanceof LocatedValue) this.#addObject({ located, prefix: [] });
    else this.addProblems(located);
  }

  #addObject(subject: Subject): void {
    const { value } = subject.located;
    if (typeof value !== "object" || value === null || Array.isArray(value)) {
      const remedy = "Begin with apiVersion and kind; put --- between documents.";
      this.#problem(subject, "not-a-map", [], describeValue(value), "a Kubernetes object: a map", remedy);
      return;
    }
    const { apiVersion: version, kind } = value;
    if (typeof version !== "string" || typeof kind !== "string") {
      const field = typeof kind !== "string" ? "kind" : "apiVersion";
      const expected = `a string, such as ${field === "kind" ? leverServiceKind : apiVersion}`;
      const remedy = "Every Kubernetes object needs apiVersion and kind.";
      this.#problem(subject, "no-kind", [field], describeValue(value[field]), expected, remedy);
      return;
    }
    if (kind === "List" || kind === `${leverServiceKind}List`) return this.#addList(subject);
    if (kind === leverServiceKind) return this.#addService(subject, version);
    if (version.split("/")[0] === apiGroup && kind !== leverEndpointTableKind) {
      const remedy = "This release has no other kind that is written by people.";
      this.#problem(subject, "unknown-kind", ["kind"], shorten(kind), leverServiceKind, remedy);
      return;
    }
    if (version === "v1" && (kind === "ConfigMap" || kind === "Secret")) return this.#addData(subject, kind);
    const name = valueAt(value, ["metadata", "name"]);
    this.#skipped.push({
      ...subject.located.place([]),
      kind: shorten(kind),
      name: typeof name === "string" ? shorten(name) : "",
    });
  }

  /** What `kubectl get -o yaml` prints for several objects. */
  #addList(subject: Subject): void {
    const items = valueAt(subject.located.value, ["items"]);
    if (!Array.isArray(items)) {
      const remedy = "Put the objects under items.";
      this.#problem(subject, "field-type", ["items"], describeValue(items), "a list of objects", remedy);
      return;
    }
    for (const index of items.keys()) {
      const located = subject.located.at(["items", index]);
      // A list in a list is nothing that anyone writes; without this a document could nest them.
      if (located === undefined || subject.prefix.length > 0) continue;
      this.#addObject({ located, prefix: ["items", index] });
    }
  }

  #addService(subject: Subject, version: string): void {
    if (version !== apiVersion) {
      const remedy = `Write apiVersion: ${apiVersion}.`;
      this.#problem(subject, "wrong-api-version", ["apiVersion"], shorten(version), apiVersion, remedy);
      return;
    }
    const { located } = subject;
    const input = located.value as { [key: string]: YamlValue };
    dropServerFields(input);
    dropNulls(input, serviceFieldSchema);
    // A namespace that is not there is not a field of the manifest: only the schema sees it.
    const { metadata } = input;
    const isMap = typeof metadata === "object" && metadata !== null && !Array.isArray(metadata);
    const parsed = leverServiceSchema.safeParse(
      isMap ? { ...input, metadata: { namespace: this.#namespace, ...metadata } } : input,
    );
    if (!parsed.success) {
      for (const issue of tellingIssues(parsed.error.issues)) this.#addIssue(subject, issue);
    }
    const before = this.#fileProblems.length;
    this.#checkAnnotations(subject);
    if (!parsed.success || this.#fileProblems.length > before) return;
    const service = parsed.data;
    const { namespace, name } = service.metadata;
    if (this.#isNew(subject, leverServiceKind, namespace, name)) this.#services.set(service, located);
  }

  /** An annotation that nobody reads is a slip of the pen. */
  #checkAnnotations(subject: Subject): void {
    const annotations = valueAt(subject.located.value, ["metadata", "annotations"]);
    if (typeof annotations !== "object" || annotations === null) return;
    const known = [devCommandAnnotation, devDirectoryAnnotation];
    for (const name of Object.keys(annotations)) {
      if (!name.startsWith(`${apiGroup}/`) || known.includes(name)) continue;
      const path = ["metadata", "annotations", name];
      this.#problem(
        subject,
        "unknown-annotation",
        path,
        shorten(name),
        known.join(" or "),
        suggestion(name, known),
        true,
      );
    }
  }

  #addIssue(subject: Subject, issue: z.core.$ZodIssue): void {
    const path = issue.path as FieldPath;
    const { located } = subject;
    const field = schemaAt(serviceFieldSchema, path) ?? serviceFieldSchema;
    const value = valueAt(located.value, path);
    if (issue.code === "unrecognized_keys") {
      const known = Object.keys(field.properties ?? {});
      for (const key of issue.keys.slice(0, problemsMax)) {
        const expected = `only the fields ${known.join(", ")}`;
        const found = `the unknown field ${shorten(key)}`;
        this.#problem(subject, "unknown-field", [...path, key], found, expected, suggestion(key, known), true);
      }
      return;
    }
    if (issue.code === "custom") {
      const { rule, duplicateOf } = issue.params as { rule?: CrossFieldRule<never>; duplicateOf?: FieldPath };
      if (duplicateOf !== undefined) {
        const { line, column } = located.place([...path.slice(0, -2), ...duplicateOf]);
        const found = `a second ${shorten(String(value))}; the first is at ${line}:${column}`;
        this.#problem(
          subject,
          "list-map",
          path,
          found,
          "each name once",
          "Remove one of the two entries, or merge them.",
        );
        return;
      }
      if (rule !== undefined) {
        this.#problem(subject, rule.name, path, describeValue(value), rule.message, rule.remedy);
        return;
      }
    }
    if (value === undefined) {
      const remedy = `Add the field. ${field.description ?? ""}`.trimEnd();
      this.#problem(subject, "field-required", path, "nothing", expectedText(field), remedy);
      return;
    }
    const isType = issue.code === "invalid_type" || issue.code === "invalid_union";
    const rule = isType ? "field-type" : "field-value";
    this.#problem(
      subject,
      rule,
      path,
      describeValue(value),
      expectedText(field),
      this.#valueRemedy(subject, path, field),
    );
  }

  #valueRemedy(subject: Subject, path: FieldPath, field: FieldSchema): string {
    const value = valueAt(subject.located.value, path);
    const plainText = subject.located.plainText(path);
    if (
      field.type === "string" &&
      plainText !== undefined &&
      (typeof value === "number" || typeof value === "boolean")
    ) {
      const kind = typeof value === "number" ? "a number" : "a boolean";
      return `Without quotes, ${shorten(plainText)} is ${kind} in YAML; write ${shorten(JSON.stringify(plainText))}.`;
    }
    if (typeof value === "string" && (field.type === "integer" || field.type === "boolean")) {
      return "Write it without quotes, as a plain value.";
    }
    return `Correct the value. ${field.description ?? ""}`.trimEnd();
  }

  #addData(subject: Subject, kind: "ConfigMap" | "Secret"): void {
    const { located } = subject;
    const name = valueAt(located.value, ["metadata", "name"]);
    const namespace = valueAt(located.value, ["metadata", "namespace"]) ?? this.#namespace;
    for (const [field, value] of [
      ["name", name],
      ["namespace", namespace],
    ] as const) {
      if (typeof value === "string" && value !== "") continue;
      const rule = value === undefined || value === null ? "field-required" : "field-type";
      const expected = "a string that is not empty";
      this.#problem(
        subject,
        rule,
        ["metadata", field],
        describeValue(value ?? undefined),
        expected,
        `Name the ${kind}.`,
      );
      return;
    }
    const before = this.#fileProblems.length;
    const data = new Map<string, string | undefined>();
    const sections = kind === "ConfigMap" ? ["data"] : ["data", "stringData"];
    for (const section of sections) this.#addSection(subject, kind, section, data);
    if (this.#fileProblems.length > before || !this.#isNew(subject, kind, namespace as string, name as string)) return;
    const object = { kind, name: name as string, namespace: namespace as string, data, place: located.place([]) };
    (kind === "ConfigMap" ? this.#configMaps : this.#secrets).push(object);
  }

  #addSection(subject: Subject, kind: string, section: string, data: Map<string, string | undefined>): void {
    const values = valueAt(subject.located.value, [section]) ?? {};
    if (typeof values !== "object" || Array.isArray(values)) {
      this.#problem(subject, "field-type", [section], typeName(values), "a map of strings", "Write one key per line.");
      return;
    }
    const isBase64 = kind === "Secret" && section === "data";
    for (const [key, value] of Object.entries(values as { [key: string]: YamlValue })) {
      const path = [section, key];
      if (value === null) {
        data.set(key, "");
      } else if (typeof value !== "string") {
        const found = kind === "Secret" ? typeName(value) : describeValue(value);
        this.#problem(subject, "field-type", path, found, "a string", "Put the value in quotes.");
      } else if (isBase64) {
        const bytes = base64Bytes(value);
        const remedy = "Encode it, or put plain text under stringData.";
        if (bytes === undefined)
          this.#problem(subject, "not-base64", path, "text that is not base64", "base64", remedy);
        else data.set(key, textOf(bytes));
      } else {
        data.set(key, value);
      }
    }
  }

  #isNew(subject: Subject, kind: string, namespace: string, name: string): boolean {
    const key = `${kind}/${namespace}/${name}`;
    const first = this.#names.get(key);
    const place = subject.located.place(["metadata", "name"]);
    if (first === undefined) {
      this.#names.set(key, place);
      return true;
    }
    const found = `a second ${kind} ${shorten(name)} in ${shorten(namespace)}; the first is at ${first.file}:${first.line}:${first.column}`;
    const remedy = "Rename one, put it into another namespace, or give one of the files only.";
    this.#problem(subject, "duplicate-object", ["metadata", "name"], found, "each name once in a namespace", remedy);
    return false;
  }

  #problem(
    subject: Subject,
    rule: string,
    path: FieldPath,
    found: string,
    expected: string,
    remedy: string,
    atKey = false,
  ): void {
    const place = atKey ? subject.located.placeOfKey(path) : subject.located.place(path);
    this.#fileProblems.push(problemAt(place, rule, [...subject.prefix, ...path], found, expected, remedy));
  }
}

/**
 * One issue for each field: what is wrong with the field itself before any rule about it, and a rule about an object
 * only where its fields are right by themselves. No more than are ever shown, and one, so that it is said that there
 * are more.
 */
function tellingIssues(issues: readonly z.core.$ZodIssue[]): z.core.$ZodIssue[] {
  const told: z.core.$ZodIssue[] = [];
  const paths = new Set<string>();
  const wrongInside = new Set<string>();
  const key = (path: readonly PropertyKey[]) => JSON.stringify(path);
  for (const issue of issues) {
    if (ruleOf(issue) !== undefined || issue.code === "unrecognized_keys") continue;
    for (let length = 0; length <= issue.path.length; length++) wrongInside.add(key(issue.path.slice(0, length)));
  }
  for (const issue of issues) {
    const rule = ruleOf(issue);
    if (rule !== undefined && wrongInside.has(key(issue.path.slice(0, issue.path.length - rule.path.length)))) continue;
    const path = `${issue.code === "unrecognized_keys"} ${key(issue.path)}`;
    if (paths.has(path)) continue;
    paths.add(path);
    told.push(issue);
    if (told.length > problemsMax) break;
  }
  return told;
}

function ruleOf(issue: z.core.$ZodIssue): CrossFieldRule<never> | undefined {
  return issue.code === "custom" ? (issue.params as { rule?: CrossFieldRule<never> }).rule : undefined;
}

function isRead(kind: string, version: string): boolean {
  return (
    version.split("/")[0] === apiGroup ||
    kind === leverServiceKind ||
    kind === `${leverServiceKind}List` ||
    (version === "v1" && (kind === "List" || kind === "ConfigMap" || kind === "Secret"))
  );
}

const serverMetadataFields = [
  "creationTimestamp",
  "deletionGracePeriodSeconds",
  "deletionTimestamp",
  "finalizers",
  "generateName",
  "generation",
  "managedFields",
  "ownerReferences",
  "resourceVersion",
  "selfLink",
  "uid",
];

/** Fields that every object has when it comes back from a cluster. */
function dropServerFields(object: { [key: string]: YamlValue }): void {
  delete object["status"];
  const { metadata } = object;
  if (typeof metadata !== "object" || metadata === null || Array.isArray(metadata)) return;
  for (const field of serverMetadataFields) delete metadata[field];
}

/** A known field that is null is a field that is not there: so the API server has it. */
function dropNulls(value: YamlValue, schema: FieldSchema | undefined): void {
  if (typeof value !== "object" || value === null || schema === undefined) return;
  if (Array.isArray(value)) {
    for (const item of value) dropNulls(item, schema.items);
    return;
  }
  for (const [name, field] of Object.entries(schema.properties ?? {})) {
    if (!Object.hasOwn(value, name)) continue;
    if (value[name] === null) delete value[name];
    else dropNulls(value[name] as YamlValue, field);
  }
}

function suggestion(name: string, known: readonly string[]): string {
  const nearest = nearestName(name, known);
  return nearest === undefined ? "Remove it." : `Did you mean ${nearest}?`;
}

function typeName(value: unknown): string {
  if (Array.isArray(value)) return "a list";
  return typeof value === "object" ? "a map" : `a ${typeof value}`;
}

/** Standard base64 with padding; line breaks are allowed, as in Go's decoder. */
function base64Bytes(text: string): Uint8Array | undefined {
  const compact = text.replace(/[\r\n]/g, "");
  if (compact.length % 4 !== 0 || !/^[A-Za-z0-9+/]*={0,2}$/.test(compact)) return undefined;
  return Uint8Array.from(atob(compact), (character) => character.charCodeAt(0));
}

function textOf(bytes: Uint8Array): string | undefined {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return undefined;
  }
}

function bounded(problems: readonly ManifestProblem[]): ManifestProblem[] {
  const last = problems[problemsMax - 1];
  if (problems.length <= problemsMax || last === undefined) return [...problems];
  const more = problems.length - problemsMax + 1;
  const remedy = "Correct the first ones; the rest may go with them.";
  return [
    ...problems.slice(0, problemsMax - 1),
    problemAt(last, "too-many-problems", [], `at least ${more} more problems`, "none", remedy),
  ];
}
