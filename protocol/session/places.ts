/**
 * Places that many share: so many in all, and so many of them for one key (an address, an identity), so that no key takes
 * all. It counts who holds them; whether one more is refused or an older one has to go is for its owner to say.
 *
 * Invariant: nothing is kept of a key that holds no place.
 */

export interface PlacesLimits {
  /** In all; no limit unless set. */
  readonly max?: number;
  readonly ofKeyMax: number;
}

/** What is in the way of one more. */
export interface TakenPlaces<Holder> {
  /** Those of the key alone, or all. */
  readonly areOfKey: boolean;
  readonly max: number;
  /** Who came first is first; at least one. */
  readonly holders: Iterable<Holder>;
  readonly oldest: Holder;
}

export class Places<Holder> {
  readonly #limits: PlacesLimits;
  /** With their keys; who came first is first, here and below. */
  readonly #holders = new Map<Holder, string>();
  readonly #ofKey = new Map<string, Set<Holder>>();

  /** Both limits are at least 1. */
  constructor(limits: PlacesLimits) {
    this.#limits = limits;
  }

  get count(): number {
    return this.#holders.size;
  }

  /** Undefined: there is a place for one more of `key`. */
  inTheWayOf(key: string): TakenPlaces<Holder> | undefined {
    const { max = Number.POSITIVE_INFINITY, ofKeyMax } = this.#limits;
    const ofKey = this.#ofKey.get(key);
    if (ofKey !== undefined && ofKey.size >= ofKeyMax) {
      return { areOfKey: true, max: ofKeyMax, holders: ofKey, oldest: firstOf(ofKey) };
    }
    if (this.#holders.size < max) return undefined;
    return { areOfKey: false, max, holders: this.#holders.keys(), oldest: firstOf(this.#holders.keys()) };
  }

  /** `holder` has none yet. It is not refused here: ask `inTheWayOf` first. */
  take(key: string, holder: Holder): void {
    this.#holders.set(holder, key);
    const ofKey = this.#ofKey.get(key);
    if (ofKey === undefined) this.#ofKey.set(key, new Set([holder]));
    else ofKey.add(holder);
  }

  /** Nothing happens if it has none. */
  free(holder: Holder): void {
    const key = this.#holders.get(holder);
    if (key === undefined) return;
    this.#holders.delete(holder);
    const ofKey = this.#ofKey.get(key);
    ofKey?.delete(holder);
    if (ofKey?.size === 0) this.#ofKey.delete(key);
  }
}

function firstOf<Holder>(holders: Iterable<Holder>): Holder {
  for (const holder of holders) return holder;
  throw new RangeError("limits of places are at least 1");
}
