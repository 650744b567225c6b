/**
 * What the compiler makes of services as their callers see them. Nothing here runs: `tsc -b` checks it, and each
 * `@ts-expect-error` fails the build when what follows is no error any more.
 */

import type { Channel } from "@leveros/protocol/channel/channel.ts";
import type { Client } from "./client.ts";
import { handOver, open } from "./resources/hooks.ts";
import type { ResourceMemory } from "./resources/resource-methods.ts";
import { serve } from "./serve.ts";
import type { Remote } from "./service-proxy.ts";
import { type StandardSchema, validated, validatedChannel } from "./validated.ts";

type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;
function same<A, B>(_isSame: Same<A, B>): void {}

interface Post {
  readonly user: string;
  readonly text: string;
}

declare const text: StandardSchema<string>;
declare const numberFromText: StandardSchema<string, number>;
declare const optionalText: StandardSchema<string | undefined, string>;

const hello = {
  greeting: "Hello",
  sayHello(name: string) {
    return `${this.greeting}, ${name}!`;
  },
  async later(count: number, unit?: "s" | "ms") {
    return { count, unit: unit ?? "s" };
  },
  either(flag: boolean): Promise<string> | number {
    return flag ? Promise.resolve("yes") : 0;
  },
  find(name: string): Post | undefined {
    return name === "" ? undefined : { user: name, text: "" };
  },
  nothing() {},
  spread(...names: string[]) {
    return names.length;
  },
  generic<Value extends string>(value: Value): Value {
    return value;
  },
  checksum(data: Uint8Array): Uint8Array {
    return data;
  },
  checked: validated([text, numberFromText, optionalText], (name, count, suffix) => {
    same<typeof name, string>(true);
    same<typeof count, number>(true);
    same<typeof suffix, string>(true);
    return `${name}${count}${suffix}`;
  }),
  _private() {},
  toJSON() {},
};

class Room {
  readonly topic = "";
  #posts: Post[] = [];
  history(): Post[] {
    return this.#posts;
  }
  async joinChan(channel: Channel<string, Post>, user: string, since?: number) {
    for await (const line of channel) await channel.send({ user, text: line + since });
  }
  upload_chan(channel: Channel<Uint8Array, never>): void {
    channel.close();
  }
  chan(_channel: Channel): void {}
  brokenChan(_name: string): void {}
  plainChan() {}
  checkedChan = validatedChannel([text], async (channel: Channel<number, string>, name) => {
    same<typeof name, string>(true);
    await channel.send(name);
  });
  protected hidden() {}
  private secret() {
    this.hidden();
  }
  constructor() {
    this.secret();
  }
  [Symbol.asyncDispose]() {}
}

interface Store<Item> {
  get(id: string): Item;
  watchChan(channel: Channel<never, Item>, from: string): void;
}

declare const client: Client;

export async function calls(): Promise<void> {
  const remote = client.service<typeof hello>("hello");
  same<typeof remote.sayHello, (name: string) => Promise<string>>(true);
  same<typeof remote.later, (count: number, unit?: "s" | "ms") => Promise<{ count: number; unit: "s" | "ms" }>>(true);
  same<typeof remote.either, (flag: boolean) => Promise<string | number>>(true);
  // `undefined` has no JSON form.
  same<typeof remote.find, (name: string) => Promise<Post | null>>(true);
  same<typeof remote.nothing, () => Promise<void>>(true);
  same<typeof remote.spread, (...names: string[]) => Promise<number>>(true);
  same<typeof remote.checksum, (data: Uint8Array) => Promise<Uint8Array>>(true);
  // Callers see the inputs of schemas; what may be undefined at the end may be left out.
  same<typeof remote.checked, (name: string, count: string, suffix?: string) => Promise<string>>(true);
  // A generic method loses its type parameter: the constraint stays.
  same<typeof remote.generic, (value: string) => Promise<string>>(true);

  const reply: string = await remote.sayHello("Ada");
  await remote.with({ timeoutMs: 5 }).with({ token: reply }).sayHello("Ada");

  // @ts-expect-error: the argument's type
  await remote.sayHello(1);
  // @ts-expect-error: an argument is missing
  await remote.sayHello();
  // @ts-expect-error: one argument too many
  await remote.sayHello("Ada", 1);
  // @ts-expect-error: no such method
  await remote.sayHallo("Ada");
  // @ts-expect-error: names that begin with _ are private
  await remote._private();
  // @ts-expect-error: reserved
  await remote.toJSON();
  // @ts-expect-error: no function
  remote.greeting;
  // @ts-expect-error: the result is a promise
  const early: string = remote.sayHello("Ada");
  // @ts-expect-error: proxies cannot be changed
  remote.sayHello = async () => early;
  // @ts-expect-error: no such option
  remote.with({ timeout: 5 });
}

