/**
 * Gets that many bytes from the upload service and compares the receipt:
 *
 *     npx node examples/upload/fetch.ts BYTES     (with `npm start` running elsewhere)
 */

import { createHash } from "node:crypto";
import { Client } from "leveros";
import type { Receipt, Upload } from "./methods.ts";

await using client = new Client({ gateway: "127.0.0.1:3837", environment: "dev" });
await using channel = await client.service<Upload>("upload").getChan(Number(process.argv[2] ?? 100_000_000));
const hash = createHash("sha256");
let receipt: Receipt | undefined;
for await (const message of channel) {
  if (message instanceof Uint8Array) hash.update(message);
  else receipt = message;
}
const isSame = receipt?.sha256 === hash.digest("hex");
console.log(`${receipt?.bytes} bytes, ${isSame ? "the same" : "NOT THE SAME"} SHA-256 at both ends`);
process.exitCode = isSame ? 0 : 1;
