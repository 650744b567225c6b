/** The files that `lever dev -f` names: manifests, and those in folders. */

import { readdir, readFile, realpath, stat } from "node:fs/promises";
import path from "node:path";
import type { ManifestFile } from "@leveros/operator/api/manifest-reader.ts";
import { fileBytesMax } from "@leveros/operator/api/yaml-document.ts";
import { LeverError } from "leveros";

export const filesMax = 1000;
export const foldersMax = 10_000;

export interface ManifestFiles {
  readonly files: readonly ManifestFile[];
  /** YAML files in folders that hold no Kubernetes object: those of other tools. */
  readonly skipped: readonly string[];
}

/**
 * Reads the files named, and all `.yaml` and `.yml` files of the folders named, down to the last; `node_modules` and
 * what begins with a dot are left out. A file that is named twice is read once. Throws INVALID_OPTION.
 */
export async function readManifestFiles(paths: readonly string[]): Promise<ManifestFiles> {
  const reading = new Reading();
  for (const each of paths) await reading.add(each);
  return reading;
}

class Reading implements ManifestFiles {
  readonly files: ManifestFile[] = [];
  readonly skipped: string[] = [];
  /** Real paths: links may lead to one file, or in circles. */
  readonly #seen = new Set<string>();
  #folders = 0;

  async add(named: string): Promise<void> {
    const entry = await stat(named).catch((error: NodeJS.ErrnoException) => {
      throw invalid(named, error.code === "ENOENT" ? "there is no such file or folder" : error.message);
    });
    if (entry.isDirectory()) await this.#addFolder(named, named);
    else if (entry.isFile()) await this.#addFile(named, named, false);
    else throw invalid(named, "expected a file or a folder");
  }

  async #addFolder(folder: string, named: string): Promise<void> {
    if (await this.#isKnown(folder)) return;
    this.#folders++;
    if (this.#folders > foldersMax) throw invalid(named, `more than ${foldersMax} folders; name the manifests' own`);
    const names = await readdir(folder).catch((error: Error) => {
      throw invalid(named, error.message);
    });
    for (const name of names.sort()) {
      if (name.startsWith(".") || name === "node_modules") continue;
      const full = path.join(folder, name);
      // What has gone meanwhile, and links to nowhere.
      const entry = await stat(full).catch(() => undefined);
      if (entry?.isDirectory()) await this.#addFolder(full, named);
      else if (entry?.isFile() && /\.ya?ml$/.test(name)) await this.#addFile(full, named, true);
    }
  }

  async #addFile(file: string, named: string, isFound: boolean): Promise<void> {
    if (await this.#isKnown(file)) return;
    if (this.files.length >= filesMax) throw invalid(named, `more than ${filesMax} manifests`);
    const { size } = await stat(file);
    if (size > fileBytesMax) throw invalid(file, `it has ${size} bytes, at most ${fileBytesMax} are read`);
    const content = await readFile(file).catch((error: Error) => {
      throw invalid(file, error.message);
    });
    if (isFound && !holdsObject(content.toString())) this.skipped.push(file);
    else this.files.push({ file, content });
  }

  async #isKnown(file: string): Promise<boolean> {
    const real = await realpath(file);
    if (this.#seen.has(real)) return true;
    this.#seen.add(real);
    return false;
  }
}

/** Every Kubernetes object has a `kind`. */
export function holdsObject(text: string): boolean {
  return /(^|[\s{,])["']?kind["']?\s*:/m.test(text);
}

function invalid(file: string, what: string): LeverError {
  return new LeverError("INVALID_OPTION", `-f ${file}: ${what}`, { effect: "none" });
}
