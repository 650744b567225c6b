/** The server app of `floor`: decodes the arguments, calls the method, encodes its result. */

import { once } from "node:events";
import { connect } from "node:net";
import { Packr } from "msgpackr";
import { ready } from "../../control/probe.ts";
import { eachFrame, FrameReader, FrameWriter, readInto } from "../frames.ts";

const packr = new Packr({ useRecords: false, variableMapSize: true });
const reader = new FrameReader((bytes, start, end) => {
  eachFrame(bytes, start, end, (streamId, from, to) => {
    const args: readonly unknown[] = packr.unpack(bytes.subarray(from, to));
    writer.frame(streamId, packr.pack(echo(...args)));
  });
});
const socket = connect({ path: process.argv[2] ?? "", ...readInto(reader) });
const writer = new FrameWriter(socket);
await once(socket, "connect");
ready();

function echo(value?: unknown): unknown {
  return value;
}
