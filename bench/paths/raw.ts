/** The bytes alone: what two Node processes and a TCP connection cost at least. */

import type { Path } from "./path.ts";

export const raw: Path = {
  name: "raw",
  about: "the value's bytes over one TCP connection, length-prefixed, echoed: client, server; no encoding",
  async start(stage) {
    stage.spawn("server", new URL("./raw/server.ts", import.meta.url).href);
    const port = await stage.ready("server");
    await stage.spawnClient(new URL("./raw/client.ts", import.meta.url).href, { args: [String(port)] });
  },
};
