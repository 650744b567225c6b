import { execFile } from "node:child_process";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { formatProblem } from "../api/manifest-problem.ts";
import { readManifests } from "../api/manifest-reader.ts";
import { devCommand } from "./dev-command.ts";

let root: string;

beforeAll(async () => {
  root = await mkdtemp(path.join(tmpdir(), "lever-dev-command-"));
  await mkdir(path.join(root, "app"));
  await mkdir(path.join(root, "empty"));
  await mkdir(path.join(root, "broken"));
  await mkdir(path.join(root, "scriptless"));
  await writeFile(path.join(root, "app/package.json"), '{ "scripts": { "start": "node main.js" } }');
  await writeFile(path.join(root, "broken/package.json"), "{ nope");
  await writeFile(path.join(root, "scriptless/package.json"), '{ "scripts": { "start": 5 } }');
  await writeFile(path.join(root, "file"), "");
});
afterAll(() => rm(root, { recursive: true, force: true }));

function find(folder: string, annotations: Record<string, string> = {}) {
  const file = path.join(root, folder, "manifest.yaml");
  const content = `apiVersion: leveros.dev/v1alpha1
kind: LeverService
metadata:
  name: chat
  annotations: ${JSON.stringify(annotations)}
spec: { template: { spec: { containers: [{ name: app, image: example.org/chat:1, command: [node, /app/chat.js] }] } } }
`;
  const set = readManifests([{ file, content }]);
  expect(set.problems).toEqual([]);
  return devCommand(set, set.services[0]!);
}

async function problem(folder: string, annotations?: Record<string, string>): Promise<string> {
  const result = await find(folder, annotations);
  if ("command" in result) throw new Error(`found ${result.command.text}`);
  return formatProblem(result.problem).replaceAll(root, "");
}

const command = "leveros.dev/dev-command";
const directory = "leveros.dev/dev-directory";

test("the annotation is a line for the shell, run in the manifest's folder", async () => {
  const line = 'NAME="a  b" && echo "$NAME" | tr a-z A-Z; pwd -P';
  const result = await find("empty", { [command]: line });
  expect(result).toEqual({
    command: { program: "sh", args: ["-c", line], directory: path.join(root, "empty"), text: line },
  });
  if (!("command" in result)) return;
  const { program, args, directory: cwd } = result.command;
  const { stdout } = await promisify(execFile)(program, [...args], { cwd });
  expect(stdout).toMatch(/^A {2}B\n.*\/empty\n$/);
});

test("the folder is relative to the manifest's file", async () => {
  expect(await find("empty", { [command]: "node a.js", [directory]: "../app" })).toMatchObject({
    command: { directory: path.join(root, "app") },
  });
});

test("npm start, where package.json has that script", async () => {
  expect(await find("app")).toEqual({
    command: { program: "npm", args: ["start"], directory: path.join(root, "app"), text: "npm start" },
  });
  expect(await find("empty", { [directory]: "../app" })).toMatchObject({ command: { text: "npm start" } });
  expect(await find("app", { [command]: "node other.js" })).toMatchObject({ command: { text: "node other.js" } });
});

test("else a problem that names the annotation; the image's command is never used", async () => {
  expect(await problem("empty")).toMatch(
    /^\/empty\/manifest\.yaml:5:16 metadata\.annotations\["leveros\.dev\/dev-command"\]: found no local command: there is no \/empty\/package\.json, .* Add the annotation leveros\.dev\/dev-command: /,
  );
  expect(await problem("broken")).toContain("/broken/package.json is not JSON");
  expect(await problem("scriptless")).toContain("/scriptless/package.json has no start script");
});

test("a folder that is not there, or not a folder", async () => {
  expect(await problem("app", { [directory]: "none" })).toMatch(
    /^\/app\/manifest\.yaml:5:45 metadata\.annotations\["leveros\.dev\/dev-directory"\]: found \/app\/none, which is not there, expected a directory\. /,
  );
  expect(await problem("app", { [directory]: "../file" })).toContain("/file, which is not a directory");
});

test("an empty command", async () => {
  expect(await problem("app", { [command]: "  " })).toContain("found an empty command");
});
