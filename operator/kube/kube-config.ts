/** Which API server, and as whom: as kubectl finds it, or as a pod does. */

import { KubeConfig } from "@kubernetes/client-node";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";

export interface KubeConfigOptions {
  /** Without it: `$KUBECONFIG`, `~/.kube/config`, or the pod's own service account, whichever is there first. */
  readonly file?: string | undefined;
  /** Without it the current one. */
  readonly context?: string | undefined;
}

/** Throws INVALID_OPTION for a file that cannot be read and for a context that is not in it. */
export function loadKubeConfig({ file, context }: KubeConfigOptions = {}): KubeConfig {
  const config = new KubeConfig();
  try {
    if (file === undefined) config.loadFromDefault();
    else config.loadFromFile(file);
  } catch (cause) {
    const text = cause instanceof Error ? cause.message : String(cause);
    throw new LeverError("INVALID_OPTION", `the kubeconfig ${file ?? "that kubectl would use"}: ${text}`, { cause });
  }
  if (context !== undefined) {
    const names = config.getContexts().map(({ name }) => name);
    if (!names.includes(context)) {
      throw new LeverError(
        "INVALID_OPTION",
        `there is no context ${JSON.stringify(context)} in the kubeconfig; there are: ${names.join(", ") || "none"}`,
      );
    }
    config.setCurrentContext(context);
  }
  return config;
}

/** The namespace of the current context, or of the pod; undefined if neither says. */
export function namespaceOf(config: KubeConfig): string | undefined {
  return config.getContextObject(config.getCurrentContext())?.namespace;
}
