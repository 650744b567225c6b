/** Everything that a cluster is made of, built or fetched where the cache does not have it. */

import { mkdir } from "node:fs/promises";
import path from "node:path";
import { cacheDirectory } from "./cache.ts";
import type { ClusterParts } from "./cluster.ts";
import { unpackedPackages } from "./debian.ts";
import { coreDns, kubernetes } from "./go-program.ts";
import { writeImages } from "./image.ts";
import { nodeRuntime } from "./node-runtime.ts";

/** Only unpacked: installed, they would start services, or drive out what else runs containers on the machine. */
const containerPackages = ["containerd", "containernetworking-plugins", "runc"];

export interface BuiltParts extends ClusterParts {
  /** Ids of the images that the nodes have, by name. */
  readonly imageIds: Readonly<Record<string, string>>;
}

export async function clusterParts(): Promise<BuiltParts> {
  const packages = await unpackedPackages(containerPackages);
  const programs = [await kubernetes(), await coreDns()];
  const runtime = await nodeRuntime();
  const archive = path.join(cacheDirectory, "images.tar");
  await mkdir(cacheDirectory, { recursive: true });
  const imageIds = await writeImages(archive, runtime.images);
  return {
    programs: [...programs, path.join(packages, "usr/bin"), path.join(packages, "usr/sbin")],
    cniDirectory: path.join(packages, "usr/lib/cni"),
    images: [archive],
    imageIds,
  };
}
