/**
 * Pods that no kubelet runs, written to the API server as a kubelet would report them: for a scheduler that does not
 * exist, so that they stay as they are written. Of the operator they are pods like any.
 */

import { type ApiAnswer, type ApiServer, kubectlResult } from "../harness/kubectl.ts";

const lanes = 32;
/** Before all conditions: a pod that is not Ready since later was found so. */
const startedAt = new Date(Date.now() - 3_600_000).toISOString().replace(/\.\d+/, "");
const mergePatch = "application/merge-patch+json";

export interface FakePod {
  readonly namespace: string;
  readonly service: string;
  readonly name: string;
  readonly ip: string;
}

export class FakePods {
  readonly #api: ApiServer;

  constructor(api: ApiServer) {
    this.#api = api;
  }

  /** The account of its pods, where no controller makes it. */
  async prepare(namespace: string): Promise<void> {
    await kubectlResult(["create", "serviceaccount", "default", "--namespace", namespace]);
  }

  /** A service that runs no pods of its own. */
  async createService(namespace: string, name: string): Promise<void> {
    await this.send("POST", `/apis/leveros.dev/v1alpha1/namespaces/${namespace}/leverservices`, {
      apiVersion: "leveros.dev/v1alpha1",
      kind: "LeverService",
      metadata: { namespace, name },
      spec: {
        replicas: 0,
        template: { spec: { containers: [{ name: "app", image: "example.org/app:1" }] } },
      },
    });
  }

  /** Resolves to its uid. */
  async create({ namespace, service, name }: FakePod, labels: Readonly<Record<string, string>> = {}): Promise<string> {
    const { body } = await this.send("POST", `/api/v1/namespaces/${namespace}/pods`, {
      apiVersion: "v1",
      kind: "Pod",
      metadata: { namespace, name, labels: { "leveros.dev/service": service, ...labels } },
      spec: {
        schedulerName: "nobody",
        serviceAccountName: "default",
        automountServiceAccountToken: false,
        initContainers: [{ name: "lever-agent", image: "example.org/agent:1", restartPolicy: "Always" }],
        containers: [{ name: "app", image: "example.org/app:1" }],
      },
    });
    return (body as { readonly metadata: { readonly uid: string } }).metadata.uid;
  }

  /** A token of the pod's service account, for the operator, as the kubelet gives it to the agent. */
  async token({ namespace, name }: FakePod, uid: string): Promise<string> {
    const url = `/api/v1/namespaces/${namespace}/serviceaccounts/default/token`;
    const { body } = await this.send("POST", url, {
      apiVersion: "authentication.k8s.io/v1",
      kind: "TokenRequest",
      spec: { audiences: ["lever-operator"], boundObjectRef: { apiVersion: "v1", kind: "Pod", name, uid } },
    });
    return (body as { readonly status: { readonly token: string } }).status.token;
  }

  /** Rewrites the whole status: Ready since now, or not. */
  async setReady({ namespace, name, ip }: FakePod, isReady: boolean): Promise<void> {
    const now = new Date().toISOString().replace(/\.\d+/, "");
    // A kubelet gives a reason; without one it is the word of a controller that does not hear of the kubelet.
    const found = { status: isReady ? "True" : "False", reason: isReady ? null : "ContainersNotReady" };
    const container = (of: string) => ({
      name: of,
      image: `example.org/${of}:1`,
      imageID: "",
      ready: isReady,
      started: true,
      restartCount: 0,
      state: { running: { startedAt } },
    });
    await this.send(
      "PATCH",
      `/api/v1/namespaces/${namespace}/pods/${name}/status`,
      {
        status: {
          phase: "Running",
          podIP: ip,
          podIPs: [{ ip }],
          conditions: [
            { type: "Initialized", status: "True", lastTransitionTime: startedAt },
            { type: "Ready", ...found, lastTransitionTime: now },
            { type: "ContainersReady", ...found, lastTransitionTime: now },
          ],
          initContainerStatuses: [container("lever-agent")],
          containerStatuses: [container("app")],
        },
      },
      mergePatch,
    );
  }

  /** Rejects, saying why, unless the API server does it. */
  async send(method: string, url: string, body?: unknown, type = "application/json"): Promise<ApiAnswer> {
    const answer = await this.#api.request(method, url, body === undefined ? undefined : JSON.stringify(body), type);
    if (answer.status < 300) return answer;
    const { message } = answer.body as { readonly message?: string };
    throw new Error(`${method} ${url}: ${answer.status} ${message ?? ""}`);
  }
}

/** Each of them once, some at a time. */
export async function forEach<Item>(items: Iterable<Item>, work: (item: Item) => Promise<void>): Promise<void> {
  const waiting = items[Symbol.iterator]();
  const lane = async () => {
    for (let next = waiting.next(); next.done !== true; next = waiting.next()) await work(next.value);
  };
  await Promise.all(Array.from({ length: lanes }, lane));
}
