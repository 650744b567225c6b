/**
 * Joins two rooms, says something in both, and prints what it hears until it has heard itself:
 *
 *     npx node examples/chat/caller.ts Ada          (with `npm start` running elsewhere)
 */

import { Client } from "leveros";
import type { Room } from "./room.ts";

const user = process.argv[2] ?? "Ada";
const text = `hello, at ${new Date().toISOString()}`;

await using client = new Client({ gateway: "127.0.0.1:3837", environment: "dev" });

async function visit(name: string): Promise<void> {
  const room = client.resource<Room>("chat", name);
  // Should the room move to another instance, the channel moves with it.
  await using channel = await room.with({ resume: true }).joinChan(user);
  await channel.send(text);
  for await (const post of channel) {
    console.log(`${name}  ${post.user}: ${post.text}`);
    if (post.user === user && post.text === text) break;
  }
  // A plain call to the room: it reaches the instance that has the channel.
  await room.say(user, "bye");
  console.log(`${name}  has ${(await room.history()).length} posts to show`);
}

await Promise.all(["kitchen", "garden"].map(visit));
