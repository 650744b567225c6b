/** The client app of `floor`, driven by the load generator. */

import { once } from "node:events";
import { connect as dial } from "node:net";
import { Packr } from "msgpackr";
import type { Connection } from "../../load/generator.ts";
import { Calls } from "../calls.ts";
import { eachFrame, FrameReader, FrameWriter, readInto } from "../frames.ts";

export const form = "value";

export async function connect([path = ""]: readonly string[]): Promise<Connection> {
  const packr = new Packr({ useRecords: false, variableMapSize: true });
  const calls = new Calls<unknown>();
  const reader = new FrameReader((bytes, start, end) => {
    eachFrame(bytes, start, end, (streamId, from, to) => calls.reply(streamId, packr.unpack(bytes.subarray(from, to))));
  });
  const socket = dial({ path, ...readInto(reader) });
  await once(socket, "connect");
  const writer = new FrameWriter(socket);
  return {
    call: (value) => calls.start((streamId) => writer.frame(streamId, packr.pack([value]))),
    close: () => void socket.destroy(),
  };
}
