/** Channels between a client and a method, over two agents. */

import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { type Channel, context, LeverError, MethodError, validatedChannel } from "./index.ts";
import { TestEnvironment } from "./testing/index.ts";
import type { StandardSchema } from "./validated.ts";

/** What methods saw, in order. */
let log: unknown[] = [];
const reported: unknown[] = [];
const unhandled: unknown[] = [];
const onUnhandled = (reason: unknown) => unhandled.push(reason);

const whole: StandardSchema<number> = {
  "~standard": {
    version: 1,
    vendor: "test",
    validate: (value) =>
      Number.isInteger(value) ? { value: value as number } : { issues: [{ message: "expected a whole number" }] },
  },
};

/** What a method's reading ended with. */
async function readAll(channel: Channel): Promise<void> {
  try {
    for await (const message of channel) log.push(message);
    log.push("end");
  } catch (error) {
    log.push(error);
    throw error;
  }
}

const methods = {
  async echoChan(channel: Channel) {
    for await (const message of channel) await channel.send(message);
    await channel.send("bye");
  },
  async countChan(channel: Channel<never, number>, count: number) {
    for (let index = 0; index < count; index++) await channel.send(index);
  },
  async readChan(channel: Channel) {
    await readAll(channel);
  },
  async argumentsChan(channel: Channel, ...args: unknown[]) {
    await channel.send(context().timeLeftMs ?? null);
    for (const arg of args) await channel.send(arg);
  },
  async throwsInLoopChan(channel: Channel<string>, value: unknown) {
    for await (const message of channel) if (message === "throw") throw new MethodError(value);
  },
  async throwsUnexpectedlyChan(channel: Channel<string>) {
    for await (const _ of channel) throw new TypeError("unexpected");
  },
  async throwsBeforeReadingChan(_channel: Channel) {
    throw new MethodError("at once");
  },
  throwsSynchronouslyChan(_channel: Channel) {
    throw new MethodError("synchronously");
  },
  async leavesEarlyChan(channel: Channel<string, string>) {
    for await (const message of channel) if (message === "stop") break;
    await channel.send("left");
  },
  async failsChan(channel: Channel<string, string>, value: unknown) {
    await channel.send("before");
    channel.fail(value);
    log.push(channel.isEnded, channel.trySend("after"));
    await channel.send("after").catch((error) => log.push(LeverError.from(error).reason));
  },
  async halfCloseChan(channel: Channel<string, string>) {
    await channel.send("first");
    channel.closeWrite();
    await readAll(channel);
  },
  async closesChan(channel: Channel) {
    channel.close();
    await sleep(30);
    log.push("ended");
  },
  async cancelsChan(channel: Channel) {
    await channel.receive();
    channel.cancel();
  },
  async floodChan(channel: Channel<never, Uint8Array>) {
    let sent = 0;
    while (channel.trySend(new Uint8Array(10_000))) sent++;
    log.push(sent);
    channel.fail({ error: "TOO_SLOW" });
  },
  async pushesChan(channel: Channel<never, Uint8Array>) {
    let sent = 0;
    log.push(() => sent);
    for (; sent < 1000; sent++) await channel.send(new Uint8Array(10_000));
  },
  async badMessageChan(channel: Channel) {
    for (const message of [undefined, { when: new Date() }, [new Uint8Array(1)]]) {
      await channel.send(message).catch((error) => log.push(LeverError.from(error).reason));
    }
    await channel.send("still open");
  },
  async waitsChan(channel: Channel) {
    await new Promise((resolve) => channel.signal.addEventListener("abort", resolve));
    log.push(channel.signal.reason, context().signal.aborted);
  },
  async failsLateChan(channel: Channel) {
    await new Promise((resolve) => channel.signal.addEventListener("abort", resolve));
    throw new TypeError("after the end");
  },
  checkedChan: validatedChannel([whole], async (channel: Channel<never, number>, count) => {
    log.push("entered");
    await channel.send(count);
  }),
};

let env: TestEnvironment;
beforeAll(async () => {
  process.on("unhandledRejection", onUnhandled);
  env = await TestEnvironment.start({ room: { methods, instances: 2 } }, { onError: (error) => reported.push(error) });
});
afterAll(async () => {
  await env[Symbol.asyncDispose]();
  process.off("unhandledRejection", onUnhandled);
});
afterEach(async () => {
  // A turn later the runtime knows of all that nobody has handled.
  await sleep(5);
  expect(unhandled.splice(0)).toEqual([]);
  expect(reported.splice(0)).toEqual([]);
  log = [];
});

