/** `npm run bench`: reads the command line, runs the bench, prints the result. Progress goes to stderr. */

import { runBench } from "./bench.ts";
import { readOptions, UsageError, usage } from "./options.ts";
import { bases, paths } from "./paths/list.ts";
import { jsonReport, tableReport } from "./report/report.ts";

process.exitCode = await main(process.argv.slice(2));

async function main(args: readonly string[]): Promise<number> {
  const names = paths.map(({ name }) => name);
  const interrupt = new AbortController();
  // A second Ctrl-C ends this process at once; its children end with it.
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.once(signal, () => interrupt.abort());
  try {
    const options = readOptions(args, names);
    if (options === "help") {
      console.log(usage(names));
      return 0;
    }
    const chosen = paths.filter(({ name }) => options.paths.includes(name));
    const result = await runBench(chosen, options, (line) => console.error(line), interrupt.signal);
    console.log(options.output === "json" ? jsonReport(result, bases) : tableReport(result, bases));
    return result.cells.some(({ rounds }) => rounds.some((round) => "error" in round)) ? 1 : 0;
  } catch (error) {
    if (interrupt.signal.aborted) {
      console.error("interrupted; all processes have been ended");
      return 130;
    }
    if (error instanceof UsageError) {
      console.error(`${error.message}\n\n${usage(names)}`);
      return 2;
    }
    console.error(error instanceof Error ? error.message : error);
    return 1;
  }
}
