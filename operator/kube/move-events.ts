/**
 * Events that tell people which slots of a service have moved: `ResourceMoved`, on the LeverService.
 *
 * Coalesced: of what moves within `tellAfterMs` of a service there is one event, which says how many slots went where. The
 * first holder of a slot is no move.
 */

import type { Clock, TimerHandle } from "@leveros/protocol/clock/clock.ts";
import type { SlotRow } from "@leveros/protocol/control/discovery.ts";

const tellAfterMs = 5000;
/** Holders that are named; more of them tell nobody more. */
const namedMax = 5;

export interface MoveEventsOptions {
  readonly clock: Clock;
  /** Does not throw. */
  readonly record: (environment: string, service: string, note: string) => void;
}

interface Moves {
  readonly environment: string;
  readonly service: string;
  readonly timer: TimerHandle;
  /** Slots by their new holder. */
  readonly to: Map<string, number>;
}

export class MoveEvents {
  readonly #options: MoveEventsOptions;
  readonly #moves = new Map<string, Moves>();

  constructor(options: MoveEventsOptions) {
    this.#options = options;
  }

  /** These rows have come to a holder; `before` has the rows as they were. Gives how many have. */
  moved(environment: string, service: string, rows: readonly SlotRow[], before: readonly SlotRow[]): number {
    const moved = rows.filter(({ slot, holder, epoch }) => holder !== "" && epoch > (before[slot]?.epoch ?? 0));
    for (const { slot, holder } of moved) {
      if ((before[slot]?.epoch ?? 0) === 0) continue;
      const { to } = this.#of(environment, service);
      to.set(holder, (to.get(holder) ?? 0) + 1);
    }
    return moved.length;
  }

  /** What was not told is not told any more. */
  close(): void {
    for (const { timer } of this.#moves.values()) this.#options.clock.clearTimer(timer);
    this.#moves.clear();
  }

  #of(environment: string, service: string): Moves {
    const key = `${environment}/${service}`;
    let moves = this.#moves.get(key);
    if (moves === undefined) {
      const timer = this.#options.clock.setTimer(() => this.#tell(key), tellAfterMs);
      moves = { environment, service, timer, to: new Map() };
      this.#moves.set(key, moves);
    }
    return moves;
  }

  #tell(key: string): void {
    const moves = this.#moves.get(key);
    this.#moves.delete(key);
    if (moves === undefined) return;
    const holders = [...moves.to].sort(([a], [b]) => (a < b ? -1 : 1));
    const slots = holders.reduce((sum, [, count]) => sum + count, 0);
    const named = holders.slice(0, namedMax).map(([holder, count]) => `${count} to ${holder}`);
    const others = holders.length > namedMax ? `, and others to ${holders.length - namedMax} more instances` : "";
    const note = `${slots} ${slots === 1 ? "slot" : "slots"} of resources moved: ${named.join(", ")}${others}.`;
    this.#options.record(moves.environment, moves.service, note);
  }
}
