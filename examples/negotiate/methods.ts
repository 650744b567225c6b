/**
 * A channel on which both sides talk, and either may have the last word.
 *
 *     echo '{"price":80}' | lever chan lever://dev/negotiate/haggleChan '"a carpet"' 100
 */

import { type Channel, MethodError } from "leveros";

export interface Offer {
  readonly price: number;
}

export const negotiate = {
  /**
   * The seller names its price, and answers each offer with another, until one of the two has the last word:
   *
   * - the seller, when an offer reaches its price: it repeats the offer, which seals the sale, and returns;
   * - the buyer, by half-closing (`closeWrite`): the seller repeats the last offer, or fails with TOO_LITTLE;
   * - the seller, by half-closing at its lowest price: it still reads whether the buyer takes it, and says no more.
   */
  async haggleChan(channel: Channel<Offer, Offer>, item: string, ask: number) {
    if (!(ask > 0)) throw new MethodError({ error: "NO_PRICE", item });
    const lowest = ask * 0.75;
    let price = ask;
    let offered = 0;
    await channel.send({ price });
    // Ends at the buyer's half-close.
    for await (const offer of channel) {
      offered = offer.price;
      if (offered >= price || price === lowest) break;
      if (offered < ask / 2) throw new MethodError({ error: "INSULTED", item, offered });
      price = Math.max(lowest, Math.floor((price + offered) / 2));
      await channel.send({ price });
      if (price === lowest) channel.closeWrite();
    }
    const isSold = offered >= lowest;
    console.log(isSold ? `${item}: sold for ${offered}` : `${item}: not sold`);
    if (price === lowest) return;
    if (!isSold) throw new MethodError({ error: "TOO_LITTLE", item, lowest });
    await channel.send({ price: offered });
  },
};

export type Negotiate = typeof negotiate;
