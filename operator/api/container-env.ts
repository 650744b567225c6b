/**
 * The environment variables of a service's container, resolved without a cluster, as a kubelet does it: `envFrom`, then
 * `env` in order with `$(NAME)` expanded, then the overrides of the command line.
 *
 * What cannot be resolved is a problem with its place, unless an override gives the value. Values never get into one.
 */

import type { FieldPath } from "./field-schema.ts";
import { type ManifestProblem, problemAt, shorten } from "./manifest-problem.ts";
import type { DataObject, ManifestSet } from "./manifest-reader.ts";
import { appContainerOf, type EnvFromSource, type EnvVariable, type LeverService } from "./v1alpha1/lever-service.ts";

/** Linux takes no longer string in a program's environment. */
export const envValueBytesMax = 128 * 1024 - 1;
/** All variables together, so that references to references cannot grow without end. */
export const envBytesMax = 1024 ** 2;

export interface ResolveEnvOptions {
  /** The instance's id: what `fieldRef: metadata.name` stands for. */
  readonly instance: string;
  /** `--env NAME=VALUE`: they come last and win. */
  readonly overrides?: Readonly<Record<string, string>> | undefined;
}

export interface ResolvedEnv {
  readonly env: Record<string, string>;
  /** Empty if all variables could be resolved. */
  readonly problems: readonly ManifestProblem[];
}

/** The variables of the service's container (`appContainerOf`). `service` is one of `set`. */
export function resolveEnv(set: ManifestSet, service: LeverService, options: ResolveEnvOptions): ResolvedEnv {
  const resolver = new EnvResolver(set, service, options);
  return resolver.resolve();
}

class EnvResolver {
  readonly #set: ManifestSet;
  readonly #service: LeverService;
  readonly #instance: string;
  readonly #overrides: ReadonlyMap<string, string>;
  readonly #env = new Map<string, string>();
  readonly #problems: ManifestProblem[] = [];
  #bytesLeft = envBytesMax;

  constructor(set: ManifestSet, service: LeverService, options: ResolveEnvOptions) {
    this.#set = set;
    this.#service = service;
    this.#instance = options.instance;
    this.#overrides = new Map(Object.entries(options.overrides ?? {}));
  }

