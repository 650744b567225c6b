import { execFileSync } from "node:child_process";
import { mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { holdsObject, readManifestFiles } from "./manifest-files.ts";

let root: string;
beforeEach(async () => {
  root = await mkdtemp(path.join(tmpdir(), "lever-manifests-"));
});
afterEach(() => rm(root, { recursive: true }));

async function put(name: string, content = "kind: LeverService"): Promise<string> {
  const file = path.join(root, name);
  await mkdir(path.dirname(file), { recursive: true });
  await writeFile(file, content);
  return file;
}

async function found(...paths: string[]): Promise<string[]> {
  const { files } = await readManifestFiles(paths);
  return files.map(({ file }) => path.relative(root, file));
}

describe("a folder", () => {
  test("gives its YAML files, down to the last, in the order of their names", async () => {
    for (const name of ["b.yml", "a/deep/down/x.yaml", "a.yaml", "readme.md", "data.json"]) await put(name);
    expect(await found(root)).toEqual(["a/deep/down/x.yaml", "a.yaml", "b.yml"]);
  });

  test("leaves out node_modules, what begins with a dot, and links to nowhere", async () => {
    for (const name of ["node_modules/x.yaml", ".github/x.yaml", ".x.yaml", "a.yaml"]) await put(name);
    await symlink(path.join(root, "nowhere"), path.join(root, "b.yaml"));
    expect(await found(root)).toEqual(["a.yaml"]);
  });

  test("follows links, once each, also in a circle", async () => {
    await put("real/a.yaml");
    await symlink(path.join(root, "real"), path.join(root, "link"));
    await symlink(root, path.join(root, "real/circle"));
    await symlink(path.join(root, "real/a.yaml"), path.join(root, "z.yaml"));
    expect(await found(root)).toEqual(["link/a.yaml"]);
  });

  test("skips the YAML of other tools, and says so; a file that is named is read", async () => {
    const compose = await put("docker-compose.yml", "services: { a: { image: b } }");
    expect(await readManifestFiles([root])).toMatchObject({ files: [], skipped: [compose] });
    expect(await readManifestFiles([compose])).toMatchObject({ files: [{ file: compose }], skipped: [] });
  });

  test("may be empty", async () => {
    expect(await found(root)).toEqual([]);
  });
});

test("what is named twice, in whatever way, is read once", async () => {
  const file = await put("a/x.yaml");
  expect(await found(file, path.join(root, "a"), path.join(root, "a/../a/x.yaml"), root)).toEqual(["a/x.yaml"]);
});

describe("refused, with the path", () => {
  test("what is not there", async () => {
    await expect(readManifestFiles([path.join(root, "none")])).rejects.toMatchObject({
      reason: "INVALID_OPTION",
      rawMessage: `-f ${path.join(root, "none")}: there is no such file or folder`,
    });
  });

  test("what has no end", async () => {
    const pipe = path.join(root, "pipe");
    execFileSync("mkfifo", [pipe]);
    for (const endless of [pipe, "/dev/zero"]) {
      await expect(readManifestFiles([endless])).rejects.toThrow(`-f ${endless}: expected a file or a folder`);
    }
  });

  test("what is too large", async () => {
    const file = await put("large.yaml", "#".repeat(2 * 1024 ** 2));
    await expect(readManifestFiles([file])).rejects.toThrow(/large\.yaml: it has 2097152 bytes, at most 1048576/);
  });
});

test.each([
  ["kind: LeverService", true],
  ["# a\n  kind : X", true],
  ['{"apiVersion": "v1", "kind": "X"}', true],
  ["packages:\n  kind-of: 6", false],
  ["mankind: 1", false],
  ["a: {{ .Values.x }}", false],
])("%j holds a Kubernetes object: %s", (text, expected) => {
  expect(holdsObject(text)).toBe(expected);
});
