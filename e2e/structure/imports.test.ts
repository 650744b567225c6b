/**
 * Shows that the check of imports (`.dependency-cruiser.mjs`) and the pure compiler settings catch what they forbid.
 *
 * The rules run, by the command that `npm run check` uses, over a small tree that has this repository's layout,
 * package.json files and workspace links, with one file per probe. A rule that no probe breaks fails the test.
 */

import { execFile } from "node:child_process";
import { cp, glob, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

const root = join(import.meta.dirname, "../..");

interface Violation {
  readonly from: string;
  readonly rule: { readonly name: string };
}
interface Dependency {
  readonly module: string;
  readonly resolved: string;
}
interface Cruise {
  readonly modules: readonly { readonly source: string; readonly dependencies: readonly Dependency[] }[];
  readonly summary: {
    readonly violations: readonly Violation[];
    readonly ruleSetUsed: { readonly forbidden: readonly { readonly name: string }[] };
  };
}

async function run(bin: string, args: readonly string[], cwd: string) {
  const script = join(root, "node_modules", bin);
  const options = { cwd, maxBuffer: 64 * 1024 * 1024 };
  return promisify(execFile)(process.execPath, [script, ...args], options).catch(
    (error: { stdout: string; stderr: string }) => ({ stdout: error.stdout, stderr: error.stderr }),
  );
}

async function cruise(directory: string): Promise<Cruise> {
  const args = ["--config", join(root, ".dependency-cruiser.mjs"), "--output-type", "json", "."];
  const { stdout, stderr } = await run(".bin/depcruise", args, directory);
  if (stdout === "") throw new Error(`dependency-cruiser printed no report: ${stderr}`);
  return JSON.parse(stdout) as Cruise;
}

/** What probes import, beside each other. */
const targets = [
  "protocol/frame/frame.ts",
  "protocol/value/value.ts",
  "agent/core/router.ts",
  "agent/host/tcp.ts",
  "operator/api/schema.ts",
  "operator/core/table.ts",
  "gateway/http/door.ts",
  "clients/node/index.ts",
  "clients/node/client.ts",
  "clients/node/testing/index.ts",
  "clients/node/embedded/index.ts",
  "cli/main.ts",
  "bench/main.ts",
  "simulator/world.ts",
];
const workspaces = {
  "@leveros/protocol": "protocol",
  "@leveros/agent": "agent",
  "@leveros/operator": "operator",
  "@leveros/gateway": "gateway",
  "@leveros/cli": "cli",
  "@leveros/simulator": "simulator",
  leveros: "clients/node",
};
const packages = ["msgpackr", "zod", "yaml", "express", "@kubernetes/client-node", "@grpc/grpc-js", "vitest"];

/** The file that imports, what it imports, and the rules that this breaks. */
const probes: readonly (readonly [file: string, specifier: string, broken: readonly string[]])[] = [
  ["protocol/session/probe.ts", "../frame/frame.ts", []],
  ["protocol/session/probe.ts", "node:fs", ["protocol-is-pure"]],
  ["protocol/session/probe.ts", "events", ["protocol-is-pure"]],
  ["protocol/session/probe.ts", "msgpackr", ["protocol-is-pure"]],
  ["protocol/session/probe.ts", "@leveros/agent/core/router.ts", ["protocol-is-pure"]],
  ["protocol/session/probe.ts", "../../operator/core/table.ts", ["protocol-is-pure"]],
  ["protocol/session/probe.ts", "vitest", ["declared-packages-only", "protocol-is-pure"]],
  ["protocol/session/probe.test.ts", "vitest", []],
  ["protocol/session/probe.test.ts", "node:fs", []],
  ["protocol/session/probe.test.ts", "@leveros/agent/host/tcp.ts", ["protocol-tests-look-down"]],
  ["protocol/value/probe.ts", "msgpackr", []],
  ["protocol/value/probe.ts", "node:buffer", ["msgpackr-in-value-only"]],
  ["protocol/value/probe.ts", "zod", ["declared-packages-only", "msgpackr-in-value-only"]],
  ["agent/core/probe.ts", "@leveros/protocol/frame/frame.ts", []],
  ["agent/core/probe.ts", "@leveros/operator/core/table.ts", ["agent-core-is-pure"]],
  ["agent/core/probe.ts", "../host/tcp.ts", ["agent-core-is-pure"]],
  ["agent/core/probe.ts", "node:net", ["agent-core-is-pure"]],
  ["agent/core/probe.ts", "zod", ["agent-core-is-pure", "declared-packages-only"]],
  ["agent/core/probe.test.ts", "../host/tcp.ts", ["agent-core-tests-look-down"]],
  ["operator/core/probe.ts", "@leveros/protocol/frame/frame.ts", []],
  ["operator/core/probe.ts", "@leveros/agent/core/router.ts", ["operator-core-is-pure"]],
  ["operator/core/probe.ts", "../api/schema.ts", ["operator-core-is-pure"]],
  ["operator/core/probe.ts", "node:timers", ["operator-core-is-pure"]],
  ["operator/core/probe.ts", "yaml", ["operator-core-is-pure"]],
  ["operator/core/probe.test.ts", "../api/schema.ts", ["operator-core-tests-look-down"]],
  ["clients/node/probe.ts", "@leveros/protocol/frame/frame.ts", []],
  ["clients/node/probe.ts", "node:net", []],
  ["clients/node/probe.ts", "@leveros/agent/core/router.ts", ["client-sees-protocol-only"]],
  ["clients/node/probe.ts", "./testing/index.ts", ["client-sees-protocol-only"]],
  ["clients/node/probe.ts", "./embedded/index.ts", ["client-sees-protocol-only"]],
  ["clients/node/probe.ts", "msgpackr", ["client-sees-protocol-only", "declared-packages-only"]],
  ["clients/node/testing/probe.ts", "@leveros/agent/core/router.ts", []],
  ["clients/node/testing/probe.ts", "@leveros/operator/core/table.ts", []],
  ["agent/host/probe.ts", "express", ["declared-packages-only", "express-in-gateway-only"]],
  ["gateway/http/probe.ts", "express", []],
  ["gateway/http/probe.ts", "@leveros/cli/main.ts", ["nothing-imports-cli"]],
  ["cli/cluster/probe.ts", "@kubernetes/client-node", []],
  ["gateway/http/probe.ts", "@kubernetes/client-node", ["declared-packages-only", "kubernetes-client-in-its-place"]],
  ["agent/host/probe.ts", "@leveros/protocol/frame/absent.ts", ["all-imports-resolve"]],
  ["agent/host/probe.ts", "left-pad", ["all-imports-resolve"]],
  ["clients/node/testing/probe.ts", "@leveros/simulator/world.ts", []],
  ["clients/node/probe.ts", "@leveros/simulator/world.ts", ["client-sees-protocol-only"]],
  ["simulator/probe.ts", "@leveros/agent/core/router.ts", []],
  ["simulator/probe.ts", "../clients/node/client.ts", []],
  ["simulator/probe.ts", "../clients/node/testing/index.ts", ["simulator-sees-cores-and-client"]],
  ["simulator/probe.ts", "@leveros/agent/host/tcp.ts", ["simulator-sees-cores-and-client"]],
  ["bench/probe.ts", "leveros", []],
  ["bench/probe.ts", "leveros/testing", []],
  ["bench/probe.ts", "@grpc/grpc-js", []],
  ["bench/probe.ts", "node:child_process", []],
  ["bench/probe.ts", "@leveros/agent/core/router.ts", ["bench-sees-published-entries"]],
  ["bench/probe.ts", "../clients/node/client.ts", ["bench-sees-published-entries"]],
  ["examples/hello/probe.ts", "leveros", []],
  ["examples/hello/probe.ts", "node:crypto", []],
  ["examples/hello/probe.ts", "@leveros/protocol/frame/frame.ts", ["examples-see-published-entries"]],
  ["e2e/probe.ts", "leveros", []],
  ["e2e/probe.ts", "@leveros/operator/core/table.ts", ["e2e-sees-published-entries"]],
  ["e2e/probe.ts", "../bench/main.ts", ["e2e-sees-published-entries"]],
];

/** Every way to name another module; each must be seen. */
const forms: readonly ((specifier: string) => string)[] = [
  (specifier) => `import * as target from "${specifier}";\nexport const used = target;\n`,
  (specifier) => `import type { Any } from "${specifier}";\nexport type Used = Any;\n`,
  (specifier) => `export * from "${specifier}";\n`,
  (specifier) => `export const used = await import("${specifier}");\n`,
  (specifier) => `export async function use() {\n  await using target = await import("${specifier}");\n}\n`,
  (specifier) => `for (using target of [await import("${specifier}")]) target.use();\n`,
];

let tree = "";
afterAll(async () => {
  if (tree !== "") await rm(tree, { recursive: true });
});

async function write(path: string, text: string): Promise<void> {
  await mkdir(dirname(join(tree, path)), { recursive: true });
  await writeFile(join(tree, path), text);
}

const probeFile = (index: number, form: number) => {
  const [file] = probes[index]!;
  return file.replace("probe", `probe-${index}-${form}`);
};

describe("the check of imports", () => {
  let broken: Map<string, string[]>;
  let rules: string[];

  beforeAll(async () => {
    tree = await mkdtemp(join(tmpdir(), "lever-structure-"));
    for (const file of ["package.json", ...Object.values(workspaces).map((folder) => `${folder}/package.json`)]) {
      await mkdir(dirname(join(tree, file)), { recursive: true });
      await cp(join(root, file), join(tree, file));
    }
    for (const file of ["bench/package.json", "examples/hello/package.json"]) {
      await write(file, await readFile(join(root, file), "utf8"));
    }
    for (const target of targets) await write(target, "export const one = 1;\n");
    for (const name of packages) {
      await write(`node_modules/${name}/package.json`, JSON.stringify({ name, version: "1.0.0", main: "index.js" }));
      await write(`node_modules/${name}/index.js`, "module.exports = {};\n");
    }
    await mkdir(join(tree, "node_modules/@leveros"));
    for (const [name, folder] of Object.entries(workspaces)) {
      await symlink(join(tree, folder), join(tree, "node_modules", name));
    }
    for (const [index, [, specifier]] of probes.entries()) {
      for (const [form, print] of forms.entries()) await write(probeFile(index, form), print(specifier));
    }
    await write("agent/host/cycle-a.ts", `import { b } from "./cycle-b.ts";\nexport const a = () => b;\n`);
    await write("agent/host/cycle-b.ts", `import { a } from "./cycle-a.ts";\nexport const b = () => a;\n`);

    await write("cli/cluster/cluster.ts", `import { one } from "@kubernetes/client-node";\nexport const two = one;\n`);
    await write("cli/at-once-a.ts", `import { one } from "@kubernetes/client-node";\nexport const two = one;\n`);
    await write("cli/at-once-b.ts", `import { two } from "./cluster/cluster.ts";\nexport const three = two;\n`);
    const onDemand = `import type { Two } from "./cluster/cluster.ts";\nexport const load = () => import("./cluster/cluster.ts");\n`;
    await write("cli/on-demand.ts", onDemand);

    const { summary } = await cruise(tree);
    rules = summary.ruleSetUsed.forbidden.map((rule) => rule.name);
    broken = new Map(
      [...Map.groupBy(summary.violations, ({ from }) => from)].map(([from, list]) => [
        from,
        [...new Set(list.map(({ rule }) => rule.name))].sort(),
      ]),
    );
  }, 60_000);

  test.each(probes.map(([file, specifier, expected], index) => ({ file, specifier, expected, index })))(
    "$file imports $specifier: $expected",
    ({ expected, index }) => {
      const found = forms.map((_, form) => broken.get(probeFile(index, form)) ?? []);
      expect(found).toEqual(forms.map(() => expected));
    },
  );

  test("what loads Kubernetes' client at once is caught in cli, and what does on demand is not", () => {
    for (const file of ["cli/at-once-a.ts", "cli/at-once-b.ts"]) {
      expect(broken.get(file)).toEqual(["kubernetes-on-demand-in-cli"]);
    }
    expect(broken.get("cli/on-demand.ts")).toBeUndefined();
    expect(broken.get("cli/cluster/cluster.ts")).toBeUndefined();
  });

  test("a cycle is caught", () => {
    expect(broken.get("agent/host/cycle-a.ts")).toEqual(["no-cycles"]);
  });

  test("every rule is broken by some probe", () => {
    const seen = new Set([...broken.values()].flat());
    expect(rules.filter((rule) => !seen.has(rule))).toEqual([]);
    expect(rules.length).toBeGreaterThan(10);
  });
});

test("the check of imports sees every source file and follows workspace links to it", async () => {
  const { modules } = await cruise(root);
  const cruised = new Set(modules.map(({ source }) => source));
  const sources: string[] = [];
  const folders = "{protocol,agent,operator,gateway,clients,cli,bench,simulator,examples,e2e}";
  for await (const file of glob(`${folders}/**/*.ts`, { cwd: root, exclude: ["**/node_modules"] })) sources.push(file);
  expect(sources.length).toBeGreaterThan(20);
  expect(sources.filter((file) => !cruised.has(file))).toEqual([]);

  const linked = modules.flatMap(({ dependencies }) =>
    dependencies.filter(({ module }) => module.startsWith("@leveros/")),
  );
  expect(linked.length).toBeGreaterThan(0);
  expect(linked.filter(({ resolved }) => !sources.includes(resolved))).toEqual([]);
});

describe("the pure projects", () => {
  const refused = {
    "a timer": "setTimeout(() => {}, 1);",
    "the process": "process.exit();",
    "a buffer": `Buffer.from("");`,
    "the console": `console.log("");`,
    fetch: `fetch("");`,
    "a page": "document.title;",
    "wall-clock time": "performance.now();",
    "a module of Node": `import("node:fs");`,
  };
  const accepted = "new TextEncoder().encode(String(new AbortController().signal.aborted));";

  test.each(["protocol", "agent/core", "operator/core"])("%s compiles with the language alone", async (project) => {
    // Inside the repository, so that node_modules/@types is in reach, as it is for the project itself.
    await mkdir(join(root, ".cache"), { recursive: true });
    const directory = await mkdtemp(join(root, ".cache/structure-"));
    try {
      const config = {
        extends: join(root, project, "tsconfig.json"),
        compilerOptions: { rootDir: directory, outDir: directory, tsBuildInfoFile: join(directory, "info") },
        include: ["*.ts", join(root, "protocol/platform.d.ts")],
        exclude: [],
        references: [],
      };
      await writeFile(join(directory, "tsconfig.json"), JSON.stringify(config));
      for (const [index, statement] of [...Object.values(refused), accepted].entries()) {
        await writeFile(join(directory, `probe-${index}.ts`), `export {};\n${statement}\n`);
      }
      const { stdout } = await run(".bin/tsc", ["-p", directory, "--pretty", "false"], root);
      const failed = new Set(
        [...stdout.matchAll(/probe-(\d+)\.ts\(2,\d+\): error TS/g)].map((match) => Number(match[1])),
      );
      expect([...failed].sort(), stdout).toEqual(Object.keys(Object.values(refused)).map(Number));
    } finally {
      await rm(directory, { recursive: true });
    }
  });
});
