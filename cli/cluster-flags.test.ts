import { expect, test } from "vitest";
import { type ClusterFlags, isAboutCluster } from "./cluster-flags.ts";

test.each<[ClusterFlags, Record<string, string>, boolean]>([
  [{}, {}, false],
  [{ gateway: "a:1" }, {}, false],
  [{ namespace: "shop" }, {}, true],
  [{ context: "prod" }, {}, true],
  [{ kubeconfig: "./config" }, {}, true],
  [{ operatorNamespace: "lever" }, {}, true],
  [{}, { LEVER_CONTEXT: "prod" }, true],
  [{}, { LEVER_CONTEXT: "" }, false],
  [{}, { KUBECONFIG: "./config" }, false],
  [{ gateway: "a:1" }, { LEVER_CONTEXT: "prod" }, false],
])("%j with %j is about a cluster: %s", (flags, env, expected) => {
  expect(isAboutCluster(flags, env)).toBe(expected);
});

test("a gateway and a cluster are not both", () => {
  expect(() => isAboutCluster({ gateway: "a:1", operatorNamespace: "lever" }, {})).toThrow(
    expect.objectContaining({
      reason: "INVALID_OPTION",
      rawMessage: "--gateway and --operator-namespace were both given; a command goes to a gateway or to a cluster",
    }),
  );
});
