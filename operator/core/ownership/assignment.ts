/**
 * Which slot goes where: a pure function from members and places to moves.
 *
 * Slots that nobody holds go first, each to the member with the fewest. Those of members that leave go next. Then slots
 * go from the member with the most to the one with the fewest until their counts differ by one at most: that takes the
 * fewest moves, since every one of them reduces the greatest excess, the greatest want, or both. It is asked again
 * after each change; what is under way counts for where it goes.
 */

export interface Member {
  /** An instance's id. */
  readonly id: string;
  /** It is to have no slots: it is about to stop. */
  readonly isLeaving: boolean;
  /** It can be told to take slots. One that cannot, for now, keeps what it has. */
  readonly canReceive: boolean;
}

export interface Place {
  readonly slot: number;
  /** A member's id; of another holder, that is no member, the slot stays. Undefined: nobody holds it. */
  readonly owner: string | undefined;
  /** Its owner can be told to drain it, and it is not under way. */
  readonly isMovable: boolean;
  /** It is not to be moved for balance, for a while. */
  readonly isResting: boolean;
}

export interface Assignment {
  readonly slot: number;
  readonly to: string;
  readonly why: "free" | "leaving" | "rebalance";
}

/** How many moves may be begun now, for each reason. */
export interface AssignmentLimits {
  readonly leavingMax: number;
  readonly rebalanceMax: number;
}

export function assign(
  members: readonly Member[],
  places: readonly Place[],
  limits: AssignmentLimits,
): readonly Assignment[] {
  const receivers = members.filter(({ isLeaving, canReceive }) => !isLeaving && canReceive);
  if (receivers.length === 0) return [];
  const counts = new Map(members.map(({ id }) => [id, 0]));
  const leaving = new Set(members.filter(({ isLeaving }) => isLeaving).map(({ id }) => id));

  const free: number[] = [];
  const leavingSlots: number[] = [];
  const movable = new Map<string, number[]>();
  for (const { slot, owner, isMovable, isResting } of places) {
    if (owner === undefined) {
      free.push(slot);
      continue;
    }
    const count = counts.get(owner);
    if (count === undefined) continue;
    counts.set(owner, count + 1);
    if (!isMovable) continue;
    if (leaving.has(owner)) leavingSlots.push(slot);
    else if (!isResting) {
      const slots = movable.get(owner);
      if (slots === undefined) movable.set(owner, [slot]);
      else slots.push(slot);
    }
  }

  const assignments: Assignment[] = [];
  const takers = new Levels();
  for (const { id } of receivers) takers.put(id, counts.get(id) as number);
  const give = (slot: number, why: Assignment["why"]) => {
    const to = takers.at(takers.lowestCount);
    assignments.push({ slot, to, why });
    takers.shift(to, 1);
    return to;
  };
  for (const slot of free) give(slot, "free");
  for (const slot of leavingSlots.slice(0, Math.max(0, limits.leavingMax))) give(slot, "leaving");
  for (const { id } of receivers) counts.set(id, takers.countOf(id));

  // Who cannot receive for now is still to get its share later: nobody goes below an even one for others' sake.
  const evenShare = Math.floor(places.length / (members.length - leaving.size));
  const givers = new Levels();
  for (const id of movable.keys()) givers.put(id, counts.get(id) as number);
  for (let left = limits.rebalanceMax; left > 0 && !givers.isEmpty; ) {
    const count = givers.highestCount;
    if (count - takers.lowestCount < 2 || count <= evenShare) break;
    const from = givers.at(count);
    const slot = movable.get(from)?.shift();
    if (slot === undefined) {
      // The rest of what it has cannot move now: the next highest gives.
      givers.remove(from);
      continue;
    }
    givers.shift(give(slot, "rebalance"), 1);
    givers.shift(from, -1);
    takers.shift(from, -1);
    left--;
  }
  return assignments;
}

/** Members by their counts of slots; of equal ones the first that came to that count comes first. */
class Levels {
  readonly #levels: Set<string>[] = [];
  readonly #counts = new Map<string, number>();
  #lowest = 0;

  put(id: string, count: number): void {
    this.#counts.set(id, count);
    while (this.#levels.length <= count) this.#levels.push(new Set());
    this.#levels[count]?.add(id);
    if (count < this.#lowest) this.#lowest = count;
  }

  remove(id: string): void {
    const count = this.#counts.get(id);
    if (count === undefined) return;
    this.#counts.delete(id);
    this.#levels[count]?.delete(id);
  }

  /** Nothing for one that is not in. */
  shift(id: string, by: number): void {
    const count = this.#counts.get(id);
    if (count === undefined) return;
    this.remove(id);
    this.put(id, count + by);
  }

  get isEmpty(): boolean {
    return this.#counts.size === 0;
  }

  countOf(id: string): number {
    return this.#counts.get(id) ?? 0;
  }

  at(count: number): string {
    for (const id of this.#levels[count] ?? []) return id;
    throw new RangeError(`no member has ${count} slots`);
  }

  get lowestCount(): number {
    while (this.#lowest < this.#levels.length && this.#levels[this.#lowest]?.size === 0) this.#lowest++;
    return this.#lowest;
  }

  get highestCount(): number {
    while (this.#levels.length > 1 && this.#levels.at(-1)?.size === 0) this.#levels.pop();
    return this.#levels.length - 1;
  }
}
