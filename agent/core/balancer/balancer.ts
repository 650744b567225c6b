/**
 * Which instance of one service the next call from here goes to.
 *
 * Power of two choices: of two instances drawn at random the cheaper one (endpoint-load.ts says what cost is), with a
 * difference to the textbook: the dearer one is taken too, with the probability `1 ÷ (1 + ratio of the costs²)`, which
 * is 1 in 5 where it costs twice as much and 1 in 101 at ten times. A strict choice never takes the dearest of the set,
 * so that its numbers can only fade and are never corrected. With three equal instances that pause for 5 to 25 ms once
 * in 250 calls, a strict choice gave one of them less than 25 or more than 42 % of 1,000 calls one after another in 281
 * of 300 runs, this one in none. And many callers with the same old numbers do not all choose alike.
 *
 * Not drawn: what is draining or not serving, what is ejected (outlier-ejection.ts), what the caller has tried. Instances
 * of the own zone come first (zone-group.ts). Of a service with more than 100 instances each caller uses 100, by
 * rendezvous hashing: highest hash of (caller, instance), so that one more or less changes at most one of them. Such
 * subsets are random: with few callers some instances may get no call at all.
 *
 * Invariant: the arrays that calls draw from hold exactly what may be drawn; they are made anew when that changes, which
 * is rare, so that a draw is O(1).
 */

import type { Random } from "@leveros/protocol/clock/clock.ts";
import type { Reason } from "@leveros/protocol/error/catalogue.ts";
import {
  channelWeightForCall,
  channelWeightForChannel,
  EndpointLoad,
  latencyMsMax,
  slowStartMs,
} from "./endpoint-load.ts";
import { EjectionRecord, OutlierEjection, verdictOf } from "./outlier-ejection.ts";
import { ZoneGroup } from "./zone-group.ts";

/** Services with more instances than this are used in part by each caller: this many. */
export const subsetSize = 100;
/**
 * An instance that says itself that it drains gets no calls for this long, or until the table says that it serves again.
 * By then the table says that it drains, or else another app has registered there meanwhile: of both at once the table
 * may show nothing. Asked too early it refuses once more, which costs a retry and nothing else.
 */
export const drainingMs = 1000;

/** An instance as the table has it. */
export interface EndpointSource<Endpoint> {
  /** The instance's id; what stays in the set under its id keeps what is known of it. */
  readonly id: string;
  readonly zone?: string | undefined;
  /** May get new calls, as far as the table knows. */
  readonly isServing: boolean;
  /** Makes what `pick` returns, once, when the instance first serves. Calls to it are told to `instance`. */
  create(instance: BalancedInstance<Endpoint>): Endpoint;
}

export interface BalancerOptions {
  readonly random: Random;
  /** The caller's instance id: what its subsets of large services depend on. */
  readonly self: string;
  /** The caller's zone; without one, zones are not looked at. */
  readonly zone?: string | undefined;
}

/**
 * One instance in one caller's set. Whoever sends a call there says `begin`, then exactly one of `succeeded` and
 * `errored`. Lives on after it has left the set, for calls that still run.
 */
export class BalancedInstance<Endpoint> extends EjectionRecord {
  readonly id: string;
  readonly endpoint: Endpoint;
  readonly load: EndpointLoad;
  readonly joinedAtMs: number;
  /** For the subset: the rank for this caller. */
  readonly rank: number;
  /** The table's word, and until when the instance's own word counts. */
  isServing: boolean;
  drainingUntilMs = 0;
  group: ZoneGroup<BalancedInstance<Endpoint>>;
  private readonly balancer: Balancer<Endpoint>;

  constructor(
    balancer: Balancer<Endpoint>,
    source: EndpointSource<Endpoint>,
    load: EndpointLoad,
    group: ZoneGroup<BalancedInstance<Endpoint>>,
    rank: number,
    now: number,
  ) {
    super();
    this.balancer = balancer;
    this.id = source.id;
    this.load = load;
    this.group = group;
    this.rank = rank;
    this.joinedAtMs = now;
    this.isServing = source.isServing;
    this.endpoint = source.create(this);
  }

  /** A call, or the opening of a channel, goes out. */
  begin(now: number): void {
    this.load.begin(now);
  }

  /** A good answer has begun, or the channel is open; `reported` is the load that came with it, 0 to 65,535. */
  succeeded(now: number, startedAt: number, reported: number): void {
    this.load.succeeded(now, startedAt);
    this.load.reported(now, reported);
    this.group.observe(now, now - startedAt, reported);
    if (this.failuresInRow > 0) this.balancer.ejection.served(this, now);
  }

  /** The call has ended with an error, the method's own or any other; `reported` if a load came with it. */
  errored(now: number, startedAt: number, reason: Reason, reported = -1): void {
    this.#note(now, startedAt, reason);
    if (reported >= 0) this.load.reported(now, reported);
  }

