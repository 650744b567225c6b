/**
 * How a service of a manifest runs as a local process: the command, and the folder to run it in.
 *
 * The annotation `leveros.dev/dev-command` is a line for the shell and runs through `sh -c`, so that quotes, variables
 * and `&&` mean what they mean when they are typed. Without it `npm start`, where the folder's package.json has that
 * script. An image's command is never guessed at: its files are not here.
 */

import { readFile, stat } from "node:fs/promises";
import path from "node:path";
import { type ManifestProblem, problemAt, shorten } from "../api/manifest-problem.ts";
import type { ManifestSet } from "../api/manifest-reader.ts";
import { devCommandAnnotation, devDirectoryAnnotation, type LeverService } from "../api/v1alpha1/lever-service.ts";

const packageJsonBytesMax = 4 * 1024 ** 2;

export interface DevCommand {
  /** The program to start, looked up in PATH. */
  readonly program: string;
  readonly args: readonly string[];
  /** Absolute. */
  readonly directory: string;
  /** The command as people know it: `node chat.ts`, `npm start`. */
  readonly text: string;
}

/**
 * The local command of `service`, one of `set`. The file names of `set` are paths, relative ones to the working
 * directory. A problem's place is the annotation at fault, else the service's metadata.
 */
export async function devCommand(
  set: ManifestSet,
  service: LeverService,
): Promise<{ command: DevCommand } | { problem: ManifestProblem }> {
  const { annotations } = service.metadata;
  const located = set.locate(service);
  const problem = (annotation: string, found: string, expected: string, remedy: string) => {
    const fieldPath = ["metadata", "annotations", annotation];
    return { problem: problemAt(located.place(fieldPath), "dev-command", fieldPath, found, expected, remedy) };
  };

  const manifestDirectory = path.dirname(path.resolve(located.place([]).file));
  const directory = path.resolve(manifestDirectory, annotations[devDirectoryAnnotation] ?? ".");
  const entry = await stat(directory).catch(() => undefined);
  if (entry?.isDirectory() !== true) {
    const found = `${directory}, which is ${entry === undefined ? "not there" : "not a directory"}`;
    const remedy = `Set it to a path from ${manifestDirectory}.`;
    return problem(devDirectoryAnnotation, found, "a directory", remedy);
  }

  const line = annotations[devCommandAnnotation];
  if (line !== undefined) {
    if (line.trim() === "") {
      const remedy = "Write the command, such as node main.ts, or remove the annotation.";
      return problem(devCommandAnnotation, "an empty command", "a command for the shell", remedy);
    }
    return { command: { program: "sh", args: ["-c", line], directory, text: line } };
  }

  const script = await startScript(path.join(directory, "package.json"));
  if (script.exists) return { command: { program: "npm", args: ["start"], directory, text: "npm start" } };
  const remedy = `Add the annotation ${devCommandAnnotation}: <command>, such as node main.ts, or a start script.`;
  return problem(devCommandAnnotation, `no local command: ${script.why}`, "a command to run locally", remedy);
}

async function startScript(file: string): Promise<{ exists: true } | { exists: false; why: string }> {
  let text: string;
  try {
    if ((await stat(file)).size > packageJsonBytesMax) return { exists: false, why: `${file} is too large` };
    text = await readFile(file, "utf8");
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    return { exists: false, why: code === "ENOENT" ? `there is no ${file}` : `${file} cannot be read (${code})` };
  }
  let start: unknown;
  try {
    start = (JSON.parse(text.replace(/^\ufeff/, "")) as { scripts?: { start?: unknown } } | null)?.scripts?.start;
  } catch (error) {
    return { exists: false, why: `${file} is not JSON (${shorten((error as Error).message)})` };
  }
  if (typeof start === "string" && start !== "") return { exists: true };
  return { exists: false, why: `${file} has no start script` };
}
