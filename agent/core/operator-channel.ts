/**
 * One channel to the operator, for as long as it is wanted: dials, opens it, and after its end dials again with
 * exponential back-off and full jitter (AWS Architecture Blog, 2015). What is said on it is for its owner, and how a
 * connection is made for the host.
 */

import { Channel } from "@leveros/protocol/channel/channel.ts";
import { startChannel } from "@leveros/protocol/channel/open-channel.ts";
import type { Clock, Random } from "@leveros/protocol/clock/clock.ts";
import { operatorEnvironment, operatorService } from "@leveros/protocol/control/discovery.ts";
import { DeadlineWheel } from "@leveros/protocol/deadline/deadline-wheel.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { AssemblyBudget } from "@leveros/protocol/invocation/assembly.ts";
import type { CallerRuntime } from "@leveros/protocol/invocation/outgoing-stream.ts";
import type { Session } from "@leveros/protocol/session/session.ts";
import { Target } from "@leveros/protocol/target/target.ts";
import { encodeArgs } from "@leveros/protocol/value/form.ts";

export interface OperatorChannelLimits {
  /** How long dialling and opening the channel may take, each. */
  readonly connectTimeoutMs: number;
  /** The wait before the n-th try to connect again is random, from 0 to `backoffMinMs` × 2^(n-1), or `backoffMaxMs`. */
  readonly backoffMinMs: number;
  readonly backoffMaxMs: number;
  /** A connection that lived this long starts the count of tries anew. */
  readonly stableMs: number;
}

export const defaultOperatorChannelLimits: OperatorChannelLimits = {
  connectTimeoutMs: 5000,
  backoffMinMs: 100,
  backoffMaxMs: 10_000,
  stableMs: 10_000,
};

export interface OperatorChannelOptions {
  readonly clock: Clock;
  readonly random: Random;
  readonly limits: OperatorChannelLimits;
  /** Of the operator: a streaming one. */
  readonly method: string;
  /** A started session on the dialer's side, which belongs to this channel from then on. */
  dial(): Promise<Session>;
  /** What the channel is opened with, asked for at each connect. */
  argument(): unknown;
  /** The channel is open. Does not throw. */
  onOpen(channel: Channel<unknown, unknown>): void;
  /** What it throws ends this connection. */
  onMessage(message: unknown): void;
  /** The channel that was open is over. Does not throw. */
  onEnd(): void;
  /** Why a try to connect has failed, or the channel is over. Not called after `close`. Does not throw. */
  onDisconnected(error: LeverError): void;
}

/** Messages are small; what is half received of one is far below this. */
const assemblyBytesMax = 16 * 1024 * 1024;
const noFields = new Uint8Array(0);

/** Connects as soon as it is made, until it is closed. */
export class OperatorChannel {
  readonly #options: OperatorChannelOptions;
  readonly #runtime: CallerRuntime;
  readonly #target: Target;
  #channel: Channel<unknown, unknown> | undefined;
  #failures = 0;
  #isClosed = false;
  /** Ends the wait that `#run` is in. */
  #wake: (() => void) | undefined;

  constructor(options: OperatorChannelOptions) {
    this.#options = options;
    const { clock } = options;
    this.#target = new Target(operatorEnvironment, operatorService, options.method);
    this.#runtime = {
      wheel: new DeadlineWheel(clock),
      budget: new AssemblyBudget(assemblyBytesMax),
      now: () => clock.now(),
    };
    void this.#run();
  }

  /** Ends the channel, after what was sent on it, and stops dialling. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#channel?.close();
    this.#wake?.();
  }

  async #run(): Promise<void> {
    while (!this.#isClosed) {
      let error: LeverError;
      try {
        await this.#connectOnce();
        error = new LeverError("CONNECTION_LOST", "the operator ended the channel", { effect: "none" });
      } catch (thrown) {
        error = LeverError.is(thrown)
          ? thrown
          : new LeverError("CONNECTION_LOST", thrown instanceof Error ? thrown.message : String(thrown), {
              cause: thrown,
            });
      }
      if (this.#isClosed) return;
      this.#options.onDisconnected(error);
      await this.#backOff();
    }
  }

  #backOff(): Promise<void> {
    const { clock, random, limits } = this.#options;
    const ceilingMs = Math.min(limits.backoffMaxMs, limits.backoffMinMs * 2 ** Math.min(this.#failures, 30));
    this.#failures++;
    return new Promise((resolve) => {
      const timer = clock.setTimer(resolve, random() * ceilingMs);
      this.#wake = () => {
        clock.clearTimer(timer);
        resolve();
      };
    });
  }

  /** Resolves at the channel's clean end. */
  async #connectOnce(): Promise<void> {
    const { clock, limits } = this.#options;
    const session = await this.#dial();
    if (session === undefined) return;
    try {
      if (this.#isClosed) return;
      // A close that comes while the channel opens.
      this.#wake = () => session.close(stopping());
      const args = encodeArgs([this.#options.argument()]);
      const raw = await startChannel(this.#runtime, session, this.#target, args, {
        timeoutMs: limits.connectTimeoutMs,
        fields: noFields,
      });
      const channel = new Channel<unknown, unknown>(raw);
      if (this.#isClosed) return channel.close();
      this.#wake = undefined;
      const openedAt = clock.now();
      this.#channel = channel;
      this.#options.onOpen(channel);
      try {
        for await (const message of channel) this.#options.onMessage(message);
      } finally {
        this.#channel = undefined;
        this.#options.onEnd();
        if (clock.now() - openedAt >= limits.stableMs) this.#failures = 0;
      }
    } finally {
      session.close(stopping());
    }
  }

  /** Undefined if closed meanwhile. A session that comes too late is closed. */
  #dial(): Promise<Session | undefined> {
    const { clock, limits } = this.#options;
    return new Promise((resolve, reject) => {
      let isSettled = false;
      const timer = clock.setTimer(() => {
        isSettled = true;
        reject(
          new LeverError(
            "CONNECTION_LOST",
            `the operator was not reached within ${limits.connectTimeoutMs} ms of dialling`,
            { effect: "none" },
          ),
        );
      }, limits.connectTimeoutMs);
      this.#wake = () => {
        clock.clearTimer(timer);
        isSettled = true;
        resolve(undefined);
      };
      // What `dial` throws at once is a failed try like any.
      new Promise<Session>((dialled) => dialled(this.#options.dial())).then(
        (session) => {
          clock.clearTimer(timer);
          if (isSettled) session.close(stopping());
          else resolve(session);
        },
        (error) => {
          clock.clearTimer(timer);
          reject(error);
        },
      );
    });
  }
}

function stopping(): LeverError {
  return new LeverError("CANCELLED", "the agent ends its connection with the operator", { effect: "none" });
}
