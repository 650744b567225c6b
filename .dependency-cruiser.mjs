/**
 * Which part may import which: protocol <- agent/core, operator/core <- hosts <- cli, and bench, examples and e2e see
 * published entries only. e2e/structure/imports.test.ts shows of each rule that it catches what it forbids.
 *
 * Type imports count: a core that names a host's type depends on it. TypeScript 7 has no parser that
 * dependency-cruiser can load, hence swc.
 */

import { Visitor } from "@swc/core/Visitor.js";

// dependency-cruiser walks swc's tree with this class, which stops at `using` declarations: it is older than they are.
const { visitStatement, visitPattern } = Visitor.prototype;
function withUsing(visit) {
  return function visitKnown(node) {
    if (node?.type !== "UsingDeclaration") return visit.call(this, node);
    node.decls = this.visitVariableDeclarators(node.decls);
    return node;
  };
}
Visitor.prototype.visitStatement = withUsing(visitStatement);
Visitor.prototype.visitPattern = withUsing(visitPattern);

/** Files that only tests load. They may use Node, vitest and fast-check everywhere. */
const testFile = "\\.(test|suite|fixture)\\.ts$";
const testPackages = ["vitest", "fast-check"];
const publishedEntries = ["clients/node/index\\.ts$", "clients/node/testing/index\\.ts$"];

/** Files that match `from` import what matches `paths`, the named packages and, if `node`, Node's modules. */
function only(name, comment, from, { paths, packages = [], node = false }) {
  const pathNot = [...paths.map((path) => `^${path}`), ...packages.map((name) => `(^|/)node_modules/${name}/`)];
  return { name, comment, severity: "error", from, to: { pathNot, ...(node && { dependencyTypesNot: ["core"] }) } };
}

/** Two rules for a pure folder: one for what ships, one for its tests. */
function pure(name, comment, folder, paths) {
  return [
    only(`${name}-is-pure`, comment, { path: `^${folder}/`, pathNot: [testFile, "^protocol/value/"] }, { paths }),
    only(
      `${name}-tests-look-down`,
      `Tests in ${folder} import what ${folder} may, Node and the test packages.`,
      { path: `^${folder}/.*${testFile}` },
      { paths, packages: [...testPackages, "msgpackr"], node: true },
    ),
  ];
}

/** @type {import("dependency-cruiser").IConfiguration} */
export default {
  forbidden: [
    ...pure("protocol", "protocol imports itself only, nothing of Node: it runs in browsers.", "protocol", [
      "protocol/",
    ]),
    only(
      "msgpackr-in-value-only",
      "protocol/value owns the encoding of values and is the only one to import msgpackr.",
      { path: "^protocol/value/", pathNot: testFile },
      { paths: ["protocol/"], packages: ["msgpackr"] },
    ),
    ...pure(
      "agent-core",
      "agent/core sees protocol only: clock, chance and transports are given to it.",
      "agent/core",
      ["agent/core/", "protocol/"],
    ),
    ...pure(
      "operator-core",
      "operator/core sees protocol only: it and agent/core talk through protocol/control.",
      "operator/core",
      ["operator/core/", "protocol/"],
    ),
    only(
      "client-sees-protocol-only",
      "The Node client's main entry has no agent in it; testing and embedded are entries of their own.",
      { path: "^clients/node/", pathNot: [testFile, "^clients/node/(testing|embedded)/"] },
      { paths: ["clients/node/(?!testing/|embedded/)", "protocol/"], node: true },
    ),
    only(
      "simulator-sees-cores-and-client",
      "The simulator has no routing, leases or tables of its own: it runs the cores and the client library, not their hosts.",
      { path: "^simulator/", pathNot: testFile },
      {
        paths: [
          "simulator/",
          "protocol/",
          "agent/core/",
          "operator/core/",
          "operator/discovery/",
          "clients/node/(?!testing/|embedded/)",
        ],
        node: true,
      },
    ),
    only(
      "examples-see-published-entries",
      "Examples are copied by users, who have nothing else.",
      { path: "^examples/" },
      { paths: ["examples/", ...publishedEntries], packages: testPackages, node: true },
    ),
    only(
      "bench-sees-published-entries",
      "What is measured is what users get; grpc is the peer, msgpackr the floor.",
      { path: "^bench/" },
      { paths: ["bench/", ...publishedEntries], packages: ["@grpc", "msgpackr", ...testPackages], node: true },
    ),
    only(
      "e2e-sees-published-entries",
      "What is tested end to end is what users get. The manifests that are refused are data, and the same everywhere; " +
        "programs for controls are bundled as the real ones are, and what plays thousands of agents in one process is " +
        "made of what an agent is made of.",
      { path: "^e2e/", pathNot: "^e2e/scale/fake-agents\\.ts$" },
      {
        paths: [
          "e2e/",
          "operator/api/invalid-manifests\\.fixture\\.ts$",
          "esbuild\\.config\\.ts$",
          "node_modules/(?!express/|@kubernetes/)",
          ...publishedEntries,
        ],
        node: true,
      },
    ),
    {
      name: "nothing-imports-cli",
      comment: "The command line is the top of the order.",
      severity: "error",
      from: { pathNot: "^cli/" },
      to: { path: "^cli/" },
    },
    {
      name: "express-in-gateway-only",
      comment: "HTTP for users is the gateway's.",
      severity: "error",
      from: { pathNot: "^gateway/" },
      to: { path: "(^|/)node_modules/(@types/)?express/" },
    },
    {
      name: "kubernetes-client-in-its-place",
      comment: "@kubernetes/client-node costs about 90 MiB of resident memory: only operator/kube and cli load it.",
      severity: "error",
      from: { pathNot: "^(operator/kube|cli)/" },
      to: { path: "(^|/)node_modules/@kubernetes/client-node/" },
    },
    {
      name: "kubernetes-on-demand-in-cli",
      comment:
        "Commands on this machine start without Kubernetes' client: only cli/cluster loads it, and is loaded itself on demand.",
      severity: "error",
      from: { path: "^cli/", pathNot: ["^cli/cluster/", testFile] },
      to: {
        path: "^(cli/cluster|operator/kube)/|(^|/)node_modules/(@kubernetes/client-node|ws)/",
        dependencyTypesNot: ["dynamic-import", "type-only"],
      },
    },
    {
      name: "no-cycles",
      comment:
        "A file can be read after those that it imports. Cycles of types alone are let be: nothing runs in them.",
      severity: "error",
      from: {},
      to: { circular: true, viaOnly: { dependencyTypesNot: ["type-only"] } },
    },
    {
      name: "declared-packages-only",
      comment: "What ships imports only what its own package.json lists under dependencies.",
      severity: "error",
      from: { pathNot: [testFile, "^e2e/", "^[^/]+$"] },
      to: { dependencyTypes: ["npm-dev", "npm-no-pkg"] },
    },
    {
      name: "all-imports-resolve",
      comment: "What is not found is not checked by any other rule.",
      severity: "error",
      from: {},
      to: { couldNotResolve: true },
    },
  ],
  options: {
    parser: "swc",
    combinedDependencies: true,
    exclude: { path: "(^|/)(\\.cache|dist|coverage)/" },
    doNotFollow: { path: "node_modules" },
    enhancedResolveOptions: { exportsFields: ["exports"], conditionNames: ["import", "node", "default"] },
  },
};
