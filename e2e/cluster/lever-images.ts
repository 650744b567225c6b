/**
 * Lever's own images, those of the examples and of the programs of the tests: bundled from the tree as it is, and put
 * together as their Containerfiles say, on the Node of `node-runtime.ts`.
 *
 * `lever.test/<name>:<version>` for operator, agent, gateway, each example and each folder of e2e/fixtures; its twin
 * `<version>-next` has the same files and another id, for upgrades. Examples are also there by the names that their
 * manifests have. `agent:<version>-without-hold` is for a control (`sick-agent.ts`).
 */

import { globSync } from "node:fs";
import { cp, mkdir, readFile, rm } from "node:fs/promises";
import path from "node:path";
import { run } from "./command.ts";
import { readContainerfile } from "./containerfile.ts";
import { type Image, writeLayer } from "./image.ts";
import { bundleSickAgent, sickAgents } from "./sick-agent.ts";

const root = path.resolve(import.meta.dirname, "../..");

/** Each is the agent's image with another program. */
async function sickAgentImages(
  agent: Omit<Image, "name">,
  tag: string,
  content: string,
  baseLayers: readonly string[],
): Promise<Image[]> {
  const images: Image[] = [];
  for (const [suffix, patches] of Object.entries(sickAgents)) {
    const own = `${content}-${suffix}`;
    await cp(content, own, { recursive: true });
    await bundleSickAgent(patches, path.join(own, "app"));
    await writeLayer(own, `${own}.tar`);
    images.push({ ...agent, layers: [...baseLayers, `${own}.tar`], name: `${tag}-${suffix}` });
  }
  return images;
}

/** `baseLayers` have Node; `baseEnv` finds it. */
export async function leverImages(baseLayers: readonly string[], baseEnv: readonly string[]): Promise<Image[]> {
  const { version } = JSON.parse(await readFile(path.join(root, "package.json"), "utf8")) as { version: string };
  const folders = globSync("{examples,e2e/fixtures}/*/main.ts", { cwd: root });
  const parts = ["operator", "agent", "gateway"];
  const programs = globSync("e2e/fixtures/*/*.ts", { cwd: root });
  const own = [...parts.map((part) => `${part}/main.ts`), ...folders.filter((file) => file.startsWith("examples/"))];
  await run(process.execPath, ["esbuild.config.ts", ...own, ...programs], { cwd: root });

  const layers = path.join(root, ".cache/images");
  await rm(layers, { recursive: true, force: true });
  await mkdir(layers, { recursive: true });
  const images: Image[] = [];
  const names = new Set<string>();
  for (const folder of [...parts, ...folders.map((file) => path.dirname(file))].sort()) {
    const name = path.basename(folder);
    if (names.has(name)) throw new Error(`two images would be called ${name}: rename ${folder}`);
    names.add(name);
    const isPart = parts.includes(folder);
    const args = { EXAMPLE: name };
    const containerfile = await readContainerfile(path.join(root, isPart ? folder : "examples", "Containerfile"), args);
    const content = path.join(layers, name);
    for (const { from, to } of containerfile.copies) {
      const source = isPart || folder.startsWith("examples/") ? from : `dist/${folder}`;
      await cp(path.join(root, source), path.join(content, to), { recursive: true });
    }
    await run("chmod", ["-R", "u=rwX,go=rX", content]);
    await writeLayer(content, `${content}.tar`);
    const image = {
      layers: [...baseLayers, `${content}.tar`],
      config: { ...containerfile.config, Env: [...baseEnv, ...containerfile.config.Env] },
    };
    const tag = `lever.test/${name}:${version}`;
    images.push({ ...image, name: tag });
    if (name === "agent") images.push(...(await sickAgentImages(image, tag, content, baseLayers)));
    images.push({ ...image, name: `${tag}-next`, config: { ...image.config, Labels: { "lever.test/build": "next" } } });
    // As a kubelet calls it.
    if (folder.startsWith("examples/")) images.push({ ...image, name: `docker.io/lever/example-${name}:${version}` });
  }
  return images;
}
