/**
 * A cluster as its user has it: the kubeconfig's context, a namespace, requests to the API server with the user's own
 * rights, and connections into pods. What goes wrong is said as a LeverError with what to do about it.
 */

import { HttpsTransport } from "@leveros/operator/kube/https-transport.ts";
import { KubeClient } from "@leveros/operator/kube/kube-client.ts";
import { loadKubeConfig, namespaceOf } from "@leveros/operator/kube/kube-config.ts";
import { KubeError } from "@leveros/operator/kube/kube-error.ts";
import { type ObjectName, pods, type ResourceKind } from "@leveros/operator/kube/kube-object.ts";
import { runtimeClock } from "@leveros/protocol/clock/runtime-clock.ts";
import { isDnsLabel } from "@leveros/protocol/target/lever-url.ts";
import type { Transport } from "@leveros/protocol/transport/transport.ts";
import { LeverError } from "leveros";
import { type ClusterFlags, operatorNamespaceDefault } from "../cluster-flags.ts";
import { version } from "../version.ts";
import { portForward } from "./port-forward.ts";

/** What was tried, as a rule of RBAC names it. */
export interface Right {
  readonly verbs: readonly string[];
  /** Empty: the core group. */
  readonly group: string;
  /** With its subresource: `pods/portforward`. */
  readonly resource: string;
  /** The one object's; undefined: any. */
  readonly name?: string;
  /** Undefined: of the whole cluster. */
  readonly namespace?: string | undefined;
}

const versionTimeoutMs = 10_000;

export function rightTo(
  verb: string,
  { group, plural }: ResourceKind,
  namespace?: string,
  subresource?: string,
): Right {
  const resource = subresource === undefined ? plural : `${plural}/${subresource}`;
  return { verbs: [verb], group, resource, namespace };
}

type Config = ReturnType<typeof loadKubeConfig>;

export class Cluster implements Disposable {
  readonly context: string;
  /** Where the API server is. */
  readonly server: string;
  /** The one that was asked for, or the context's. */
  readonly namespace: string;
  readonly operatorNamespace: string;
  /** What it rejects with goes through `explained`. */
  readonly api: KubeClient;
  readonly #config: Config;
  readonly #transport: HttpsTransport;

  /** Throws INVALID_OPTION for a kubeconfig, a context or a name that is none. */
  constructor(flags: ClusterFlags) {
    const context = flags.context ?? (process.env["LEVER_CONTEXT"] || undefined);
    this.#config = loadKubeConfig({ file: flags.kubeconfig, context });
    this.context = this.#config.getCurrentContext();
    this.server = this.#config.getCurrentCluster()?.server ?? "";
    this.namespace = label("namespace", flags.namespace ?? namespaceOf(this.#config) ?? "default");
    this.operatorNamespace = label("operator-namespace", flags.operatorNamespace ?? operatorNamespaceDefault);
    this.#transport = new HttpsTransport(this.#config);
    this.api = new KubeClient({
      transport: this.#transport,
      clock: runtimeClock(globalThis),
      userAgent: `lever/${version}`,
      fieldManager: "lever",
    });
  }

  /**
   * A connection to a port of a pod's loopback address. Whether anybody listens there is known when it ends. A pod that
   * is not there is AGENT_UNREACHABLE.
   */
  forward(pod: ObjectName & { readonly namespace: string }, port: number, signal?: AbortSignal): Promise<Transport> {
    const opened = portForward(this.#config, pod, port, signal).catch((error: unknown) => {
      if (!KubeError.is(error) || !error.isNotFound) throw error;
      throw new LeverError("AGENT_UNREACHABLE", `pod ${pod.namespace}/${pod.name} is not there any more`, {
        effect: "none",
        cause: error,
      });
    });
    return this.explained(opened, {
      // A WebSocket begins as a GET, which servers before 1.35 go by; those since then by both.
      verbs: ["get", "create"],
      group: pods.group,
      resource: "pods/portforward",
      namespace: pod.namespace,
    });
  }

  /** What it is, and what its clock says: wall-clock ms, of whole seconds. */
  async version(): Promise<{ readonly gitVersion: string; readonly wallMs: number | undefined }> {
    const what = "GET /version";
    const read = async () => {
      const request = { method: "GET" as const, path: "/version", headers: { accept: "application/json" } };
      const response = await this.#transport
        .send(request, AbortSignal.timeout(versionTimeoutMs))
        .catch((error: unknown) => {
          throw KubeError.failure(
            "ConnectionFailed",
            what,
            error instanceof Error ? error.message : String(error),
            error,
          );
        });
      const chunks: Uint8Array[] = [];
      for await (const chunk of response.chunks) chunks.push(chunk);
      const body = JSON.parse(Buffer.concat(chunks).toString("utf8")) as { readonly gitVersion?: unknown };
      if (response.status !== 200) throw KubeError.fromStatus(what, response.status, body);
      const wallMs = Date.parse(response.date ?? "");
      return { gitVersion: String(body.gitVersion), wallMs: Number.isNaN(wallMs) ? undefined : wallMs };
    };
    return this.explained(read(), { verbs: ["get"], group: "", resource: "/version" });
  }

  /** `asked`, its KubeError as a LeverError. A 404 stays as it is: what that means is known to who asked. */
  async explained<Answer>(asked: Promise<Answer>, right: Right): Promise<Answer> {
    try {
      return await asked;
    } catch (error) {
      throw KubeError.is(error) && !error.isNotFound ? this.#problem(error, right) : error;
    }
  }

  [Symbol.dispose](): void {
    this.api.close();
  }

  #problem(error: KubeError, right: Right): LeverError {
    const where = `the API server of context ${this.context} (${this.server})`;
    const problem = (
      message: string,
      remedy: string,
      reason: "AGENT_UNREACHABLE" | "PERMISSION_DENIED" | "UNAUTHENTICATED",
    ) => new LeverError(reason, message, { effect: "none", cause: error, details: { remedy } });
    if (error.status === 403) {
      const { group, resource, namespace } = right;
      return problem(
        `the API server refuses it: ${error.said?.message ?? error.message}`,
        `Have somebody grant you ${namespace === undefined ? "by a ClusterRole" : `in namespace ${namespace}`}: ` +
          `apiGroups: ["${group}"], resources: ["${resource}"], verbs: ${JSON.stringify(right.verbs).replaceAll(",", ", ")}.`,
        "PERMISSION_DENIED",
      );
    }
    if (error.status === 401) {
      return problem(
        `${where} does not accept the credentials of the context`,
        "Log in to the cluster anew, or choose another --context; `kubectl auth whoami` has to work.",
        "UNAUTHENTICATED",
      );
    }
    if (error.status === 0) {
      return problem(
        `${where} cannot be reached: ${error.message}`,
        "Check the --context, and the way there: `kubectl version` has to answer.",
        "AGENT_UNREACHABLE",
      );
    }
    return problem(
      `${where} answers: ${error.message}`,
      "Repeat it; the API server's own log says more.",
      "AGENT_UNREACHABLE",
    );
  }
}

function label(flag: string, value: string): string {
  if (isDnsLabel(value)) return value;
  throw new LeverError("INVALID_OPTION", `--${flag} is ${JSON.stringify(value.slice(0, 100))}, expected a namespace`, {
    effect: "none",
  });
}
