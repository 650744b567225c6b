/** The server of `raw`: sends every frame back as it came. */

import { type AddressInfo, createServer } from "node:net";
import { ready } from "../../control/probe.ts";
import { FrameReader, FrameWriter, readFrom } from "../frames.ts";

const server = createServer({ noDelay: true }, (socket) => {
  const writer = new FrameWriter(socket);
  readFrom(socket, new FrameReader((bytes, start, end) => writer.forward(bytes.subarray(start, end))));
});
server.listen(0, "127.0.0.1", () => ready((server.address() as AddressInfo).port));
