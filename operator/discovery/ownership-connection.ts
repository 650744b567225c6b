/**
 * One connection on `lever://lever-system/operator/ownershipChan`: an incarnation's with the leader.
 *
 * It owns what waits for a slow agent. Invariant: messages keep their order, of which only renewals' answers are free;
 * grants and all else that is said of slots is never dropped. What can be said together is: waiting messages of one kind
 * become one, and only the newest renewal is answered. More than `waitingMax` messages end the channel; the agent
 * connects again and is told anew. Nobody waits for this connection but itself.
 */

import type { Channel } from "@leveros/protocol/channel/channel.ts";
import { slotsMax } from "@leveros/protocol/control/discovery.ts";
import { decodeHolderMessage, type HolderIdentity, type LeaderMessage } from "@leveros/protocol/control/ownership.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import type { HolderLine, OwnershipLeader } from "../core/ownership/leader.ts";

/** Who takes holders on: the leader, or who refuses them because it does not lead. */
export type HolderDoor = Pick<OwnershipLeader, "connect">;

/** Messages that wait for a slow agent, unless set. */
export const waitingMessagesMax = 1000;

export class OwnershipConnection {
  readonly #waitingMax: number;
  #link: HolderLine | undefined;
  #channel: Channel<unknown, LeaderMessage> | undefined;
  #waiting: LeaderMessage[] = [];
  #isSending = false;
  #error: LeverError | undefined;

  constructor(waitingMax = waitingMessagesMax) {
    this.#waitingMax = waitingMax;
  }

  /** Throws what the leader refuses the incarnation with. */
  connect(leader: HolderDoor, identity: HolderIdentity): void {
    this.#link = leader.connect(
      identity,
      (message) => this.#send(message),
      (error) => this.#fail(error),
    );
  }

  async run(channel: Channel): Promise<void> {
    this.#channel = channel as Channel<unknown, LeaderMessage>;
    if (this.#error !== undefined) return this.#fail(this.#error);
    void this.#sendWaiting();
    for await (const value of channel) {
      const message = decodeHolderMessage(value);
      if (message !== undefined) this.#link?.message(message);
    }
  }

  end(): void {
    this.#channel = undefined;
    this.#waiting = [];
    this.#link?.lost();
  }

  #fail(error: LeverError): void {
    this.#error ??= error;
    this.#waiting = [];
    this.#channel?.fail({ reason: error.reason, message: error.rawMessage });
  }

  #send(message: LeaderMessage): void {
    if (this.#error !== undefined) return;
    const waiting = this.#waiting;
    if (!isTakenIn(waiting, message)) waiting.push(message);
    if (waiting.length > this.#waitingMax) {
      return this.#fail(
        new LeverError(
          "OVERLOADED",
          `${this.#waitingMax} messages wait to be read on this channel, the most that may; read faster, or connect anew`,
          { effect: "none", details: { limit: "waitingMessagesMax", waitingMax: this.#waitingMax } },
        ),
      );
    }
    void this.#sendWaiting();
  }

  async #sendWaiting(): Promise<void> {
    if (this.#isSending || this.#channel === undefined) return;
    this.#isSending = true;
    try {
      for (let message = this.#waiting.shift(); message !== undefined; message = this.#waiting.shift()) {
        await this.#channel?.send(message);
      }
    } catch {
      // The channel has ended: `run` learns of it too, and says why.
    } finally {
      this.#isSending = false;
    }
  }
}

/** Whether the message became a part of one that waits already. */
function isTakenIn(waiting: LeaderMessage[], message: LeaderMessage): boolean {
  if (message.type === "renewed") {
    const at = waiting.findIndex(({ type }) => type === "renewed");
    if (at >= 0) waiting[at] = message;
    return at >= 0;
  }
  const last = waiting.at(-1);
  if (last?.type !== message.type || last.slots.length + message.slots.length > slotsMax) return false;
  // Each list is of its message's own type.
  const slots = [...last.slots, ...message.slots];
  waiting[waiting.length - 1] = { type: message.type, slots } as LeaderMessage;
  return true;
}
