/**
 * Sends a file to the upload service and compares the receipt:
 *
 *     npx node examples/upload/send.ts FILE       (with `npm start` running elsewhere)
 */

import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { Client } from "leveros";
import type { Upload } from "./methods.ts";

const file = process.argv[2];
if (file === undefined) throw new Error("usage: node examples/upload/send.ts FILE");

await using client = new Client({ gateway: "127.0.0.1:3837", environment: "dev" });
await using channel = await client.service<Upload>("upload").putChan();
const hash = createHash("sha256");
for await (const part of createReadStream(file)) {
  hash.update(part);
  await channel.send(part);
}
channel.closeWrite();
const receipt = await channel.receive();
const isSame = receipt?.sha256 === hash.digest("hex");
console.log(`${receipt?.bytes} bytes, ${isSame ? "the same" : "NOT THE SAME"} SHA-256 at both ends`);
process.exitCode = isSame ? 0 : 1;
