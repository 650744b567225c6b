import { describe, expect, test } from "vitest";
import { formatProblem } from "./manifest-problem.ts";
import { readManifests } from "./manifest-reader.ts";
import { aliasedNodesMax, fileBytesMax, LocatedValue, readYaml } from "./yaml-document.ts";

/** The first document's value, or what is wrong. */
function value(text: string): unknown {
  const { documents, problems } = readYaml("a.yaml", text);
  if (problems.length > 0) return problems;
  const result = documents[0]?.read();
  return result instanceof LocatedValue ? result.value : result;
}

function firstProblem(content: string | Uint8Array): { rule: string; line: number; column: number } {
  const { documents, problems } = readYaml("a.yaml", content);
  const all = [
    ...problems,
    ...documents.flatMap((document) => {
      const result = document.read();
      return result instanceof LocatedValue ? [] : result;
    }),
  ];
  expect(all.length).toBeGreaterThan(0);
  const { rule, line, column } = all[0]!;
  return { rule, line, column };
}

test("scalars mean what they mean to kubectl", () => {
  expect(value("[yes, Off, y, true, ~, null, 0644, 0x1f, 1_000, 1e3, -2]")).toEqual([
    true,
    false,
    true,
    true,
    null,
    null,
    420,
    31,
    1000,
    1000,
    -2,
  ]);
  expect(value("[2026-01-01, 12:30, '5', \"yes\", !!str 7, 1.2.3]")).toEqual([
    "2026-01-01",
    "12:30",
    "5",
    "yes",
    "7",
    "1.2.3",
  ]);
});

test("merges keep what the map itself says, whatever the order, and the first of several sources", () => {
  expect(value("[&a { p: 1, q: 1 }, &b { q: 2, r: 2 }, { <<: [*a, *b], r: 3 }, { p: 9, <<: *a }]")).toEqual([
    { p: 1, q: 1 },
    { q: 2, r: 2 },
    { p: 1, q: 1, r: 3 },
    { p: 9, q: 1 },
  ]);
});

test("an alias means the last anchor before it", () => {
  expect(value("[&a 1, *a, &a 2, *a]")).toEqual([1, 1, 2, 2]);
});

test("places count from 1, in characters of the line", () => {
  const result = readYaml("a.yaml", "ä: 1\nb:\n  - ü: [x, y]\n").documents[0]?.read();
  expect(result).toBeInstanceOf(LocatedValue);
  const located = result as LocatedValue;
  expect(located.place([])).toEqual({ file: "a.yaml", line: 1, column: 1 });
  expect(located.place(["ä"])).toEqual({ file: "a.yaml", line: 1, column: 4 });
  expect(located.place(["b", 0, "ü", 1])).toEqual({ file: "a.yaml", line: 3, column: 12 });
  expect(located.placeOfKey(["b", 0, "ü"])).toEqual({ file: "a.yaml", line: 3, column: 5 });
  expect(located.place(["b", 0, "none", 4])).toEqual({ file: "a.yaml", line: 3, column: 5 });
});

describe("text that is no data gives one problem", () => {
  test.each([
    ["yaml-syntax", 3, 1, "a: 1\nb: [1, 2\n"],
    ["yaml-syntax", 2, 1, "a:\n\tb: 1\n"],
    ["yaml-syntax", 2, 4, "a: 1\nb: c: d\n"],
    ["yaml-syntax", 2, 1, 'a: "b\n'],
    ["yaml-tag", 1, 4, "a: !custom b\n"],
    ["yaml-tag", 1, 4, "a: !!binary YQ==\n"],
    ["duplicate-key", 3, 1, "a: 1\nb: 2\na: 3\n"],
    ["duplicate-key", 1, 8, "{a: 1, a: 2}\n"],
    ["key-not-string", 2, 1, "a: 1\n8080: b\n"],
    ["key-not-string", 1, 1, "yes: b\n"],
    ["key-not-string", 1, 3, "? [a]\n: b\n"],
    ["key-not-string", 1, 5, "a: {{ .Values.name }}\n"],
    ["key-not-string", 1, 1, "~: b\n"],
    ["key-not-string", 1, 1, "__proto__: { polluted: true }\n"],
    ["alias-invalid", 1, 4, "a: *none\n"],
    ["alias-invalid", 1, 8, "a: &a [*a]\n"],
    ["alias-invalid", 2, 6, "a: &a\n  b: *a\n"],
    ["merge-invalid", 1, 5, "<<: 1\n"],
    ["not-json", 1, 4, "a: .inf\n"],
    ["not-json", 1, 4, "a: .nan\n"],
    ["control-character", 1, 5, "a: b\0\n"],
    ["control-character", 2, 2, "a\n \u001b[31m\n"],
  ])("%s at %i:%i", (rule, line, column, text) => {
    expect(firstProblem(text)).toEqual({ rule, line, column });
  });
});