export async function channels(): Promise<void> {
  const room = client.service<Room>("room");
  same<typeof room.history, () => Promise<Post[]>>(true);
  // What the method receives, its caller sends.
  same<typeof room.joinChan, (user: string, since?: number) => Promise<Channel<Post, string>>>(true);
  same<typeof room.upload_chan, () => Promise<Channel<never, Uint8Array>>>(true);
  same<typeof room.chan, () => Promise<Channel>>(true);
  same<typeof room.plainChan, () => Promise<Channel>>(true);
  same<typeof room.checkedChan, (name: string) => Promise<Channel<string, number>>>(true);
  same<typeof room.brokenChan, never>(true);

  await using channel = await room.joinChan("Ada");
  await channel.send("hi");
  for await (const post of channel) same<typeof post, Post>(true);

  // @ts-expect-error: the wrong direction
  await channel.send({ user: "Ada", text: "hi" });
  // @ts-expect-error: the channel is not the caller's to give
  await room.joinChan(channel, "Ada");
  // @ts-expect-error: no such member of the remote
  room.hidden;
  // @ts-expect-error: no such member of the remote
  room[Symbol.asyncDispose];
  // @ts-expect-error: no function
  room.topic;
}

class Chat {
  readonly topic = "";
  #posts: Post[];
  constructor(_name: string, posts: Post[] = [], _memory?: ResourceMemory) {
    this.#posts = posts;
  }
  say(user: string, text: string): void {
    this.#posts.push({ user, text });
  }
  async history(): Promise<Post[]> {
    return this.#posts;
  }
  async joinChan(channel: Channel<string, Post>, user: string) {
    for await (const text of channel) await channel.send({ user, text }, { cursor: text });
  }
  async [open](_posts: Post[] | undefined, _memory: ResourceMemory) {}
  [handOver]() {
    return this.#posts;
  }
  async [Symbol.asyncDispose]() {}
  private secret(): void {
    this.hidden();
  }
  protected hidden(): void {
    this.secret();
  }
}

class Named {
  readonly #name: string;
  constructor(name: string) {
    this.#name = name;
  }
  name() {
    return this.#name;
  }
}

class Numbered {
  constructor(readonlyName: number) {
    String(readonlyName);
  }
}

export async function resources(): Promise<void> {
  const room = client.resource<Chat>("chat", "room-7");
  same<typeof room, Remote<Chat>>(true);
  same<typeof room.say, (user: string, text: string) => Promise<void>>(true);
  same<typeof room.history, () => Promise<Post[]>>(true);
  same<typeof room.joinChan, (user: string) => Promise<Channel<Post, string>>>(true);
  const channel = await room.with({ resume: true, resumeTimeoutMs: 5000 }).joinChan("Ada");
  channel.onstate = (state) => same<typeof state, "open" | "resuming" | "discontinuity" | "closed">(true);
  await channel.send("hi");

  // @ts-expect-error: a resource has a name
  client.resource<Chat>("chat");
  // @ts-expect-error: hooks are not for callers
  room[handOver];
  // @ts-expect-error: hooks are not for callers
  room[open];
  // @ts-expect-error: hooks are not for callers
  room[Symbol.asyncDispose];
  // @ts-expect-error: no such member of the remote
  room.secret;
  // @ts-expect-error: no such member of the remote
  room.hidden;
  // @ts-expect-error: no function
  room.topic;

  await serve({}, { resource: Chat });
  await serve({ hello: () => "hi" }, { resource: Named, resourcesMax: 10 });
  // @ts-expect-error: an object is no class
  await serve({}, { resource: new Named("a") });
  // @ts-expect-error: a resource's name is text
  await serve({}, { resource: Numbered });
}

export async function generics(): Promise<void> {
  const posts = client.service<Store<Post>>("posts");
  same<typeof posts.get, (id: string) => Promise<Post>>(true);
  same<typeof posts.watchChan, (from: string) => Promise<Channel<Post, never>>>(true);

  async function first<Item extends object>(store: Remote<Store<Item>>): Promise<unknown> {
    return store.get("1");
  }
  await first(posts);

  const untyped = client.service<Record<string, (...args: unknown[]) => unknown>>("any");
  const result: unknown = await untyped["anything"]?.(1, "two");
  same<typeof result, unknown>(true);

  const sum: number = await client.invoke<number>("/hello/add", [1, 2]);
  const link = await client.openChannel<Post, string>("/room/joinChan", [String(sum)]);
  same<typeof link, Channel<Post, string>>(true);
}
