/**
 * What a run produces carries a mark, so that it is known on the wire and at whoever gets it: text that agents pass on
 * as it is.
 */

const pattern = /~r(\d{8})~/g;
const beginning = Buffer.from("~r");
const markBytes = 11;

export function markOf(run: number): string {
  return `~r${String(run).padStart(8, "0")}~`;
}

/** The runs whose marks are in the bytes. */
export function marksIn(bytes: Uint8Array): number[] {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = buffer.indexOf(beginning);
  if (at < 0) return [];
  const runs: number[] = [];
  for (; at >= 0; at = buffer.indexOf(beginning, at + 2)) {
    const run = runOf(buffer.toString("latin1", at, at + markBytes));
    if (run !== undefined) runs.push(run);
  }
  return runs;
}

/** The run whose mark it is. */
export function runOf(mark: unknown): number | undefined {
  if (typeof mark !== "string") return undefined;
  pattern.lastIndex = 0;
  const found = pattern.exec(mark);
  return found === null ? undefined : Number(found[1]);
}
