/** What the command line is asked for before it is understood: programs want their usage errors in JSON too. */

/** `-o json` in any of its spellings, before the end of the flags. */
export function asksForJson(args: readonly string[]): boolean {
  const end = args.indexOf("--");
  const flags = end < 0 ? args : args.slice(0, end);
  return flags.some(
    (flag, at) =>
      flag === "-ojson" ||
      flag === "--output=json" ||
      ((flag === "-o" || flag === "--output") && flags[at + 1] === "json"),
  );
}
