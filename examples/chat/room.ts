/**
 * A chat room: one `Room` per resource, in one instance of the service at a time.
 *
 *     lever chan lever://dev/chat/room-7/joinChan '"Ada"'
 */

import { type Channel, context, handOver, MethodError } from "leveros";

export interface Post {
  readonly user: string;
  readonly text: string;
}

/** What one holder of a room leaves to the next. */
export interface RoomState {
  /** Names this history: a room whose holder crashed begins another one. */
  readonly history: string;
  /** How many posts there ever were. The last of them are in `posts`. */
  readonly count: number;
  readonly posts: readonly Post[];
}

const userCharsMax = 50;
const textCharsMax = 500;
/** Who asks, or joins, gets the last of them. */
const recentMax = 100;
const postsMax = 1000;
/** With what lies around the posts below 1 MiB, the most that is handed over. A post may take 1,700. */
const postBytesMax = 1_000_000;

export class Room {
  readonly #history: string;
  #count: number;
  readonly #posts: Post[];
  #bytes: number;
  /** Channels that have got all posts. */
  readonly #members = new Set<Channel<string, Post>>();

  constructor(_name: string, state?: RoomState) {
    this.#history = state?.history ?? crypto.randomUUID();
    this.#count = state?.count ?? 0;
    this.#posts = [...(state?.posts ?? [])];
    this.#bytes = this.#posts.reduce((sum, post) => sum + bytesOf(post), 0);
  }

  /** The last posts. */
  history(): Post[] {
    return this.#posts.slice(-recentMax);
  }

  say(user: string, text: string): void {
    if (!isText(user, userCharsMax)) throw new MethodError({ error: "NO_NAME", max: userCharsMax });
    if (!isText(text, textCharsMax)) throw new MethodError({ error: "TOO_LONG", max: textCharsMax });
    const post = { user, text };
    this.#posts.push(post);
    this.#count++;
    this.#bytes += bytesOf(post);
    while (this.#posts.length > postsMax || this.#bytes > postBytesMax) {
      this.#bytes -= bytesOf(this.#posts.shift() as Post);
    }
    // One slow reader must not stop the room: hence trySend.
    const cursor = this.#cursor(this.#count);
    for (const member of this.#members) if (!member.trySend(post, { cursor })) member.fail({ error: "TOO_SLOW" });
  }

  /**
   * Sends the last posts and all that come, and says what comes in. Opened again after a move it goes on where it was,
   * or fails with GAP if it cannot.
   */
  async joinChan(channel: Channel<string, Post>, user: string): Promise<void> {
    if (!isText(user, userCharsMax)) throw new MethodError({ error: "NO_NAME", max: userCharsMax });
    let next = this.#next(context().cursor);
    while (next < this.#count) {
      const first = this.#count - this.#posts.length;
      if (next < first) throw new MethodError({ error: "GAP" });
      await channel.send(this.#posts[next - first] as Post, { cursor: this.#cursor(++next) });
    }
    // No await since it had them all: no post can have come between.
    this.#members.add(channel);
    try {
      for await (const text of channel) this.say(user, text);
    } finally {
      this.#members.delete(channel);
    }
  }

  /** How many posts of this history a channel has got that comes with this cursor. */
  #next(cursor: string | undefined): number {
    if (cursor === undefined) return Math.max(this.#count - recentMax, 0);
    const [history, count] = cursor.split("/");
    return history === this.#history ? Number(count) : Number.NEGATIVE_INFINITY;
  }

  /** Of the last of the first `count` posts. */
  #cursor(count: number): string {
    return `${this.#history}/${count}`;
  }

  /** At a planned move: what the next holder's constructor gets. */
  [handOver](): RoomState {
    return { history: this.#history, count: this.#count, posts: this.#posts };
  }
}

/** Callers in other languages may send anything. */
function isText(text: unknown, charsMax: number): boolean {
  return typeof text === "string" && text.length > 0 && text.length <= charsMax;
}

function bytesOf({ user, text }: Post): number {
  return Buffer.byteLength(user) + Buffer.byteLength(text) + 20;
}