  resolve(): ResolvedEnv {
    const container = appContainerOf(this.#service);
    const index = this.#service.spec.template.spec.containers.indexOf(container);
    const path = ["spec", "template", "spec", "containers", index];
    for (const [i, source] of (container.envFrom ?? []).entries()) this.#addAll(source, [...path, "envFrom", i]);
    for (const [i, variable] of (container.env ?? []).entries()) this.#addOne(variable, [...path, "env", i]);
    for (const [name, value] of this.#overrides) this.#env.set(name, value);
    return { env: Object.fromEntries(this.#env), problems: this.#problems };
  }

  #addAll(source: EnvFromSource, path: FieldPath): void {
    const field = source.configMapRef === undefined ? "secretRef" : "configMapRef";
    const reference = source[field];
    if (reference === undefined) return;
    const object = this.#find(field === "configMapRef" ? "ConfigMap" : "Secret", reference, [...path, field, "name"]);
    for (const [key, value] of object?.data ?? []) {
      const name = `${source.prefix ?? ""}${key}`;
      // As a kubelet does: keys that no variable can be named after are passed over.
      if (/^[ -<>-~]+$/.test(name)) this.#assign(name, value, [...path, field, "name"]);
    }
  }

  #addOne(variable: EnvVariable, path: FieldPath): void {
    const { name, value, valueFrom } = variable;
    if (this.#overrides.has(name)) return;
    if (value) {
      this.#assign(name, this.#expand(value), [...path, "value"]);
    } else if (valueFrom === undefined) {
      this.#assign(name, "", path);
    } else if (valueFrom.configMapKeyRef !== undefined) {
      this.#addKey(name, "ConfigMap", valueFrom.configMapKeyRef, [...path, "valueFrom", "configMapKeyRef"]);
    } else if (valueFrom.secretKeyRef !== undefined) {
      this.#addKey(name, "Secret", valueFrom.secretKeyRef, [...path, "valueFrom", "secretKeyRef"]);
    } else if (valueFrom.fieldRef?.fieldPath === "metadata.name") {
      this.#assign(name, this.#instance, path);
    } else if (valueFrom.fieldRef?.fieldPath === "metadata.namespace") {
      this.#assign(name, this.#service.metadata.namespace, path);
    } else {
      const source = valueFrom.fieldRef?.fieldPath ?? Object.keys(valueFrom).join(", ");
      const found = source === "" ? "no source" : `${shorten(source)}, which only a cluster has`;
      const expected = "configMapKeyRef, secretKeyRef, or fieldRef to metadata.name or metadata.namespace";
      this.#problem("env-unresolved", [...path, "valueFrom"], found, expected, overrideRemedy(name));
    }
  }

  #addKey(
    name: string,
    kind: DataObject["kind"],
    reference: { name: string; key: string; optional?: boolean | undefined },
    path: FieldPath,
  ): void {
    const object = this.#find(kind, reference, [...path, "name"], name);
    if (object === undefined) return;
    if (object.data.has(reference.key)) {
      this.#assign(name, object.data.get(reference.key), [...path, "key"]);
    } else if (reference.optional !== true) {
      const { file, line } = object.place;
      const found = `no key ${shorten(reference.key)} in the ${kind} ${shorten(reference.name)} (${file}:${line})`;
      const remedy = `Add the key, or set optional: true. ${overrideRemedy(name)}`;
      this.#problem("env-unresolved", [...path, "key"], found, "a key that the object has", remedy);
    }
  }

  #find(
    kind: DataObject["kind"],
    reference: { name: string; optional?: boolean | undefined },
    path: FieldPath,
    variable?: string,
  ): DataObject | undefined {
    const { namespace } = this.#service.metadata;
    const objects = kind === "ConfigMap" ? this.#set.configMaps : this.#set.secrets;
    const object = objects.find((candidate) => candidate.name === reference.name && candidate.namespace === namespace);
    if (object === undefined && reference.optional !== true) {
      const found = `no ${kind} ${shorten(reference.name)} in ${namespace} in the given files`;
      const remedy = `Give its manifest too, or set optional: true.${variable ? ` ${overrideRemedy(variable)}` : ""}`;
      this.#problem("env-unresolved", path, found, `a ${kind} that is there`, remedy);
    }
    return object;
  }

  /** `undefined`: longer than a value may be. */
  #expand(text: string): string | undefined {
    let expanded = "";
    let end = 0;
    for (const match of text.matchAll(/\$\$|\$\(([^)]*)\)/g)) {
      const name = match[1];
      expanded += text.slice(end, match.index);
      expanded += name === undefined ? "$" : (this.#overrides.get(name) ?? this.#env.get(name) ?? match[0]);
      end = match.index + match[0].length;
      if (expanded.length > envValueBytesMax) break;
    }
    return expanded + text.slice(end);
  }

  #assign(name: string, value: string | undefined, path: FieldPath): void {
    if (this.#overrides.has(name)) return;
    if (value === undefined || value.includes("\0")) {
      const found = value === undefined ? "bytes that are not text" : "a value with a NUL character";
      const expected = "text, which is all that an environment variable holds";
      this.#problem("env-not-text", path, `${found} for ${shorten(name)}`, expected, overrideRemedy(name));
      return;
    }
    const bytes = new TextEncoder().encode(value).length;
    if (bytes > envValueBytesMax || bytes > this.#bytesLeft) {
      const found = `a value of ${bytes} bytes for ${shorten(name)}`;
      const expected = `at most ${envValueBytesMax} bytes, and ${envBytesMax} in all variables`;
      this.#problem("env-too-large", path, found, expected, "Put large data into a file.");
      return;
    }
    this.#bytesLeft -= bytes;
    this.#env.set(name, value);
  }

  #problem(rule: string, path: FieldPath, found: string, expected: string, remedy: string): void {
    const place = this.#set.locate(this.#service).place(path);
    this.#problems.push(problemAt(place, rule, path, found, expected, remedy));
  }
}

function overrideRemedy(name: string): string {
  return `Locally, --env ${/^\w+$/.test(name) ? name : JSON.stringify(name)}=… gives a value.`;
}
