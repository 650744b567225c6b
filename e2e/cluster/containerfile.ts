/**
 * What a Containerfile of this project says of its image, so that the images of a test cluster, which has no builder,
 * are made by the very files that users build with. Only the last stage counts: the ones before are `npm run bundle`.
 *
 * It knows the instructions that are used here, and refuses every other: nothing of an image is passed over.
 */

import { readFile } from "node:fs/promises";

export interface Containerfile {
  /** From a folder below the project's to one of the image. */
  readonly copies: readonly { readonly from: string; readonly to: string }[];
  readonly config: {
    readonly Entrypoint?: readonly string[];
    readonly Cmd?: readonly string[];
    readonly Env: readonly string[];
    readonly User?: string;
    readonly WorkingDir?: string;
  };
}

/** `args` are those of the build, by name. */
export async function readContainerfile(
  file: string,
  args: Readonly<Record<string, string>> = {},
): Promise<Containerfile> {
  const text = await readFile(file, "utf8");
  const lines = text.replace(/^\s*#.*\n/gm, "").split(/\n+/);
  const lastStage = lines.slice(lines.findLastIndex((line) => line.startsWith("FROM ")) + 1);
  const copies: { from: string; to: string }[] = [];
  const env: string[] = [];
  const config: { Entrypoint?: string[]; Cmd?: string[]; User?: string; WorkingDir?: string } = {};
  for (const line of lastStage.filter((each) => each.trim() !== "")) {
    const [, instruction, rest = ""] = /^(\w+)\s+(.*?)\s*$/.exec(line) ?? [];
    const value = rest.replace(/\$(\w+)/g, (_, name: string) => {
      if (args[name] === undefined) throw new Error(`${file}: ${name} has no value: ${line}`);
      return args[name];
    });
    const copy = /^--from=build \/src\/(\S+) (\/\S+)$/.exec(value);
    if (instruction === "COPY" && copy !== null) copies.push({ from: copy[1] as string, to: copy[2] as string });
    else if (instruction === "ENTRYPOINT") config.Entrypoint = JSON.parse(value) as string[];
    else if (instruction === "CMD") config.Cmd = JSON.parse(value) as string[];
    else if (instruction === "USER") config.User = value;
    else if (instruction === "WORKDIR") config.WorkingDir = value;
    else if (instruction === "ENV" && /^\w+=[^\s"]+$/.test(value)) env.push(value);
    else if (instruction !== "ARG") throw new Error(`${file}: nothing is known of ${line}`);
  }
  return { copies, config: { ...config, Env: env } };
}
