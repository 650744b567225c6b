/** What `lever check --pre` asks for, against the chart's templates. */

import { globSync, readFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { parseAllDocuments } from "yaml";
import { clusterGrants, clusterObjects, namespacedGrants, namespacedObjects } from "./install-rights.ts";

const templates = path.resolve(import.meta.dirname, "../../charts/lever/templates");
const template = (file: string) => readFileSync(path.join(templates, file), "utf8");

interface Role {
  readonly kind: string;
  readonly metadata: { readonly name: string };
  readonly rules: readonly {
    readonly apiGroups: readonly string[];
    readonly resources: readonly string[];
    readonly resourceNames?: readonly string[];
    readonly verbs: readonly string[];
  }[];
}

function rulesOf(kind: string, name: string, file: string): Role["rules"] {
  const text = template(file)
    .replace(/^\s*\{\{-.*\n/gm, "")
    .replace(/\{\{[^}]*\}\}/g, "x");
  const roles = parseAllDocuments(text).map((each) => each.toJS() as Role);
  const found = roles.find((each) => each.kind === kind && each.metadata.name === name);
  if (found === undefined) throw new Error(`no ${kind} ${name} in ${file}`);
  return found.rules;
}

describe("whoever installs the chart is asked for", () => {
  /** `group resource name verb` of each. */
  const words = (group: string, resource: string, name: string | undefined, verbs: readonly string[]) =>
    verbs.map((verb) => [group, resource, name ?? "-", verb].join(" "));

  test.each([
    [
      "cluster's roles",
      clusterGrants,
      [
        rulesOf("ClusterRole", "lever-operator", "operator/rbac.yaml"),
        rulesOf("ClusterRole", "lever-view", "user-roles.yaml"),
        rulesOf("ClusterRole", "lever-edit", "user-roles.yaml"),
      ],
    ],
    ["namespace's role", namespacedGrants, [rulesOf("Role", "lever-operator", "operator/rbac.yaml")]],
  ] as const)("what the %s grant", (_, grants, roles) => {
    const granted = roles
      .flat()
      .flatMap(({ apiGroups, resources, resourceNames = [undefined], verbs }) =>
        apiGroups.flatMap((group) =>
          resources.flatMap((resource) => resourceNames.flatMap((name) => words(group, resource, name, verbs))),
        ),
      );
    const asked = grants.flatMap(({ group, resource, name, verbs }) => words(group, resource, name, verbs));
    expect([...asked].sort()).toEqual([...new Set(granted)].sort());
  });

  test("the objects that there are unless more is asked for", () => {
    const optional = ["NetworkPolicy", "ServiceMonitor"];
    const made = globSync("**/*.yaml", { cwd: templates }).flatMap((file) =>
      [...template(file).matchAll(/^apiVersion: (?:(.*)\/)?\S+\nkind: (.*)$/gm)].flatMap(([, group = "", kind = ""]) =>
        optional.includes(kind) ? [] : [`${group} ${kind.toLowerCase()}s`],
      ),
    );
    const asked = [...clusterObjects, ...namespacedObjects].map(({ group, resource }) => `${group} ${resource}`);
    expect(made.length).toBeGreaterThan(12);
    expect(asked.sort()).toEqual([...new Set(made)].sort());
  });
});
