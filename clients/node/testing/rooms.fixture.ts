/** Services for tests of `simulate`. */

import { type Channel, context, handOver } from "../index.ts";
import { simulate } from "./simulate.ts";

export class Room {
  readonly #posts: string[];

  constructor(_name: string, posts: string[] = []) {
    this.#posts = posts;
  }

  history(): string[] {
    return this.#posts;
  }

  say(text: string): void {
    this.#posts.push(text);
  }

  where(): string {
    return context().instance;
  }

  async shoutChan(channel: Channel<string, string>): Promise<void> {
    for await (const text of channel) {
      this.say(text);
      await channel.send(text.toUpperCase());
    }
  }

  [handOver](): string[] {
    return this.#posts;
  }
}

/**
 * An app that is stopped for longer than its lease with a call in its socket, and finds that call when it goes on.
 * Rejects if it begins it, after another instance has begun one.
 */
export function wakesLate(seeds: number): Promise<void> {
  return simulate({ seeds, services: { chat: { resource: Room, instances: 3 } } }, async (sim) => {
    const room = sim.client.resource<Room>("chat", "room-7").with({ timeoutMs: 60_000 });
    const old = await room.where();
    sim.pause(old);
    const late = room.say("late").catch(() => {});
    await late;
    await room.say("in time");
    sim.resume(old);
    await sim.sleep(2000);
  });
}
