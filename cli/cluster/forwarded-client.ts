/**
 * A client whose connection is a port-forward into a pod. One that is lost is made again, to whatever pod is the best
 * then; what ran over it ends with an error, as over any connection.
 */

import { forwardPort } from "@leveros/operator/kube/reconcile/wanted-deployment.ts";
import type { Transport } from "@leveros/protocol/transport/transport.ts";
import { Client, LeverError } from "leveros";
import { type OwnConnection, ownConnection } from "../../clients/node/client.ts";
import { Connection } from "../../clients/node/connection.ts";
import { version } from "../version.ts";
import type { Cluster } from "./cluster.ts";

export interface ForwardedPod {
  readonly namespace: string;
  readonly name: string;
}

export interface ForwardedClientOptions {
  readonly cluster: Cluster;
  /** For messages: `an agent in namespace shop`. */
  readonly name: string;
  /** Of calls that name none. */
  readonly environment: string;
  /** The best first. Asked at each dial. */
  pods(): Promise<readonly ForwardedPod[]>;
}

const dialsMax = 3;

/** The first connection is made at once, so that what is wrong with the cluster is said as it is. */
export async function forwardedClient(options: ForwardedClientOptions): Promise<Client> {
  const { name, environment } = options;
  let first: Transport | undefined = await dial(options);
  const connection = new Connection({
    identity: { role: "client", environment, library: `lever/${version}` },
    name,
    failsFirst: true,
    dial: async (signal) => {
      const transport = first ?? (await dial(options, signal));
      first = undefined;
      return transport;
    },
  });
  const own: OwnConnection = { environment, [ownConnection]: connection };
  return new Client(own);
}

/** A pod may have ended since it was listed: then the next one. */
async function dial({ cluster, pods }: ForwardedClientOptions, signal?: AbortSignal): Promise<Transport> {
  const found = await pods();
  let problem: unknown;
  for (const pod of found.slice(0, dialsMax)) {
    try {
      return await cluster.forward(pod, forwardPort, signal);
    } catch (error) {
      problem = error;
      // It would be the same at every pod.
      if (LeverError.is(error) && error.kind === "arguments") throw error;
    }
  }
  throw problem;
}
