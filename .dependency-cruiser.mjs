/**
 * Which part may import which. The direction is
 * protocol <- agent/core, operator/core <- hosts <- cli; e2e, bench and examples see published entries only.
 * e2e/structure/imports.test.ts shows that each rule catches what it forbids.
 *
 * TypeScript 7 has no parser that dependency-cruiser can use, hence swc. Type-only imports count: a core that names
 * a host's type depends on it.
 */

/** Files that only tests load. They may use vitest, Node and, for fixtures and suites, other packages. */
const testFile = "\\.(test|suite|fixture)\\.ts$";

/** Everything that is neither in one of `folders`, nor a package from node_modules named in `packages`. */
function only(name, comment, from, folders, packages = []) {
  const allowed = [...folders.map((folder) => `^${folder}/`), ...packages.map((name) => `^node_modules/${name}/`)];
  return { name, comment, severity: "error", from, to: { pathNot: allowed } };
}

const node = { dependencyTypesNot: ["core"] };

/** @type {import("dependency-cruiser").IConfiguration} */
export default {
  forbidden: [
    only(
      "protocol-is-pure",
      "protocol imports itself only, and nothing of Node: it runs in browsers.",
      { path: "^protocol/", pathNot: [testFile, "^protocol/value/"] },
      ["protocol"],
    ),
    only(
      "msgpackr-in-value-only",
      "protocol/value owns the encoding of values: only it imports msgpackr.",
      { path: "^protocol/value/", pathNot: testFile },
      ["protocol"],
      ["msgpackr"],
    ),
    only(
      "agent-core-is-pure",
      "agent/core sees protocol only: clock, chance and transports are given to it.",
      { path: "^agent/core/", pathNot: testFile },
      ["agent/core", "protocol"],
    ),
    only(
      "operator-core-is-pure",
      "operator/core sees protocol only; it and agent/core talk through protocol/control.",
      { path: "^operator/core/", pathNot: testFile },
      ["operator/core", "protocol"],
    ),
    {
      ...only(
        "client-sees-protocol-only",
        "The Node client's main entry is the caller's and the server's side of the protocol, without an agent.",
        { path: "^clients/node/", pathNot: [testFile, "^clients/node/(testing|embedded)/"] },
        ["clients/node/(?!testing/|embedded/)", "protocol"],
      ),
    },
    {
      name: "express-in-gateway-only",
      comment: "HTTP for users is the gateway's.",
      severity: "error",
      from: { path: "^(protocol|agent|operator|clients|cli|bench|examples|e2e)/" },
      to: { path: "^node_modules/(@types/)?express/" },
    },
    {
      name: "kubernetes-client-in-its-place",
      comment: "@kubernetes/client-node costs about 90 MiB of resident memory: only operator/kube and cli load it.",
      severity: "error",
      from: { pathNot: "^(operator/kube|cli)/" },
      to: { path: "^node_modules/@kubernetes/client-node/" },
    },
  ],
};
