/**
 * The images that every cluster has: the one that keeps a pod's namespaces, and Node with a shell, the base to put an
 * app on. Node is that of the project's lockfile, its libraries and the shell are Debian's.
 */

import { cp, mkdir, readFile, symlink, writeFile } from "node:fs/promises";
import path from "node:path";
import { cached } from "./cache.ts";
import { result, run } from "./command.ts";
import { unpackedPackages } from "./debian.ts";
import { type Image, writeLayer } from "./image.ts";

export const pauseImage = "lever.local/pause:1";
export const nodeImage = "lever.local/node:24";

/** Statically linked, both. */
const staticPackages = ["busybox-static", "catatonit"];

const shellCommands = "sh ls cat cp env grep head kill mkdir nc nslookup ps rm sed sleep tail touch wget".split(" ");

/** Images of apps are made of `layers`, with their own above, and of variables, `env` among them. */
export async function nodeRuntime(): Promise<{
  readonly images: readonly Image[];
  readonly layers: readonly string[];
  readonly env: readonly string[];
}> {
  const nodePackage = path.resolve(import.meta.dirname, `../../node_modules/node-${process.platform}-${process.arch}`);
  const { version } = JSON.parse(await readFile(path.join(nodePackage, "package.json"), "utf8")) as { version: string };
  const packages = await unpackedPackages(staticPackages);
  const source = await readFile(import.meta.filename, "utf8");
  const directory = await cached("node-runtime", [version, packages, source], async (directory) => {
    const pause = path.join(directory, "pause");
    await mkdir(pause);
    await cp(path.join(packages, "usr/bin/catatonit"), path.join(pause, "catatonit"));
    await writeLayer(pause, path.join(directory, "pause.tar"));

    const root = path.join(directory, "root");
    for (const folder of ["bin", "etc", "app", "usr/local/bin", "tmp"]) {
      await mkdir(path.join(root, folder), { recursive: true });
    }
    const node = path.join(nodePackage, "bin/node");
    await cp(node, path.join(root, "usr/local/bin/node"));
    for (const library of await librariesOf(node)) {
      await mkdir(path.join(root, path.dirname(library)), { recursive: true });
      await cp(library, path.join(root, library), { dereference: true });
    }
    await cp(path.join(packages, "bin/busybox"), path.join(root, "bin/busybox"));
    for (const command of shellCommands) await symlink("busybox", path.join(root, "bin", command));
    await writeFile(
      path.join(root, "etc/passwd"),
      "root:x:0:0:root:/root:/bin/sh\nnonroot:x:65532:65532::/app:/bin/sh\n",
    );
    await writeFile(path.join(root, "etc/nsswitch.conf"), "hosts: files dns\n");
    await run("chmod", ["1777", path.join(root, "tmp")]);
    await writeLayer(root, path.join(directory, "node.tar"));
    await run("rm", ["-r", root, pause]);
  });
  const layers = [path.join(directory, "node.tar")];
  const env = ["PATH=/usr/local/bin:/bin"];
  const images: Image[] = [
    { name: pauseImage, layers: [path.join(directory, "pause.tar")], config: { Entrypoint: ["/catatonit", "-P"] } },
    {
      name: nodeImage,
      layers,
      config: { Env: env, Cmd: ["node"], User: "65532:65532", WorkingDir: "/app" },
    },
  ];
  return { images, layers, env };
}

/** Absolute paths of the shared libraries that `program` is linked with. */
async function librariesOf(program: string): Promise<string[]> {
  const { stdout } = await result("ldd", [program]);
  return [...stdout.matchAll(/(?:=> |^\s+)(\/\S+) \(0x/gm)].map((match) => match[1] as string);
}
