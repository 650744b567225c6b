/**
 * The stream of one incarnation to the operator's leader, `lever://lever-system/operator/ownershipChan`: connects, and
 * again after each end, with who the incarnation is and what it holds at that moment. What is said on it is the
 * holder's (`slot-holder.ts`).
 */

import type { Channel } from "@leveros/protocol/channel/channel.ts";
import type { Clock, Random } from "@leveros/protocol/clock/clock.ts";
import { isAddress } from "@leveros/protocol/control/discovery.ts";
import {
  decodeLeaderMessage,
  type HolderIdentity,
  type HolderMessage,
  type LeaderMessage,
  ownershipMethod,
} from "@leveros/protocol/control/ownership.ts";
import type { Session } from "@leveros/protocol/session/session.ts";
import { defaultOperatorChannelLimits, OperatorChannel } from "../operator-channel.ts";

export interface LeaderLinkOptions {
  readonly clock: Clock;
  readonly random: Random;
  /** To the replica of the operator at this address, which is said to lead; undefined: to any. */
  dial(leader: string | undefined): Promise<Session>;
  /** Asked for at each connect. */
  identity(): HolderIdentity;
  onOpen(): void;
  /** What it throws ends the connection. */
  onMessage(message: LeaderMessage): void;
  /** The leader knows that the incarnation is over. */
  onOver(): void;
}

/** A lease does not wait as long as a table may. */
const limits = { ...defaultOperatorChannelLimits, connectTimeoutMs: 2000, backoffMaxMs: 1000 };

export class LeaderLink {
  readonly #connection: OperatorChannel;
  #channel: Channel<unknown, HolderMessage> | undefined;
  /** What was said since a channel, that is not open yet, was told who the holder is. */
  #unsaid: HolderMessage[] | undefined;
  /** Who leads, as a replica that does not has said. */
  #leader: string | undefined;

  constructor(options: LeaderLinkOptions) {
    this.#connection = new OperatorChannel({
      clock: options.clock,
      random: options.random,
      limits,
      method: ownershipMethod,
      dial: () => options.dial(this.#leader),
      argument: () => {
        this.#unsaid = [];
        return options.identity();
      },
      onOpen: (channel) => {
        this.#channel = channel as Channel<unknown, HolderMessage>;
        for (const message of this.#unsaid ?? []) this.send(message);
        this.#unsaid = undefined;
        options.onOpen();
      },
      onMessage: (value) => {
        const message = decodeLeaderMessage(value);
        if (message !== undefined) options.onMessage(message);
      },
      onEnd: () => {
        this.#channel = undefined;
      },
      onDisconnected: (error) => {
        this.#unsaid = undefined;
        const { leader } = error.reason === "NOT_LEADER" ? (error.details ?? {}) : {};
        this.#leader = typeof leader === "string" && isAddress(leader) ? leader : undefined;
        if (error.reason === "LEASE_LAPSED") options.onOver();
      },
    });
  }

  get isOpen(): boolean {
    return this.#channel !== undefined;
  }

  /** Without a connection nothing is sent: the next one begins with all that is so. */
  send(message: HolderMessage): void {
    if (this.#channel === undefined) this.#unsaid?.push(message);
    // Who reads the channel learns of its end too.
    else this.#channel.send(message).catch(() => {});
  }

  close(): void {
    this.#connection.close();
  }
}
