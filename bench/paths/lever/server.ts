/** The service of `lever`. */

import { serve } from "leveros";
import { ready } from "../../control/probe.ts";

await serve({ echo: (value: unknown) => value });
ready();
