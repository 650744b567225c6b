/** The nearest peer: gRPC in Node, as most people run it, without a proxy between. */

import type { Path } from "./path.ts";

export const grpc: Path = {
  name: "grpc",
  about:
    "@grpc/grpc-js, unary, one HTTP/2 connection: client, server; the value's bytes in one `bytes` field, not encoded or decoded",
  async start(stage) {
    stage.spawn("server", new URL("./grpc/server.ts", import.meta.url).href);
    const port = await stage.ready("server");
    await stage.spawnClient(new URL("./grpc/client.ts", import.meta.url).href, { args: [String(port)] });
  },
};
