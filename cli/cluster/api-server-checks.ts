/** Checks of the cluster itself, before and after Lever is installed: its API server, its clocks, Lever's CRDs. */

import { customKinds, customResourceDefinition } from "@leveros/operator/api/crd.ts";
import { KubeError } from "@leveros/operator/kube/kube-error.ts";
import { type KubeObject, leases, type ResourceKind } from "@leveros/operator/kube/kube-object.ts";
import type { CheckList, Verdict } from "../check-list.ts";
import { type Cluster, rightTo } from "./cluster.ts";

/** Native sidecars are on from here. */
const minorMin = 29;
/** The server's clock is told in whole seconds, and the answer takes its time. */
const clockSkewMsMax = 5000;
/** How long ago a kubelet may have renewed its Lease: it does so every 10 s. */
const kubeletSilenceMsMax = 25_000;
const nodeAheadMsMax = 3000;

export const customResourceDefinitions: ResourceKind = {
  group: "apiextensions.k8s.io",
  version: "v1",
  kind: "CustomResourceDefinition",
  plural: "customresourcedefinitions",
  isNamespaced: false,
};

export interface ServerClock {
  /** What the API server's clock says now, wall-clock ms. */
  now(): number;
}

/** False: nothing else can be looked at. */
export async function apiServerChecks(list: CheckList, cluster: Cluster): Promise<ServerClock | undefined> {
  list.heading("kubernetes-api");
  let version = "";
  let skewMs: number | undefined;
  const answers = await list.look(`the API server of context ${cluster.context} answers`, async () => {
    const askedAt = Date.now();
    const answer = await cluster.version();
    version = answer.gitVersion;
    // Half a second for the part that the server leaves out.
    if (answer.wallMs !== undefined) skewMs = answer.wallMs + 500 - (askedAt + Date.now()) / 2;
    return undefined;
  });
  if (!answers || version === "") return undefined;
  const [, major, minor] = /^v?(\d+)\.(\d+)/.exec(version) ?? [];
  const isNew = Number(major) > 1 || (Number(major) === 1 && Number(minor) >= minorMin);
  list.say(
    `Kubernetes ${version} has native sidecars (1.${minorMin} or later)`,
    isNew ? undefined : { failed: `Upgrade the cluster to Kubernetes 1.${minorMin} or later.` },
  );
  const off = skewMs ?? 0;
  list.say(
    "the clocks of the API server and of this machine agree",
    Math.abs(off) <= clockSkewMsMax
      ? undefined
      : {
          warning:
            `The API server's is ${(Math.abs(off) / 1000).toFixed(0)} s ${off > 0 ? "ahead" : "behind"}. Certificates and tokens ` +
            "go by clocks: set one by NTP.",
        },
  );
  return { now: () => Date.now() + off };
}

interface NodeLease extends KubeObject {
  readonly spec?: { readonly renewTime?: string };
}

/** Each kubelet writes the time of its own clock into its Lease. */
export async function nodeClockChecks(list: CheckList, cluster: Cluster, clock: ServerClock): Promise<void> {
  list.heading("clocks");
  const namespace = "kube-node-lease";
  await list.look("the nodes' clocks agree with the API server's", async () => {
    const { items } = await cluster.explained(
      cluster.api.list<NodeLease>(leases, { namespace }),
      rightTo("list", leases, namespace),
    );
    const nowMs = clock.now();
    const off = items.flatMap(({ metadata, spec }) => {
      const aheadMs = Date.parse(spec?.renewTime ?? "") - nowMs;
      if (aheadMs > nodeAheadMsMax) return [`${metadata.name} is ${(aheadMs / 1000).toFixed(0)} s ahead`];
      if (aheadMs >= -kubeletSilenceMsMax) return [];
      return [`${metadata.name} is behind, or its kubelet silent, by ${(-aheadMs / 1000).toFixed(0)} s`];
    });
    return off.length === 0 ? undefined : { warning: `${shortList(off)}. Set them by NTP; look at kubectl get nodes.` };
  });
}

interface Definition extends KubeObject {
  readonly spec?: {
    readonly versions?: readonly {
      readonly name: string;
      readonly served?: boolean;
      readonly schema?: { readonly openAPIV3Schema?: Schema };
    }[];
  };
  readonly status?: { readonly conditions?: readonly { readonly type: string; readonly status: string }[] };
}

interface Schema {
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly items?: Schema;
}

/** `isInstalled`: they have to be there. */
export async function definitionChecks(list: CheckList, cluster: Cluster, isInstalled: boolean): Promise<boolean> {
  list.heading("lever-crds");
  let areThere = true;
  for (const kind of customKinds) {
    const own = customResourceDefinition(kind) as Definition;
    const { name } = own.metadata;
    const what = isInstalled ? `${name} is installed, as this command knows it` : `${name} is free, or this version's`;
    const isWell = await list.look(what, async () => {
      let found: Definition;
      try {
        found = await cluster.explained(
          cluster.api.get<Definition>(customResourceDefinitions, { name }),
          rightTo("get", customResourceDefinitions),
        );
      } catch (error) {
        if (!KubeError.is(error)) throw error;
        if (!isInstalled) return undefined;
        return {
          failed: "It is missing. The chart installs it, unless crds.enabled=false: then kubectl apply -f crds/.",
        };
      }
      return differenceOf(own, found);
    });
    areThere &&= isWell;
  }
  return areThere;
}

function differenceOf(own: Definition, found: Definition): Verdict {
  const [wanted] = own.spec?.versions ?? [];
  const version = found.spec?.versions?.find(({ name }) => name === wanted?.name);
  if (wanted === undefined || version?.served !== true) {
    const served = (found.spec?.versions ?? []).map(({ name }) => name).join(", ");
    return { failed: `It serves ${served || "nothing"}, and not ${wanted?.name}: it is of another version of Lever.` };
  }
  if (found.status?.conditions?.find(({ type }) => type === "Established")?.status === "False") {
    return { failed: `It is not established: kubectl describe crd ${found.metadata.name} says why.` };
  }
  const fields = new Set(fieldsOf(version.schema?.openAPIV3Schema ?? {}));
  const missing = fieldsOf(wanted.schema?.openAPIV3Schema ?? {}).filter((field) => !fields.has(field));
  if (missing.length === 0) return undefined;
  return {
    warning: `It lacks ${shortList(missing)}: it is older than this command. helm upgrade brings it up to date.`,
  };
}

/** All that are named, as paths. */
function fieldsOf({ properties = {}, items }: Schema, prefix = ""): string[] {
  const below = Object.entries(properties).flatMap(([name, schema]) => {
    const path = prefix === "" ? name : `${prefix}.${name}`;
    return [path, ...fieldsOf(schema, path)];
  });
  return items === undefined ? below : [...below, ...fieldsOf(items, `${prefix}[]`)];
}

const shownMax = 5;

export function shortList(texts: readonly string[]): string {
  const shown = texts.slice(0, shownMax).join(", ");
  return texts.length > shownMax ? `${shown} and ${texts.length - shownMax} more` : shown;
}
