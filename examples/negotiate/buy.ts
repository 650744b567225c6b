/**
 * Haggles with the negotiate service:
 *
 *     npx node examples/negotiate/buy.ts          (with `npm start` running elsewhere)
 */

import { Client } from "leveros";
import type { Negotiate } from "./methods.ts";

const budget = 80;

await using client = new Client({ gateway: "127.0.0.1:3837", environment: "dev" });
await using channel = await client.service<Negotiate>("negotiate").haggleChan("a carpet", 100);
let mine = 55;
let asked = 0;
for await (const { price } of channel) {
  asked = price;
  console.log(`seller: ${asked}`);
  // Its last word repeats the offer; then the loop ends, as it does when the seller half-closes.
  if (asked === mine) continue;
  mine = Math.min(mine + 10, asked, budget);
  console.log(`buyer:  ${mine}`);
  await channel.send({ price: mine });
}
// After the seller's half-close this end may still talk: it can take the lowest price.
if (asked !== mine && asked <= budget) {
  mine = asked;
  await channel.send({ price: mine });
}
console.log(asked === mine ? `bought for ${asked}` : "no deal");
