/** Haggles with the negotiate service:  node examples/negotiate/buy.ts  (with `npm start` running elsewhere) */

import { Client } from "leveros";
import type { Negotiate } from "./methods.ts";

await using client = new Client({ gateway: "127.0.0.1:3837", environment: "dev" });
await using channel = await client.service<Negotiate>("negotiate").haggleChan("a carpet", 100);
let mine = 60;
for await (const { price } of channel) {
  console.log(`seller: ${price}`);
  if (price <= mine) break;
  mine = Math.min(mine + 10, 80);
  console.log(`buyer:  ${mine}`);
  await channel.send({ price: mine });
}