function room() {
  return env.client.service<typeof methods>("room");
}

async function collect<Message>(channel: Channel<Message, never> | Channel<Message>): Promise<Message[]> {
  const messages: Message[] = [];
  for await (const message of channel as Channel<Message>) messages.push(message);
  return messages;
}

async function until(isTrue: () => boolean): Promise<void> {
  while (!isTrue()) await sleep(1);
}

describe("messages", () => {
  it("go both ways in order, JSON and bytes, until the caller's half-close", async () => {
    await using channel = await room().echoChan();
    const messages = [1, "two", { three: [3] }, null, new Uint8Array([4]), new Uint8Array(0), [], false];
    for (const message of messages) await channel.send(message);
    channel.closeWrite();
    expect(await collect(channel)).toEqual([...messages, "bye"]);
    expect(channel.isEnded).toBe(true);
    expect(channel.signal.aborted).toBe(false);
  });

  it("are many, and large", async () => {
    await using channel = await room().echoChan();
    const large = new Uint8Array(3_000_000).map((_, index) => index * 31);
    const reading = collect(channel);
    for (let index = 0; index < 2000; index++) await channel.send(index);
    await channel.send(large);
    channel.closeWrite();
    const back = await reading;
    expect(back.slice(0, 2000)).toEqual(Array.from({ length: 2000 }, (_, index) => index));
    expect(Buffer.compare(back[2000] as Uint8Array, large)).toBe(0);
    expect(back[2001]).toBe("bye");
  });

  it("are one at a time by receive, undefined at the clean end", async () => {
    await using channel = await room().countChan(2);
    expect([
      await channel.receive(),
      await channel.receive(),
      await channel.receive(),
      await channel.receive(),
    ]).toEqual([0, 1, undefined, undefined]);
  });

  it("are memory of the sender's again when send returns", async () => {
    await using channel = await room().echoChan();
    const buffer = new Uint8Array([1, 2, 3]);
    const sending = channel.send(buffer);
    buffer.fill(9);
    await sending;
    expect(await channel.receive()).toEqual(new Uint8Array([1, 2, 3]));
  });

  it("that cannot be sent are refused to who sends them, and the channel goes on", async () => {
    await using channel = await room().badMessageChan();
    expect(await channel.receive()).toBe("still open");
    expect(log).toEqual(["VALUE_NOT_ENCODABLE", "VALUE_NOT_ENCODABLE", "VALUE_NOT_ENCODABLE"]);
    await using other = await room().echoChan();
    await expect(other.send(undefined)).rejects.toMatchObject({ reason: "VALUE_NOT_ENCODABLE", kind: "arguments" });
    expect(() => other.trySend(5n)).toThrow(expect.objectContaining({ reason: "VALUE_NOT_ENCODABLE" }));
    await other.send("fine");
    expect(await other.receive()).toBe("fine");
  });
});

describe("opening", () => {
  it("gives the arguments, none or bytes too, and its time is over when the channel is open", async () => {
    for (const args of [[], ["Ada", [5], null], [new Uint8Array([1, 2])], [new Uint8Array(500_000)]]) {
      await using channel = await env.client.openChannel("/room/argumentsChan", args, { timeoutMs: 5000 });
      expect(await collect(channel)).toEqual([null, ...args]);
    }
  });

  it("outlives its deadline", async () => {
    await using channel = await env.client.service<typeof methods>("room").with({ timeoutMs: 50 }).echoChan();
    await sleep(120);
    await channel.send("still here");
    expect(await channel.receive()).toBe("still here");
  });

  it("is refused for wrong arguments, before the method is entered", async () => {
    await expect(room().checkedChan(1.5)).rejects.toMatchObject({ reason: "INVALID_ARGUMENTS", effect: "none" });
    expect(log).toEqual([]);
    await using channel = await room().checkedChan(5);
    expect(await collect(channel)).toEqual([5]);
  });

  it("succeeds before a method throws: the error is the channel's", async () => {
    for (const name of ["throwsBeforeReadingChan", "throwsSynchronouslyChan"] as const) {
      await using channel = await room()[name]();
      await expect(channel.receive()).rejects.toMatchObject({ reason: "METHOD_ERROR", effect: "ran" });
    }
  });
});

