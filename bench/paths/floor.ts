/**
 * The least that a path of Lever's shape can cost in Node: an app at each end, a relay beside each, every reply and
 * request through both relays. Lever does what these do and more, so its cost is judged by the ratio to theirs.
 */

import type { Stage } from "../control/stage.ts";
import { certificate } from "./floor/certificate.ts";
import { type Path, PathUnavailable } from "./path.ts";

const shape =
  "client app, relay, relay, server app: Unix sockets beside the apps, %s between the relays; MessagePack at both ends";

export const floor: Path = {
  name: "floor",
  about: shape.replace("%s", "TCP"),
  start: (stage) => start(stage, []),
};

export const floorTls: Path = {
  name: "floor-tls",
  about: shape.replace("%s", "mutual TLS 1.3"),
  async start(stage) {
    const files = await certificate(stage.directory);
    if (files === undefined) throw new PathUnavailable("no `openssl` to make a certificate with");
    await start(stage, [files.certificate, files.key]);
  },
};

async function start(stage: Stage, tls: readonly string[]): Promise<void> {
  const relay = new URL("./floor/relay.ts", import.meta.url).href;
  const [near, far] = [`${stage.directory}/near.sock`, `${stage.directory}/far.sock`];
  stage.spawn("server relay", relay, { args: ["accept", far, ...tls] });
  const port = await stage.ready("server relay");
  stage.spawn("client relay", relay, { args: ["dial", near, String(port), ...tls] });
  stage.spawn("server", new URL("./floor/server.ts", import.meta.url).href, { args: [far] });
  await Promise.all([stage.ready("server"), stage.ready("client relay")]);
  await stage.spawnClient(new URL("./floor/client.ts", import.meta.url).href, { args: [near] });
}
