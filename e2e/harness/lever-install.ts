/**
 * Lever on the cluster of the tests, by its chart. A test file that needs it begins with
 *
 *     beforeAll(() => installLever());
 *
 * The first one installs it; afterwards that takes a second, and puts back what the file before has changed by other
 * values. It stays until the cluster goes.
 */

import path from "node:path";
import { type CommandResult, result, run } from "../cluster/command.ts";
import { kubectl } from "./kubectl.ts";
import { hasBuiltImages, imageRegistry, leverVersion } from "./lever-images.ts";
import { testNamespaceLabel } from "./test-namespace.ts";

export const leverNamespace = "lever-system";
export const chartDirectory = path.resolve(import.meta.dirname, "../../charts/lever");

const waitSeconds = 120;

/** What makes the chart take the images of the run. */
export const imageValues: readonly string[] = ["operator", "agent", "gateway"].flatMap((name) => [
  `${name}.image.registry=${imageRegistry}`,
  `${name}.image.repository=${name}`,
  `${name}.image.tag=${leverVersion}`,
  ...(hasBuiltImages ? [`${name}.image.pullPolicy=Never`] : []),
]);

/** What helm prints; throws if it fails. */
export const helm = (args: readonly string[]): Promise<string> => run("helm", args);

/** How helm ends, for what is to fail. */
export const helmResult = (args: readonly string[]): Promise<CommandResult> => result("helm", args);

/**
 * Installs Lever, or makes it what it is with these values: `operator.replicas=3`. Resolves when all of it is ready. Its
 * namespace takes only pods that are as restricted as the strictest Pod Security Standard wants.
 */
export async function installLever(values: readonly string[] = []): Promise<void> {
  await makeLeverNamespace();
  await helm(["upgrade", "--install", "lever", chartDirectory, ...installFlags(values)]);
}

/**
 * For `helm install` and `helm upgrade`: `values` over those of the run's images, and nothing of an earlier release. What
 * begins as a list or an object is JSON.
 */
export function installFlags(values: readonly string[] = []): string[] {
  const set = [...imageValues, ...values].flatMap((value) => [
    /^[^=]*=[[{]/.test(value) ? "--set-json" : "--set",
    value,
  ]);
  return ["--namespace", leverNamespace, "--wait", `--timeout=${waitSeconds}s`, ...set];
}

export async function makeLeverNamespace(): Promise<void> {
  const namespace = {
    apiVersion: "v1",
    kind: "Namespace",
    metadata: {
      name: leverNamespace,
      labels: {
        ...Object.fromEntries([testNamespaceLabel.split("=") as [string, string]]),
        "pod-security.kubernetes.io/enforce": "restricted",
        "pod-security.kubernetes.io/enforce-version": "latest",
      },
    },
  };
  await kubectl(["apply", "--filename=-"], { input: JSON.stringify(namespace) });
}
