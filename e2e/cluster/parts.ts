/** Everything that a cluster is made of, built or fetched where the cache does not have it. */

import path from "node:path";
import type { ClusterParts } from "./cluster.ts";
import { unpackedPackages } from "./debian.ts";
import { coreDns, helm, kubernetes, metricsLint } from "./go-program.ts";
import { leverImages } from "./lever-images.ts";
import { nodeRuntime } from "./node-runtime.ts";

/** Only unpacked: installed, they would start services, or drive out what else runs containers on the machine. */
const containerPackages = ["containerd", "containernetworking-plugins", "runc"];

export async function clusterParts(): Promise<ClusterParts> {
  const packages = await unpackedPackages(containerPackages);
  const [kubernetesPrograms, coreDnsPrograms] = [await kubernetes(), await coreDns()];
  const runtime = await nodeRuntime();
  return {
    programs: [kubernetesPrograms, coreDnsPrograms, path.join(packages, "usr/bin"), path.join(packages, "usr/sbin")],
    tools: [kubernetesPrograms, await helm(), await metricsLint()],
    cniDirectory: path.join(packages, "usr/lib/cni"),
    images: [...runtime.images, ...(await leverImages(runtime.layers, runtime.env))],
  };
}
