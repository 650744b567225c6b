/** The client of `raw`, driven by the load generator. */

import { once } from "node:events";
import { connect as dial } from "node:net";
import type { Connection } from "../../load/generator.ts";
import { Calls } from "../calls.ts";
import { eachFrame, FrameReader, FrameWriter, readInto } from "../frames.ts";

export const form = "bytes";

export async function connect([port]: readonly string[]): Promise<Connection<Uint8Array>> {
  const calls = new Calls<Uint8Array>();
  const reader = new FrameReader((bytes, start, end) => {
    eachFrame(bytes, start, end, (streamId, from, to) => calls.reply(streamId, Buffer.from(bytes.subarray(from, to))));
  });
  const socket = dial({ port: Number(port), host: "127.0.0.1", ...readInto(reader) });
  await once(socket, "connect");
  const writer = new FrameWriter(socket);
  return {
    call: (value) => calls.start((streamId) => writer.frame(streamId, value)),
    close: () => void socket.destroy(),
  };
}