  #note(now: number, startedAt: number, reason: Reason): void {
    switch (verdictOf(reason)) {
      case "served":
        // One that errs from its first call on has no latency of its own to be measured by.
        this.load.assume(now, this.group.meanLatencyMs);
        this.load.ended(now, startedAt);
        this.balancer.ejection.served(this, now);
        break;
      case "refused":
        this.load.failed(now, startedAt);
        if (reason === "DRAINING") this.draining(now);
        break;
      case "failed":
        this.load.failed(now, startedAt);
        this.group.observe(now, latencyMsMax, -1);
        this.balancer.ejection.failed(this, now, startedAt);
        break;
      case "none":
        this.load.ended(now, startedAt);
    }
  }

  channelOpened(): void {
    this.load.openChannels++;
  }

  channelClosed(): void {
    if (this.load.openChannels > 0) this.load.openChannels--;
  }

  /** The instance says that it takes no new calls (GOAWAY, or a refusal). */
  draining(now: number): void {
    this.balancer.drains(this, now);
  }
}

export class Balancer<Endpoint> {
  /** Internal, for its instances. */
  readonly ejection = new OutlierEjection<BalancedInstance<Endpoint>>(() => this.#rebuild());
  readonly #random: Random;
  readonly #self: string;
  readonly #zone: string | undefined;
  readonly #own = new ZoneGroup<BalancedInstance<Endpoint>>();
  readonly #rest = new ZoneGroup<BalancedInstance<Endpoint>>();
  #instances = new Map<string, BalancedInstance<Endpoint>>();
  /** When an instance that said it drains may be tried again; infinite if there is none. */
  #nextDrainedAtMs = Number.POSITIVE_INFINITY;
  #servingCount = 0;

  constructor(options: BalancerOptions) {
    this.#random = options.random;
    this.#self = options.self;
    this.#zone = options.zone;
  }

  /** Instances that take calls, the ejected ones included; of a large service those of this caller's subset. */
  get servingCount(): number {
    return this.#servingCount;
  }

  /** All instances that this caller may use or might again, in no order. */
  instances(): IterableIterator<BalancedInstance<Endpoint>> {
    return this.#instances.values();
  }

  /**
   * Sets the instances. Those that stay keep what is known of them and their endpoint; for those that go `onRemoved` is
   * called. An id that comes twice counts once. O(n log n) for large services; not for the hot path.
   */
  update(sources: readonly EndpointSource<Endpoint>[], now: number, onRemoved?: (endpoint: Endpoint) => void): void {
    const before = this.#instances;
    let isWarm = false;
    let known = 0;
    let latencySumMs = 0;
    for (const { load, joinedAtMs } of before.values()) {
      if (now - joinedAtMs >= slowStartMs) isWarm = true;
      if (!load.isKnown) continue;
      known++;
      latencySumMs += load.latency(now);
    }
    const latencyMs = known === 0 ? 0 : latencySumMs / known;

    const after = new Map<string, BalancedInstance<Endpoint>>();
    for (const { source, rank } of this.#subset(sources)) {
      if (after.has(source.id)) continue;
      // It joins, and its slow start begins, when it first serves; before that even its address may be unknown.
      if (!source.isServing && !before.has(source.id)) continue;
      const group = this.#isElsewhere(source.zone) ? this.#rest : this.#own;
      let instance = before.get(source.id);
      if (instance === undefined) {
        instance = new BalancedInstance(this, source, new EndpointLoad(now, latencyMs, isWarm), group, rank, now);
      } else {
        instance.group = group;
        // The table has seen it drain, and now it serves again: what it said itself is out of date.
        if (source.isServing && !instance.isServing) instance.drainingUntilMs = 0;
        instance.isServing = source.isServing;
      }
      after.set(source.id, instance);
    }
    this.#instances = after;
    for (const instance of before.values()) if (after.get(instance.id) !== instance) this.ejection.remove(instance);
    this.#checkDraining(now);
    // Last, so that whoever is told sees the new set.
    if (onRemoved === undefined) return;
    for (const instance of before.values()) if (after.get(instance.id) !== instance) onRemoved(instance.endpoint);
  }

  /**
   * The instance for the next call, or with `isChannel` for a channel; undefined if there is none. None of `tried` is
   * returned. What is ejected is only when nothing else is left.
   */
  pick(now: number, tried?: readonly Endpoint[], isChannel = false): Endpoint | undefined {
    if (now >= this.#nextDrainedAtMs) this.#checkDraining(now);
    if (now >= this.ejection.nextProbeAtMs) {
      const probed = this.ejection.takeProbe(now, (instance) => tried?.includes(instance.endpoint) !== true);
      if (probed !== undefined) return probed.endpoint;
    }
    const channelWeight = isChannel ? channelWeightForChannel : channelWeightForCall;
    if (tried !== undefined && tried.length > 0) return this.#pickUntried(now, tried, channelWeight);
    let candidates = this.#own.candidates;
    if (this.#rest.candidates.length > 0) {
      if (candidates.length === 0) candidates = this.#rest.candidates;
      else {
        const leaving = this.#own.shareThatLeaves(now, this.#rest);
        if (leaving > 0 && this.#random() < leaving) candidates = this.#rest.candidates;
      }
    }
    return this.#choose(candidates, now, channelWeight)?.endpoint;
  }

  /** Internal: an instance has said that it drains. */
  drains(instance: BalancedInstance<Endpoint>, now: number): void {
    instance.drainingUntilMs = now + drainingMs;
    this.#checkDraining(now);
  }

  #isElsewhere(zone: string | undefined): boolean {
    return this.#zone !== undefined && zone !== undefined && zone !== this.#zone;
  }

  #subset(sources: readonly EndpointSource<Endpoint>[]): { source: EndpointSource<Endpoint>; rank: number }[] {
    const ranked = sources.map((source) => ({ source, rank: rendezvousRank(this.#self, source.id) }));
    return ranked.length <= subsetSize ? ranked : ranked.sort((a, b) => b.rank - a.rank).slice(0, subsetSize);
  }

  #checkDraining(now: number): void {
    this.#nextDrainedAtMs = Number.POSITIVE_INFINITY;
    for (const instance of this.#instances.values()) {
      const isDraining = instance.drainingUntilMs > now;
      if (isDraining && instance.drainingUntilMs < this.#nextDrainedAtMs)
        this.#nextDrainedAtMs = instance.drainingUntilMs;
      if (instance.isServing && !isDraining) this.ejection.add(instance);
      else this.ejection.remove(instance);
    }
    this.#rebuild();
  }

  #rebuild(): void {
    const own: BalancedInstance<Endpoint>[] = [];
    const rest: BalancedInstance<Endpoint>[] = [];
    let serving = 0;
    for (const instance of this.#instances.values()) {
      if (!instance.isMember) continue;
      serving++;
      if (!this.ejection.isOut(instance)) (instance.group === this.#own ? own : rest).push(instance);
    }
    this.#own.candidates = own;
    this.#rest.candidates = rest;
    this.#servingCount = serving;
  }

  #choose(
    candidates: readonly BalancedInstance<Endpoint>[],
    now: number,
    channelWeight: number,
  ): BalancedInstance<Endpoint> | undefined {
    const count = candidates.length;
    if (count < 2) return candidates[0];
    // One random number draws the ordered pair, and its remainder the coin.
    const pairs = count * (count - 1);
    const drawn = this.#random() * pairs;
    const pair = drawn | 0;
    const first = pair % count;
    let second = ((pair - first) / count) | 0;
    if (second >= first) second++;
    return cheaper(
      candidates[first] as BalancedInstance<Endpoint>,
      candidates[second] as BalancedInstance<Endpoint>,
      now,
      channelWeight,
      drawn - pair,
    );
  }

  /** A retry: rare, so it may look at all. */
  #pickUntried(now: number, tried: readonly Endpoint[], channelWeight: number): Endpoint | undefined {
    const isUntried = (instance: BalancedInstance<Endpoint>) => !tried.includes(instance.endpoint);
    let left = this.#own.candidates.filter(isUntried);
    if (left.length === 0) left = this.#rest.candidates.filter(isUntried);
    if (left.length === 0) left = [...this.#instances.values()].filter((each) => each.isMember && isUntried(each));
    return this.#choose(left, now, channelWeight)?.endpoint;
  }
}

function cheaper<Endpoint>(
  a: BalancedInstance<Endpoint>,
  b: BalancedInstance<Endpoint>,
  now: number,
  channelWeight: number,
  coin: number,
): BalancedInstance<Endpoint> {
  const costOfA = a.load.cost(now, channelWeight);
  const costOfB = b.load.cost(now, channelWeight);
  return coin * (costOfA * costOfA + costOfB * costOfB) < costOfB * costOfB ? a : b;
}

/** An even 32-bit hash of the pair: FNV-1a over UTF-16 units, then MurmurHash3's finalizer, since FNV's high bits are weak. */
export function rendezvousRank(caller: string, instance: string): number {
  let hash = 0x811c9dc5;
  for (let index = 0; index < caller.length; index++) hash = Math.imul(hash ^ caller.charCodeAt(index), 0x01000193);
  // No id has this character, so ("a", "bc") and ("ab", "c") differ.
  hash = Math.imul(hash ^ 0x2f, 0x01000193);
  for (let index = 0; index < instance.length; index++) hash = Math.imul(hash ^ instance.charCodeAt(index), 0x01000193);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}
