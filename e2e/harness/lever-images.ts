/**
 * Names of the images that tests run: those that were built for the run and are on every node, or, on a cluster that was
 * given, those of the registry `$LEVER_E2E_REGISTRY`.
 */

import { readFileSync } from "node:fs";
import path from "node:path";

/** Ids by name of the images that were built for the run; none on a cluster that was given. */
export const imageIds = JSON.parse(process.env["LEVER_E2E_IMAGES"] ?? "{}") as Readonly<Record<string, string>>;
export const hasBuiltImages = Object.keys(imageIds).length > 0;

const file = path.resolve(import.meta.dirname, "../../package.json");
export const leverVersion = (JSON.parse(readFileSync(file, "utf8")) as { version: string }).version;
export const imageRegistry = hasBuiltImages ? "lever.test" : (process.env["LEVER_E2E_REGISTRY"] ?? "lever.test");
/** The same files under another tag and, if they were built for the run, another id: for upgrades. */
export const nextTag = `${leverVersion}-next`;

/** Of `operator`, `agent`, `gateway`, an example, or a folder of e2e/fixtures. */
export function leverImage(name: string, tag = leverVersion): string {
  return `${imageRegistry}/${name}:${tag}`;
}

/** A manifest of e2e/fixtures with the images of the run. */
export function fixtureManifest(name: string): string {
  const text = readFileSync(path.resolve(import.meta.dirname, "../fixtures", name), "utf8");
  return text.replace(/image: lever\.test\/([\w-]+):.*/g, (_, image: string) => `image: ${leverImage(image)}`);
}

/** A manifest of `examples` as it is; on a cluster that was given, with the images of its registry. */
export function exampleManifest(name: string): string {
  const text = readFileSync(path.resolve(import.meta.dirname, `../../examples/${name}/${name}.yaml`), "utf8");
  if (hasBuiltImages) return text;
  return text.replace(/image: lever\/example-([\w-]+):.*/g, (_, image: string) => `image: ${leverImage(image)}`);
}