describe("ends", () => {
  it("a method that returns ends its direction cleanly, and reads no more", async () => {
    await using channel = await room().countChan(3);
    expect(await collect(channel)).toEqual([0, 1, 2]);
    // The caller's own direction is still open; what it sends is dropped.
    await channel.send("nobody reads this" as never);
    expect(channel.isEnded).toBe(false);
    channel.closeWrite();
    expect(channel.isEnded).toBe(true);
  });

  it("a MethodError thrown within the loop is what the caller's loop throws", async () => {
    for (const value of [{ error: "NO" }, "text", null, new Uint8Array([1, 2])]) {
      await using channel = await room().throwsInLoopChan(value);
      await channel.send("go on");
      await channel.send("throw");
      const error = await collect(channel).catch((thrown: unknown) => thrown);
      expect(MethodError.is(error) && error.value).toEqual(value);
      await expect(channel.send("more")).rejects.toBe(error);
      expect([channel.isEnded, channel.signal.aborted, channel.signal.reason]).toEqual([true, true, error]);
    }
  });

  it("anything else that is thrown is reported there, and METHOD_THREW here", async () => {
    await using channel = await room().throwsUnexpectedlyChan();
    await channel.send("go");
    await expect(channel.receive()).rejects.toMatchObject({
      reason: "METHOD_THREW",
      effect: "ran",
      message: expect.stringContaining("TypeError: unexpected"),
    });
    expect(reported.splice(0)).toEqual([new TypeError("unexpected")]);
  });

  it("a method that leaves its loop early goes on to send", async () => {
    await using channel = await room().leavesEarlyChan();
    await channel.send("go on");
    await channel.send("stop");
    await channel.send("dropped");
    expect(await collect(channel)).toEqual(["left"]);
  });

  it("fail gives the peer the value after what was sent, and nothing can be sent after it", async () => {
    await using channel = await room().failsChan({ error: "FAILED" });
    expect(await channel.receive()).toBe("before");
    const error = await channel.receive().catch((thrown: unknown) => thrown);
    expect(MethodError.is(error) && error.value).toEqual({ error: "FAILED" });
    await until(() => log.length === 3);
    expect(log).toEqual([true, false, "CANCELLED"]);
  });

  it("fail from the caller ends the method's loop with the value", async () => {
    for (const value of [{ error: "GIVE UP" }, new Uint8Array([7])]) {
      await using channel = await room().readChan();
      await channel.send("last");
      channel.fail(value);
      await until(() => log.length === 2);
      const [message, error] = log;
      expect(message).toBe("last");
      expect(MethodError.is(error) && error.value).toEqual(value);
      await expect(channel.receive()).rejects.toMatchObject({ reason: "CANCELLED" });
      log = [];
    }
  });

  it("either side may half-close first, and go on to read", async () => {
    await using channel = await room().halfCloseChan();
    expect(await collect(channel)).toEqual(["first"]);
    await channel.send("one");
    await channel.send("two");
    channel.closeWrite();
    await expect(channel.send("three")).rejects.toMatchObject({ reason: "CANCELLED" });
    expect(channel.trySend("three")).toBe(false);
    await until(() => log.length === 3);
    expect(log).toEqual(["one", "two", "end"]);
    expect(channel.isEnded).toBe(true);
  });

  it("close drops what still comes in", async () => {
    const channel = await room().countChan(100_000);
    expect(await channel.receive()).toBe(0);
    channel.close();
    expect(await collect(channel)).toEqual([]);
    await until(() => channel.isEnded);
    expect(channel.signal.aborted).toBe(false);
  });

  it("a method that closes ends the caller's loop, and may go on with other work", async () => {
    await using channel = await room().closesChan();
    expect(await collect(channel)).toEqual([]);
    expect(log).toEqual([]);
    await until(() => log.length === 1);
  });

  it("cancel is a network error at the other end", async () => {
    const channel = await room().readChan();
    await channel.send("last");
    await until(() => log.length === 1);
    channel.cancel();
    await until(() => log.length === 2);
    expect(log[1]).toMatchObject({ reason: "CANCELLED", kind: "network", effect: "ran" });
    await expect(channel.receive()).rejects.toMatchObject({ reason: "CANCELLED" });

    await using other = await room().cancelsChan();
    await other.send("go");
    await expect(other.receive()).rejects.toMatchObject({ reason: "CANCELLED", kind: "network" });
  });

  it("a caller that leaves its loop early cancels", async () => {
    const channel = await room().countChan(1_000_000);
    for await (const message of channel) if (message === 5) break;
    await until(() => channel.isEnded);
    await expect(channel.receive()).rejects.toMatchObject({ reason: "CANCELLED" });
    const other = await room().waitsChan();
    await expect(
      (async () => {
        const pushed = await room().countChan(10);
        for await (const _ of pushed) throw new Error("the caller's own");
      })(),
    ).rejects.toThrow("the caller's own");
    other.cancel();
    await until(() => log.length === 2);
  });

  it("disposal closes: the method's loop ends cleanly", async () => {
    {
      await using channel = await room().readChan();
      await channel.send("one");
    }
    await until(() => log.length === 2);
    expect(log).toEqual(["one", "end"]);
  });

  it("a signal cancels the open channel", async () => {
    const controller = new AbortController();
    const channel = await env.client.service<typeof methods>("room").with({ signal: controller.signal }).waitsChan();
    controller.abort(new Error("enough"));
    await until(() => log.length === 2);
    expect(log).toEqual([expect.objectContaining({ reason: "CANCELLED" }), true]);
    await expect(channel.receive()).rejects.toMatchObject({ reason: "CANCELLED", cause: { message: "enough" } });
  });

  it("what a method throws after its channel's end is reported all the same", async () => {
    const channel = await room().failsLateChan();
    channel.cancel();
    await until(() => reported.length === 1);
    expect(reported.splice(0)).toEqual([new TypeError("after the end")]);
  });

  it("an instance that is killed is a network error for both ends", async () => {
    await using own = await TestEnvironment.start({ room: { methods, instances: 1 } });
    const channel = await own.client.service<typeof methods>("room").waitsChan();
    const reading = channel.receive();
    const sending = channel.send("on its way");
    await sending;
    await own.kill("room-1");
    await expect(reading).rejects.toMatchObject({ kind: "network", effect: "ran" });
    await expect(channel.send("more")).rejects.toMatchObject({ kind: "network" });
    await until(() => log.length === 2);
    expect(log).toEqual([expect.objectContaining({ kind: "network" }), true]);
  });

  it("a clean end that has arrived stays one, whatever becomes of the other direction", async () => {
    await using own = await TestEnvironment.start({ room: { methods, instances: 1 } });
    const channel = await own.client.service<typeof methods>("room").countChan(3);
    // Everything is here after so many turns of the loop, however fast they are.
    for (let turn = 0; turn < 200; turn++) await new Promise((resolve) => setImmediate(resolve));
    await own.kill("room-1");
    await until(() => channel.signal.aborted);
    expect(await collect(channel)).toEqual([0, 1, 2]);
    await expect(channel.send(1 as never)).rejects.toMatchObject({ kind: "network", effect: "ran" });
  });

  it("an instance that stops waits for its channels, whose methods see it coming", async () => {
    const seen: string[] = [];
    await using own = await TestEnvironment.start({
      room: {
        instances: 2,
        methods: {
          async tickChan(channel: Channel<never, string>) {
            const { draining, instance } = context();
            await channel.send(instance);
            await new Promise((resolve) => draining.addEventListener("abort", resolve));
            seen.push("draining");
            await sleep(20);
            await channel.send("last words");
          },
        },
      },
    });
    const channel = await own.client.openChannel<string>("/room/tickChan");
    const instance = (await channel.receive()) as string;
    const stopped = own.stop(instance).then(() => seen.push("stopped"));
    expect(await collect(channel)).toEqual(["last words"]);
    await stopped;
    expect(seen).toEqual(["draining", "stopped"]);
    await using other = await own.client.openChannel<string>("/room/tickChan");
    expect(await other.receive()).not.toBe(instance);
  });
});

describe("back-pressure", () => {
  it("trySend is false when the reader is too slow", async () => {
    await using channel = await room().floodChan();
    await until(() => log.length === 1);
    // The windows of the session between app and agent bound what it could send, far below all that there is.
    expect(log[0]).toBeGreaterThan(3);
    expect(log[0]).toBeLessThan(100);
    const error = await collect(channel).catch((thrown: unknown) => thrown);
    expect(MethodError.is(error) && error.value).toEqual({ error: "TOO_SLOW" });
  });

  it("send waits for a reader that stalls, and goes on with it", async () => {
    await using channel = await room().pushesChan();
    await until(() => log.length === 1);
    const sent = log[0] as () => number;
    await sleep(50);
    const stalledAt = sent();
    expect(stalledAt).toBeLessThan(200);
    await sleep(50);
    expect(sent()).toBe(stalledAt);
    // Calls on the same connections go on meanwhile.
    await using other = await room().echoChan();
    await other.send("passes");
    expect(await other.receive()).toBe("passes");
    let bytes = 0;
    for await (const part of channel) bytes += part.length;
    expect(bytes).toBe(10_000_000);
  });
});
