import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { flags, operatorSettings, usage } from "./settings.ts";

const least = ["--agent-image", "agent:1"];

test("without more than has to be set", () => {
  expect(operatorSettings(least, {})).toEqual({
    kubeconfig: undefined,
    context: undefined,
    namespace: undefined,
    name: undefined,
    advertisedHost: undefined,
    host: "0.0.0.0",
    port: 3837,
    adminPort: 3838,
    forwardPort: 3839,
    leaseName: "lever-operator",
    replicaSelector: undefined,
    identitySecret: "lever-identity",
    gatewayServiceAccount: "lever-gateway",
    agent: {
      image: "agent:1",
      operator: "",
      tokenAudience: "lever-operator",
      resources: { requests: { cpu: "20m", memory: "64Mi" }, limits: { memory: "128Mi" } },
      runAsUser: 65_532,
    },
  });
});

test("by variables as by flags, which go first; an empty one is not set", () => {
  const variables = {
    LEVER_AGENT_IMAGE: "agent:2",
    LEVER_PORT: "1",
    LEVER_NAMESPACE: "",
  };
  expect(operatorSettings(["--port", "2"], variables)).toMatchObject({
    port: 2,
    namespace: undefined,
    agent: { image: "agent:2" },
  });
});

test("of a pod with an IPv6 address listens on IPv6", () => {
  expect(operatorSettings([...least, "--advertised-host", "fd00::7"], {})).toMatchObject({ host: "::" });
});

test("agents' resources may be written as Kubernetes takes them", () => {
  const given = { requests: { cpu: 0.5, memory: "0.5Gi" }, limits: { cpu: 2, memory: 2 ** 30 } };
  expect(operatorSettings([...least, `--agent-resources=${JSON.stringify(given)}`], {})).toMatchObject({
    agent: { resources: { requests: { cpu: "0.5", memory: "512Mi" }, limits: { cpu: "2", memory: 2 ** 30 } } },
  });
});

describe("what cannot be is said, with the flag and its variable", () => {
  test.each<[string[], RegExp]>([
    [[], /^--agent-image \(LEVER_AGENT_IMAGE\) is not set/],
    [[...least, "--identity-secret", "A"], /^--identity-secret .* is "A", expected the name of a Secret/],
    [
      [...least, "--gateway-service-account", "/"],
      /^--gateway-service-account .* expected the name of a service account/,
    ],
    [[...least, "--port", "x"], /^--port \(LEVER_PORT\) is "x", expected a port from 0 to 65535/],
    [[...least, "--admin-port", "65536"], /^--admin-port .* is "65536"/],
    [[...least, "--namespace", "A B"], /^--namespace .* is "A B", expected a namespace/],
    [[...least, "--advertised-host", "[::1]"], /^--advertised-host .* expected an address, without brackets/],
    [[...least, "--agent-image-pull-policy", "Sometimes"], /expected Always, IfNotPresent or Never/],
    [[...least, "--agent-operator", "operator"], /^--agent-operator .* is "operator", expected host:port/],
    [[...least, "--agent-run-as-user", "1e3"], /expected the number of a user that is not root, or none/],
    [[...least, "--agent-run-as-user", "0"], /expected the number of a user that is not root/],
    [[...least, "--agent-resources", "{"], /^--agent-resources .* expected JSON such as/],
    [[...least, "--agent-resources", '{"requests":{"cpu":"lots"}}'], /^--agent-resources .* expected JSON such as/],
    [[...least, "--agent-resources", "null"], /^--agent-resources .* expected JSON such as/],
    [
      [...least, "--agent-resources", '{"limits":{"memory":"48Mi"}}'],
      /^--agent-resources .* expected its limits\.memory to be a quantity of bytes from 64Mi to 16Gi/,
    ],
    [
      [...least, "--agent-resources", '{"requests":{"cpu":"1"},"limits":{"cpu":"500m"}}'],
      /^--agent-resources .* expected its limits\.cpu to be at least requests\.cpu/,
    ],
    [[...least, "--bogus"], /--bogus/],
    [["extra"], /extra/],
  ])("%j", (args, message) => {
    expect(() => operatorSettings(args, {})).toThrow(
      expect.objectContaining({ reason: "INVALID_OPTION", rawMessage: expect.stringMatching(message) }),
    );
  });
});

test("help has every flag, and so has docs/operator.md, with its variable and default", () => {
  expect(operatorSettings(["--help"], {})).toBeUndefined();
  const page = readFileSync(new URL("../docs/operator.md", import.meta.url), "utf8");
  for (const [name, flag] of Object.entries(flags)) {
    expect(usage()).toContain(`--${name} ${flag.value}`);
    const fallback = "fallback" in flag ? `\`${flag.fallback}\`` : "";
    expect(page).toContain(`| \`--${name}\` | \`${flag.variable}\` | ${fallback} | ${flag.help} |`);
  }
  const rows = [...page.matchAll(/^\| `--([a-z-]+)` \|/gm)].map(([, name]) => name);
  expect(rows).toEqual(Object.keys(flags));
});
