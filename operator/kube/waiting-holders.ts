/**
 * Holders that have come to a replica while it is not decided who leads. They stay connected: whoever becomes the leader
 * here takes them on at that moment, and if it is another one they are told to go there.
 *
 * Invariants: what a holder has said reaches the leader in its order, of which only old renewals are left out, since the
 * newest one says all that they did; nobody waits for longer than `waitMsMax`, and no holder says more than
 * `messagesMax`. That a renewal has waited makes a lease end later at the leader, and no later at its holder.
 */

import type { Clock } from "@leveros/protocol/clock/clock.ts";
import type { HolderMessage } from "@leveros/protocol/control/ownership.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import type { HolderLine, OwnershipLeader } from "../core/ownership/leader.ts";
import { leaderLeaseMs } from "./leader-election.ts";

const lookMs = 200;
/** A leader's lease is over by then; who cannot tell keeps nobody from asking others. */
const waitMsMax = leaderLeaseMs + 1000;
const messagesMax = 100;

type Connect = OwnershipLeader["connect"];
type Holder = Parameters<Connect>;

export interface WaitingHoldersOptions {
  readonly clock: Clock;
  readonly isUndecided: () => boolean;
  readonly notLeader: () => LeverError;
}

class WaitingHolder implements HolderLine {
  readonly holder: Holder;
  readonly sinceMs: number;
  readonly #onOver: (holder: WaitingHolder) => void;
  #said: HolderMessage[] = [];
  #line: HolderLine | undefined;
  #isOver = false;

  constructor(holder: Holder, sinceMs: number, onOver: (holder: WaitingHolder) => void) {
    this.holder = holder;
    this.sinceMs = sinceMs;
    this.#onOver = onOver;
  }

  message(message: HolderMessage): void {
    if (this.#line !== undefined) return this.#line.message(message);
    if (this.#isOver) return;
    if (message.type === "renew") this.#said = this.#said.filter(({ type }) => type !== "renew");
    this.#said.push(message);
    if (this.#said.length <= messagesMax) return;
    this.end(
      new LeverError("OVERLOADED", `${messagesMax} messages wait for a leader, the most that may; connect anew`, {
        effect: "none",
        details: { limit: "messagesMax", messagesMax },
      }),
    );
  }

  lost(): void {
    this.#onOver(this);
    this.#line?.lost();
  }

  end(error: LeverError): void {
    this.#isOver = true;
    this.#said = [];
    this.#onOver(this);
    const [, , onEnded] = this.holder;
    onEnded(error);
  }

  enter(connect: Connect): void {
    this.#onOver(this);
    try {
      this.#line = connect(...this.holder);
    } catch (error) {
      return this.end(LeverError.from(error) as LeverError);
    }
    const said = this.#said;
    this.#said = [];
    for (const message of said) this.#line.message(message);
  }
}

export class WaitingHolders {
  readonly #options: WaitingHoldersOptions;
  readonly #holders = new Set<WaitingHolder>();
  #timer: unknown;

  constructor(options: WaitingHoldersOptions) {
    this.#options = options;
  }

  get count(): number {
    return this.#holders.size;
  }

  add(...holder: Holder): HolderLine {
    const waiting = new WaitingHolder(holder, this.#options.clock.now(), (over) => this.#holders.delete(over));
    this.#holders.add(waiting);
    this.#timer ??= this.#options.clock.setTimer(() => this.#look(), lookMs);
    return waiting;
  }

  /** This one leads: all of them are taken on. */
  enter(connect: Connect): void {
    for (const holder of [...this.#holders]) holder.enter(connect);
  }

  #look(): void {
    const { clock, isUndecided, notLeader } = this.#options;
    this.#timer = undefined;
    const undecided = isUndecided();
    for (const holder of [...this.#holders]) {
      if (!undecided || clock.now() - holder.sinceMs > waitMsMax) holder.end(notLeader());
    }
    if (this.#holders.size > 0) this.#timer = clock.setTimer(() => this.#look(), lookMs);
  }
}
