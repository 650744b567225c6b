import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, expect, test as testAnywhere } from "vitest";
import { run } from "./command.ts";
import { writeImages, writeLayer } from "./image.ts";

/** Clusters, and the tools that make their parts, are on Linux only. */
const test = testAnywhere.runIf(process.platform === "linux");

const directory = mkdtempSync(path.join(tmpdir(), "lever-image-"));
afterAll(() => {
  rmSync(directory, { recursive: true });
});
const at = (...names: string[]) => path.join(directory, ...names);

async function layer(name: string): Promise<string> {
  mkdirSync(at(name, "app"), { recursive: true });
  writeFileSync(at(name, "app", name), name);
  await writeLayer(at(name), at(`${name}.tar`));
  return at(`${name}.tar`);
}

const sha256 = (bytes: Buffer | string) => `sha256:${createHash("sha256").update(bytes).digest("hex")}`;

test("the same files are the same layer", async () => {
  const first = readFileSync(await layer("same"));
  utimesSync(at("same/app/same"), 1, 1);
  expect(readFileSync(await layer("same")).equals(first)).toBe(true);
});

test("images are found by name and digest, and share layers", async () => {
  const [base, chat, hello] = [await layer("base"), await layer("chat"), await layer("hello")];
  const config = { Cmd: ["node"] };
  const ids = await writeImages(at("images.tar"), [
    { name: "lever.local/chat:1", layers: [base, chat], config },
    { name: "lever.local/hello:1", layers: [base, hello], config },
  ]);
  mkdirSync(at("layout"));
  await run("tar", ["-xf", at("images.tar"), "-C", at("layout")]);
  const blobs = readdirSync(at("layout/blobs/sha256"));
  const blob = (digest: string) => readFileSync(at("layout/blobs/sha256", digest.replace("sha256:", "")));
  for (const name of blobs) expect(sha256(blob(name))).toBe(`sha256:${name}`);
  // Three layers, and of each image a config and a manifest.
  expect(blobs).toHaveLength(3 + 2 + 2);

  const index = JSON.parse(readFileSync(at("layout/index.json"), "utf8"));
  expect(JSON.parse(readFileSync(at("layout/oci-layout"), "utf8"))).toEqual({ imageLayoutVersion: "1.0.0" });
  const [chatManifest, helloManifest] = index.manifests.map((each: { digest: string; size: number }) => {
    expect(blob(each.digest)).toHaveLength(each.size);
    return JSON.parse(blob(each.digest).toString());
  });
  expect(index.manifests[1].annotations["io.containerd.image.name"]).toBe("lever.local/hello:1");
  expect(helloManifest.config.digest).toBe(ids["lever.local/hello:1"]);
  expect(helloManifest.layers[0]).toEqual(chatManifest.layers[0]);
  expect(helloManifest.layers[1].digest).toBe(sha256(readFileSync(hello)));
  const helloConfig = JSON.parse(blob(helloManifest.config.digest).toString());
  expect(helloConfig.rootfs.diff_ids).toEqual([base, hello].map((file) => sha256(readFileSync(file))));
  expect(helloConfig.config).toEqual(config);
  expect(readdirSync(directory).filter((name) => name.startsWith("images.tar"))).toEqual(["images.tar"]);
});
