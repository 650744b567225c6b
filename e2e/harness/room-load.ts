/**
 * Steady calls to the rooms of the `rooms` fixture, one after the other in each room, and what they show: where each room
 * was at which time. Each call is a post; each room counts its own.
 *
 * Invariant: what is reported as a violation cannot happen while a room has one holder at a time.
 */

import { setTimeout as sleep } from "node:timers/promises";
import { type Channel, type Client, LeverError } from "leveros";
import type { Post, Room } from "../fixtures/rooms/room.ts";

export interface Answer extends Post {
  readonly room: string;
  readonly sentAt: number;
  readonly at: number;
}

export interface Failure {
  readonly room: string;
  readonly reason: string;
  readonly effect: string;
  readonly sentAt: number;
  readonly at: number;
}

export interface RoomLoadOptions {
  readonly rooms: readonly string[];
  /** To all rooms together. */
  readonly perSecond: number;
  readonly timeoutMs?: number;
}

export function roomNames(count: number): string[] {
  return Array.from({ length: count }, (_, n) => `room-${n}`);
}

const now = () => performance.now();

export class RoomLoad {
  readonly answers: Answer[] = [];
  readonly failures: Failure[] = [];
  readonly #client: Client;
  readonly #options: RoomLoadOptions;
  readonly #lanes: Promise<void>[];
  readonly #last = new Map<string, Answer>();
  readonly #violations: string[] = [];
  #isOver = false;

  constructor(client: Client, options: RoomLoadOptions) {
    this.#client = client;
    this.#options = options;
    const { rooms, perSecond } = options;
    const everyMs = (rooms.length * 1000) / perSecond;
    this.#lanes = rooms.map((room, n) => this.#lane(room, everyMs, (n * everyMs) / rooms.length));
  }

  async #lane(room: string, everyMs: number, delayMs: number): Promise<void> {
    const { timeoutMs } = this.#options;
    const remote = this.#client.resource<Room>("rooms", room).with(timeoutMs === undefined ? {} : { timeoutMs });
    const startedAt = now() + delayMs;
    for (let n = 0; !this.#isOver; n++) {
      // A call that took long is not made up for: one at a time.
      await sleep(Math.max(startedAt + n * everyMs - now(), 0));
      if (this.#isOver) return;
      const sentAt = now();
      try {
        this.#answered({ ...(await remote.say()), room, sentAt, at: now() });
      } catch (error) {
        const { reason, effect } = LeverError.from(error);
        this.failures.push({ room, reason, effect, sentAt, at: now() });
        // As whoever wanted that post said would do: again, and not when the next one is due.
        n--;
        await sleep(20);
      }
    }
  }

  /** Calls of a room follow each other: each sees the last one's holder or a later one. */
  #answered(answer: Answer): void {
    this.answers.push(answer);
    const last = this.#last.get(answer.room);
    this.#last.set(answer.room, answer);
    if (last === undefined) return;
    const where = `${answer.room}: ${JSON.stringify(last)}, then ${JSON.stringify(answer)}`;
    if (answer.epoch < last.epoch) this.#violations.push(`an earlier epoch answers again, ${where}`);
    if (answer.epoch === last.epoch && answer.instance !== last.instance) {
      this.#violations.push(`two instances in one epoch, ${where}`);
    }
    if (answer.epoch === last.epoch && answer.n <= last.n) this.#violations.push(`counted again, ${where}`);
  }

  get violations(): readonly string[] {
    return this.#violations;
  }

  /** The last known holder of each room. */
  holders(): Map<string, string> {
    return new Map([...this.#last].map(([room, { instance }]) => [room, instance]));
  }

  /** Resolves when each room has been answered for a call that was sent after now. */
  async around(timeoutMs = 30_000): Promise<void> {
    const from = now();
    const { rooms } = this.#options;
    while (!rooms.every((room) => (this.#last.get(room)?.sentAt ?? 0) >= from)) {
      if (now() - from > timeoutMs) {
        const silent = rooms.filter((room) => (this.#last.get(room)?.sentAt ?? 0) < from);
        throw new Error(`${silent.length} rooms were not answered for within ${timeoutMs} ms: ${silent.slice(0, 5)}`);
      }
      await sleep(20);
    }
  }

  /** For each of the rooms: from `at` until the first answer of another instance than `instance`, ms, ascending. */
  servedElsewhereAfter(at: number, instance: string, rooms: readonly string[]): number[] {
    const first = new Map<string, number>();
    for (const answer of this.answers) {
      if (answer.at < at || answer.instance === instance || first.has(answer.room)) continue;
      first.set(answer.room, answer.at - at);
    }
    return rooms.map((room) => first.get(room) ?? Number.POSITIVE_INFINITY).sort((a, b) => a - b);
  }

  /** As `servedElsewhereAfter`, but counted from the first call of the room that was under way at `at`, or came later. */
  waitedElsewhereAfter(at: number, instance: string, rooms: readonly string[]): number[] {
    const start = new Map<string, number>();
    for (const { room, sentAt, at: endedAt } of [...this.answers, ...this.failures]) {
      if (endedAt >= at) start.set(room, Math.min(start.get(room) ?? Number.POSITIVE_INFINITY, Math.max(sentAt, at)));
    }
    const waited = rooms.map((room) => {
      const [servedMs] = this.servedElsewhereAfter(at, instance, [room]) as [number];
      return servedMs - ((start.get(room) ?? at) - at);
    });
    return waited.sort((a, b) => a - b);
  }

  async stop(): Promise<void> {
    this.#isOver = true;
    await Promise.all(this.#lanes);
  }
}

/** How many rooms each instance has. */
export function roomsByInstance(holders: ReadonlyMap<string, string>): Map<string, string[]> {
  const found = new Map<string, string[]>();
  for (const [room, instance] of holders) found.set(instance, [...(found.get(instance) ?? []), room]);
  return found;
}

export function percentile(sorted: readonly number[], part: number): number {
  return sorted[Math.min(Math.floor(sorted.length * part), sorted.length - 1)] as number;
}

/** A channel to a room, and what it has heard. */
export class Listener {
  readonly room: string;
  readonly heard: Post[] = [];
  /** How it ended: undefined while it is open, `cleanly`, or the error's reason. */
  how: string | undefined;
  readonly #channel: Channel<Post, never>;
  readonly #end: Promise<void>;

  private constructor(room: string, channel: Channel<Post, never>) {
    this.room = room;
    this.#channel = channel;
    this.#end = this.#listen();
  }

  static async join(client: Client, room: string, resume: boolean): Promise<Listener> {
    return new Listener(room, await client.resource<Room>("rooms", room).with({ resume }).joinChan());
  }

  async #listen(): Promise<void> {
    try {
      for await (const post of this.#channel) this.heard.push(post);
      this.how ??= "cleanly";
    } catch (error) {
      this.how ??= LeverError.from(error).reason;
    }
  }

  /** The first place in what was heard where a post is missing, or came twice. */
  get gap(): string | undefined {
    for (let i = 1; i < this.heard.length; i++) {
      const [last, next] = this.heard.slice(i - 1, i + 1) as [Post, Post];
      if (next.n !== last.n + 1) return `${this.room}: ${JSON.stringify(last)}, then ${JSON.stringify(next)}`;
    }
    return undefined;
  }

  get last(): Post | undefined {
    return this.heard.at(-1);
  }

  get instances(): string[] {
    return [...new Set(this.heard.map(({ instance }) => instance))];
  }

  async close(): Promise<void> {
    this.how ??= "closed by the test";
    this.#channel.close();
    await this.#end;
  }
}
