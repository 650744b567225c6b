/** A program and its arguments as a line for `sh -c`, each word quoted: they mean what they meant where they were split. */
export function commandLine(words: readonly string[]): string {
  return words.map((word) => `'${word.replaceAll("'", "'\\''")}'`).join(" ");
}