test("bytes that are not UTF-8 have a line", () => {
  const bytes = new TextEncoder().encode("a: ä\nb: ö\nc: d\n");
  expect(readYaml("a.yaml", bytes).problems).toEqual([]);
  bytes[10] = 0xff;
  expect(firstProblem(bytes)).toEqual({ rule: "not-utf8", line: 2, column: 1 });
  expect(firstProblem(new Uint8Array([0xff, 0xfe, 0x61, 0x00]))).toEqual({ rule: "not-utf8", line: 1, column: 1 });
  expect(firstProblem(new Uint8Array([0x0a, 0x61, 0xc3]))).toEqual({ rule: "not-utf8", line: 2, column: 1 });
});

describe("what is too much is a problem, not a hang", () => {
  const MiB = 1024 ** 2;

  test("bytes", () => {
    expect(fileBytesMax).toBe(MiB);
    expect(readYaml("a.yaml", `#${"x".repeat(MiB - 1)}`).problems).toEqual([]);
    expect(firstProblem(`#${"x".repeat(MiB)}`).rule).toBe("file-too-large");
    // Bytes count, not characters.
    expect(firstProblem(`#${"ä".repeat(MiB / 2)}`).rule).toBe("file-too-large");
  });

  test("documents", () => {
    expect(readYaml("a.yaml", "---\na: 1\n".repeat(1000))).toMatchObject({ problems: [] });
    expect(firstProblem("---\na: 1\n".repeat(1001)).rule).toBe("too-many-documents");
    expect(firstProblem("---\n".repeat(50_000)).rule).toBe("too-many-documents");
  });

  test("depth", () => {
    const nested = (depth: number) => `a: ${"[".repeat(depth)}${"]".repeat(depth)}`;
    expect(value(nested(60))).toHaveProperty("a");
    expect(firstProblem(nested(65))).toEqual({ rule: "too-deep", line: 1, column: 68 });
    for (const text of ["[".repeat(MiB), "{a: ".repeat(MiB / 4), "- ".repeat(MiB / 2), "? ".repeat(MiB / 2)]) {
      expect(firstProblem(text).rule).toBe("too-deep");
    }
    // Each document begins anew, and each line.
    expect(readYaml("a.yaml", "- [\n---\n".repeat(100)).problems.map((problem) => problem.rule)).not.toContain(
      "too-deep",
    );
    expect(value("- a\n".repeat(100))).toHaveLength(100);
    const indented = Array.from({ length: 1400 }, (_, depth) => `${" ".repeat(depth)}a:`).join("\n");
    expect(["yaml-syntax", "too-deep"]).toContain(firstProblem(indented).rule);
  });

  test("aliases of aliases", () => {
    const levels = Array.from({ length: 30 }, (_, i) => `a${i + 1}: &a${i + 1} [*a${i}, *a${i}, *a${i}, *a${i}]`);
    const bomb = `a0: &a0 [x, x, x, x]\n${levels.join("\n")}\n`;
    expect(firstProblem(bomb).rule).toBe("alias-too-large");
    const wide = `a: &a [${"1, ".repeat(aliasedNodesMax - 2)}1]\nb: `;
    expect(value(`${wide}*a`)).toHaveProperty("b");
    expect(firstProblem(`${wide}[*a, *a]`).rule).toBe("alias-too-large");
    // In merges too.
    const merges = Array.from({ length: 30 }, (_, i) => `m${i + 1}: &m${i + 1} { <<: [*m${i}, *m${i}], k${i}: 1 }`);
    expect(firstProblem(`m0: &m0 { a: 1 }\n${merges.join("\n")}\n`).rule).toBe("alias-too-large");
  });

  test("names, values and signs", () => {
    for (const text of ["a: b\n".repeat(MiB / 5), `[${",".repeat(MiB - 1)}`, `{${"a,".repeat(MiB / 2 - 1)}`]) {
      expect(firstProblem(text).rule).toBe("file-too-large");
    }
    const keys = Array.from({ length: 30_000 }, (_, i) => `k${i}: ${i}`).join("\n");
    expect(Object.keys(value(keys) as object)).toHaveLength(30_000);
    const aliases = Array.from({ length: 10_000 }, (_, i) => `- &a${i} ${i}\n- *a${i}`).join("\n");
    expect(value(aliases)).toHaveLength(20_000);
    // Long text is one value.
    expect(value(`a: |\n${"  x, y: [z]\n".repeat(80_000)}`)).toHaveProperty("a");
  });

  test("problems of one document", () => {
    const { documents } = readYaml("a.yaml", Array.from({ length: 20_000 }, (_, i) => `${i}: a`).join("\n"));
    expect(documents[0]?.read()).toHaveLength(20);
  });
});

test("a manifest made of aliases and wrong entries gives a bounded number of problems", () => {
  const env = `&e [${"1, ".repeat(150)}1]`;
  const containers = Array.from({ length: 30 }, (_, i) => `{ name: c${i}, env: ${i === 0 ? env : "*e"} }`).join(", ");
  const text = `apiVersion: leveros.dev/v1alpha1\nkind: LeverService\nmetadata: { name: a }\nspec: { template: { spec: { containers: [${containers}] } } }`;
  const { problems } = readManifests([{ file: "a.yaml", content: text }]);
  expect(problems).toHaveLength(100);
  expect(new Set(problems.map(formatProblem)).size).toBe(100);
});
