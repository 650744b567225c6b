import { describe, expect, test } from "vitest";
import { eachField, serviceFieldSchema } from "./field-schema.ts";
import { invalidChanges } from "./invalid-manifests.fixture.ts";
import { changeProblems } from "./manifest-change.ts";
import { formatProblem } from "./manifest-problem.ts";
import { readManifests } from "./manifest-reader.ts";
import { serviceChangeRules } from "./v1alpha1/lever-service.ts";

function problemsOf(before: string, after: string) {
  const read = (content: string) => readManifests([{ file: "chat.yaml", content }]);
  const [former, set] = [read(before), read(after)];
  expect([...former.problems, ...set.problems].map(formatProblem)).toEqual([]);
  return changeProblems(set, former.services[0]!, set.services[0]!);
}

test.each(invalidChanges.map((entry) => [entry.rule, entry.path, entry] as const))("%s: %s", (_, __, invalid) => {
  expect(problemsOf(invalid.before, invalid.text)).toMatchObject([
    { rule: invalid.rule, path: invalid.path, line: invalid.line, column: invalid.column },
  ]);
});

test("says what it was", () => {
  const [, change] = invalidChanges;
  expect(problemsOf(change!.before, change!.text).map(formatProblem)).toEqual([
    expect.stringMatching(
      /^chat\.yaml:6:23 spec\.ownership\.slots: found 255 where it was 256, expected the number of slots .*never changes\. /,
    ),
  ]);
});

describe("no problem", () => {
  const [change] = invalidChanges;
  const without = change!.before.replace(/ {2}ownership.*\n/, "");
  test.each([
    ["without a change", change!.before, change!.before],
    ["of another service", change!.before, change!.text.replace("name: chat", "name: other")],
    ["of another environment", change!.before, change!.text.replace("name: chat", "name: chat, namespace: other")],
    ["when ownership comes", without, change!.text],
    ["when ownership goes", change!.before, without],
    ["where other fields change", change!.before, change!.before.replace("slots: 256", "leaseSeconds: 30")],
  ])("%s", (_, before, after) => {
    expect(problemsOf(before, after)).toEqual([]);
  });
});

test("a case is there for every rule of a change, and every such rule is asked", () => {
  const inSchema = [...eachField(serviceFieldSchema)].flatMap(({ path, schema }) =>
    (schema.changeRules ?? []).map(({ name }) => `${path} ${name}`),
  );
  expect(inSchema.length).toBeGreaterThan(0);
  expect(serviceChangeRules.map(({ path, rule }) => `${path.join(".")} ${rule.name}`)).toEqual(inSchema);
  const cases = new Set(invalidChanges.map(({ path, rule }) => `${path} ${rule}`));
  expect(inSchema.filter((each) => !cases.has(each))).toEqual([]);
});
