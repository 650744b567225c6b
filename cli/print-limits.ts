/** Prints `docs/limits.md`. */

import { limitsPage } from "./limits-table.ts";

process.stdout.write(limitsPage());
