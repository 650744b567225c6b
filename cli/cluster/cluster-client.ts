/** Calls into a cluster: as the service of a pod that the caller may port-forward to. */

import { parseUrl } from "@leveros/protocol/target/lever-url.ts";
import type { Client } from "leveros";
import type { CallFlags } from "../call-options.ts";
import { agentPods } from "./agent-pods.ts";
import { Cluster } from "./cluster.ts";
import { forwardedClient } from "./forwarded-client.ts";

/** Through a pod of the service itself where there is one, or another one of its namespace. */
export async function clusterClient(url: string, flags: CallFlags): Promise<Client> {
  const cluster = new Cluster(flags);
  const target = parseUrl(url);
  const environment = flags.environment ?? cluster.namespace;
  const namespace = target.environment ?? environment;
  return forwardedClient({
    cluster,
    name: `an agent in namespace ${namespace}`,
    environment,
    pods: async () => {
      const found = await agentPods(cluster, namespace, target.service);
      return found.map(({ metadata }) => ({ namespace: metadata.namespace, name: metadata.name }));
    },
  });
}
