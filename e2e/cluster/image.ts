/**
 * Container images without a builder: one OCI archive that holds several images, whose layers are uncompressed tars of
 * directories. Layers that images share are there once.
 *
 * https://github.com/opencontainers/image-spec/blob/main/image-layout.md
 */

import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { link, mkdir, rename, rm, stat, writeFile } from "node:fs/promises";
import path from "node:path";
import { pipeline } from "node:stream/promises";
import { run } from "./command.ts";

export interface Image {
  /** With a tag other than `latest`, which kubelets would pull. */
  readonly name: string;
  /** Layers made by `writeLayer`, lowest first. */
  readonly layers: readonly string[];
  readonly config: {
    readonly Entrypoint?: readonly string[];
    readonly Cmd?: readonly string[];
    readonly Env?: readonly string[];
    readonly User?: string;
    readonly WorkingDir?: string;
    readonly Labels?: Readonly<Record<string, string>>;
  };
}

/** The files of `directory`, owned by root, as the layer `file`: the same files give the same bytes. */
export async function writeLayer(directory: string, file: string): Promise<void> {
  const sameBytes = ["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "--numeric-owner", "--format=gnu"];
  await run("tar", [...sameBytes, "-cf", file, "-C", directory, "."]);
}

/** Writes the archive `file`; gives the id of each image by its name, as `imageID` in a pod's status ends. */
export async function writeImages(file: string, images: readonly Image[]): Promise<Record<string, string>> {
  const layout = `${file}.layout`;
  const blobs = path.join(layout, "blobs/sha256");
  await rm(layout, { recursive: true, force: true });
  await mkdir(blobs, { recursive: true });
  try {
    const layers = new Map<string, Descriptor>();
    const ids: Record<string, string> = {};
    const manifests: Descriptor[] = [];
    for (const { name, layers: files, config } of images) {
      for (const each of files) {
        if (!layers.has(each)) layers.set(each, await layerBlob(blobs, each));
      }
      const descriptors = files.map((each) => layers.get(each) as Descriptor);
      const platform = { architecture: process.arch === "arm64" ? "arm64" : "amd64", os: "linux" };
      const rootfs = { type: "layers", diff_ids: descriptors.map((each) => each.digest) };
      const configBlob = await jsonBlob(blobs, "config.v1+json", { ...platform, config, rootfs });
      ids[name] = configBlob.digest;
      const manifest = { schemaVersion: 2, mediaType: `${mediaTypes}.manifest.v1+json`, config: configBlob };
      const descriptor = await jsonBlob(blobs, "manifest.v1+json", { ...manifest, layers: descriptors });
      manifests.push({ ...descriptor, annotations: { "io.containerd.image.name": name }, platform });
    }
    await writeFile(path.join(layout, "oci-layout"), JSON.stringify({ imageLayoutVersion: "1.0.0" }));
    await writeFile(path.join(layout, "index.json"), JSON.stringify({ schemaVersion: 2, manifests }));
    await run("tar", ["-cf", `${file}.new`, "-C", layout, "oci-layout", "index.json", "blobs"]);
    await rename(`${file}.new`, file);
    return ids;
  } finally {
    await rm(layout, { recursive: true, force: true });
  }
}

const mediaTypes = "application/vnd.oci.image";

interface Descriptor {
  readonly mediaType: string;
  readonly digest: string;
  readonly size: number;
  readonly annotations?: Readonly<Record<string, string>>;
  readonly platform?: Readonly<Record<string, string>>;
}

async function layerBlob(blobs: string, layer: string): Promise<Descriptor> {
  const hash = createHash("sha256");
  await pipeline(createReadStream(layer), hash);
  const hex = hash.digest("hex");
  const blob = path.join(blobs, hex);
  await link(layer, blob).catch(() => run("cp", [layer, blob]));
  return { mediaType: `${mediaTypes}.layer.v1.tar`, digest: `sha256:${hex}`, size: (await stat(layer)).size };
}

async function jsonBlob(blobs: string, type: string, value: unknown): Promise<Descriptor> {
  const bytes = Buffer.from(JSON.stringify(value));
  const hex = createHash("sha256").update(bytes).digest("hex");
  await writeFile(path.join(blobs, hex), bytes);
  return { mediaType: `${mediaTypes}.${type}`, digest: `sha256:${hex}`, size: bytes.length };
}
