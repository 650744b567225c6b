/** The service that the gateway's tests call. It counts what runs, to be compared with what errors say of it. */

import { type Channel, context, MethodError, type StandardSchema, validated, validatedChannel } from "leveros";

const text: StandardSchema<string> = {
  "~standard": {
    version: 1,
    vendor: "test",
    validate: (value) => (typeof value === "string" ? { value } : { issues: [{ message: "expected text" }] }),
  },
};

/** Takes longer than any test. */
const never: StandardSchema<unknown> = {
  "~standard": { version: 1, vendor: "test", validate: () => new Promise(() => {}) },
};

export interface Seen {
  readonly token: string | undefined;
  readonly traceparent: string | undefined;
  readonly tracestate: string | undefined;
  readonly metadata: Readonly<Record<string, string>>;
  readonly outside: boolean | undefined;
  readonly timeLeftMs: number | undefined;
}

export class Probe {
  /** Methods that were entered. */
  runs = 0;
  /** Of methods that wait: why their signal was aborted. */
  readonly aborts: unknown[] = [];
  /** Of channels: how their reading ended, `clean` or the error. */
  readonly ends: unknown[] = [];
  /** Messages that `takeChan` has read. */
  taken = 0;
  #waiting: (() => void)[] = [];

  /** Resolves when `count` methods have run since `since`. */
  async whenRuns(count: number): Promise<void> {
    while (this.runs < count) await this.#turn();
  }

  async when(condition: () => boolean): Promise<void> {
    while (!condition()) await this.#turn();
  }

  #turn(): Promise<void> {
    return new Promise((resolve) => setTimeout(resolve, 2));
  }

  readonly methods = {
    echo: (...args: unknown[]) => this.#run(() => (args.length === 1 ? args[0] : args)),
    sayHello: validated([text], (name) => this.#run(() => `Hello, ${name}!`)),
    seen: (): Seen =>
      this.#run(() => {
        const { token, traceparent, tracestate, metadata, caller, timeLeftMs } = context();
        return { token, traceparent, tracestate, metadata: { ...metadata }, outside: caller.outside, timeLeftMs };
      }),
    nothing: () => this.#run(() => undefined),
    bytes: (count: number) => this.#run(() => new Uint8Array(count).fill(7)),
    text: (count: number) => this.#run(() => "x".repeat(count)),
    failJson: (value: unknown) =>
      this.#run(() => {
        throw new MethodError(value);
      }),
    failBytes: () =>
      this.#run(() => {
        throw new MethodError(Uint8Array.of(1, 2, 3));
      }),
    throws: () =>
      this.#run(() => {
        throw new Error("a secret of the instance");
      }),
    notJson: () => this.#run(() => ({ when: new Date(0) })),
    /** Until `release`; tells of an abort. */
    waits: () =>
      this.#run(async () => {
        const { signal } = context();
        await new Promise<void>((resolve) => {
          this.#waiting.push(resolve);
          // It goes on all the same: an instance's clock may be ahead, and its answer would still be in time.
          signal.addEventListener("abort", () => this.aborts.push(signal.reason));
        });
        return "released";
      }),
    echoChan: (channel: Channel, ...args: unknown[]) =>
      this.#channel(async () => {
        if (args.length > 0) await channel.send(args.length === 1 ? args[0] : args);
        for await (const message of channel) await channel.send(message);
      }),
    textChan: validatedChannel([text], (channel: Channel, name: string) => this.#channel(() => channel.send(name))),
    neverChan: validatedChannel([never], () => this.#channel(async () => {})),
    failChan: (channel: Channel, after: number, value: unknown) =>
      this.#channel(async () => {
        for (let i = 0; i < after; i++) await channel.send(i);
        throw new MethodError(value);
      }),
    failBytesChan: (_channel: Channel) =>
      this.#channel(async () => {
        throw new MethodError(Uint8Array.of(9));
      }),
    refusesChan: (_channel: Channel) =>
      this.#channel(async () => {
        throw new Error("a secret of the instance");
      }),
    /** Returns after the first message, whatever is still sent. */
    firstChan: (channel: Channel) => this.#channel(async () => channel.send((await channel.receive()) ?? null)),
    /** Ends its own direction at once, and reads on. */
    takeChan: (channel: Channel) =>
      this.#channel(async () => {
        channel.closeWrite();
        for await (const _ of channel) this.taken++;
      }),
    /** Sends as much as the reader takes. */
    pourChan: (channel: Channel, messageBytes: number) =>
      this.#channel(async () => {
        const message = "x".repeat(messageBytes);
        for (;;) {
          await channel.send(message);
          this.taken++;
        }
      }),
    /** Reads nothing until `release`. */
    stallChan: (channel: Channel) =>
      this.#channel(async () => {
        await new Promise<void>((resolve) => {
          this.#waiting.push(resolve);
          channel.signal.addEventListener("abort", () => resolve());
        });
        for await (const _ of channel) this.taken++;
      }),
  };

  /** Lets everything go on that waits. */
  release(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const resolve of waiting) resolve();
  }

  #run<Result>(method: () => Result): Result {
    this.runs++;
    return method();
  }

  async #channel(method: () => Promise<unknown>): Promise<void> {
    this.runs++;
    try {
      await method();
      this.ends.push("clean");
    } catch (error) {
      this.ends.push(error);
      throw error;
    }
  }
}
