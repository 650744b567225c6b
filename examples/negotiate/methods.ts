import { type Channel, MethodError } from "leveros";

export interface Offer {
  readonly price: number;
}

export const negotiate = {
  /**
   * Haggles over a price: offers go back and forth until the two meet or one side says no more. Either side may
   * half-close first: the buyer by `closeWrite` ("my last offer"), the seller by returning.
   */
  async haggleChan(channel: Channel<Offer, Offer>, item: string, ask: number) {
    if (!(ask > 0)) throw new MethodError({ error: "NO_PRICE", item });
    let price = ask;
    await channel.send({ price });
    for await (const offer of channel) {
      if (offer.price >= price) {
        // Met: the seller's last word, then its clean end.
        await channel.send({ price });
        return;
      }
      if (offer.price < ask / 2) throw new MethodError({ error: "INSULTED", item, offer: offer.price });
      price = Math.max(Math.floor((price + offer.price) / 2), ask * 0.75);
      await channel.send({ price });
    }
    // The buyer has made its last offer; one more answer is allowed on the own direction.
    await channel.send({ price: Math.max(Math.floor(price * 0.95), ask * 0.75) });
  },
};

export type Negotiate = typeof negotiate;
