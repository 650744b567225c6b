/**
 * The leader among holders that obey the protocol, while whatever can happen happens: nobody acts for a slot while
 * another process still does, by the clocks of both; no grant promises what is stale; and once it is quiet all slots are
 * held, evenly, as callers are told.
 */

import { clockRateError } from "@leveros/protocol/control/lease.ts";
import { describe, expect, it } from "vitest";
import { seeded } from "../seeded-random.fixture.ts";
import { type FakeHolder, LeaderWorld } from "./leader.fixture.ts";

const slots = 24;

class Chaos {
  readonly world: LeaderWorld;
  readonly #random: () => number;
  readonly #kinds: Record<string, number>;
  #serial = 0;
  violations: string[] = [];
  isLeaderUp = true;

  constructor(seed: number, kinds: Record<string, number>, leaderRate?: number) {
    this.#random = seeded(seed);
    this.#kinds = kinds;
    const rate = leaderRate ?? this.rate();
    this.world = new LeaderWorld({ slots, random: this.#random, rate });
    this.world.latencyMs = () => (this.chance(0.02) ? this.between(100, 3000) : this.between(0.2, 20));
    this.world.store.delayMs = () => (this.chance(0.02) ? this.between(100, 3000) : this.between(1, 10));
    for (let n = 0; n < 3; n++) this.add();
  }

  between(low: number, high: number): number {
    return low + this.#random() * (high - low);
  }

  chance(share: number): boolean {
    return this.#random() < share;
  }

  pick<Item>(items: readonly Item[]): Item | undefined {
    return items[Math.floor(this.#random() * items.length)];
  }

  /** At the bounds, more often than not. */
  rate(): number {
    return this.pick([1 - clockRateError, 1, 1 + clockRateError]) as number;
  }

  get alive(): FakeHolder[] {
    return this.world.holders.filter(({ isAlive }) => isAlive);
  }

  add(): void {
    const { world } = this;
    const holder = world.add(`i-${++this.#serial}`, {
      rate: this.rate(),
      ageMs: () => Math.floor(this.between(0, 1000)),
      openMs: () => this.between(0, 50),
      closeMs: () => this.between(0, 200),
    });
    if (!this.isLeaderUp) holder.cut();
  }

  later(low: number, high: number, act: () => void): void {
    this.world.clock.setTimer(act, this.between(low, high));
  }

  remove(holder: FakeHolder): void {
    holder.kill();
    this.world.known.delete(holder.instance);
    this.later(1, 3000, () => {
      const { leader } = this.world;
      this.world.processesEnded(holder.instance);
      leader.removeInstance({ environment: "dev", service: "chat", instance: holder.instance });
    });
  }

  step(): void {
    const { world } = this;
    const holder = this.pick(this.alive);
    const kind = this.pick(Object.entries(this.#kinds).flatMap(([name, weight]) => Array<string>(weight).fill(name)));
    switch (kind) {
      case "add":
        if (this.alive.length < 6) this.add();
        break;
      case "kill":
        if (holder !== undefined && this.alive.length > 1) this.remove(holder);
        break;
      case "cut":
        holder?.cut();
        break;
      case "partition":
        if (holder === undefined) break;
        holder.partition();
        this.later(100, 40_000, () => holder.heal());
        break;
      case "restartAgent":
        holder?.restartAgent();
        break;
      case "loseApp":
        if (holder === undefined || this.alive.length < 2) break;
        holder.loseApp();
        this.later(10, 5000, () => this.remove(holder));
        break;
      case "hang":
        if (holder === undefined) break;
        holder.isHung = true;
        this.later(1000, 30_000, () => {
          holder.isHung = false;
        });
        break;
      case "leave":
        if (holder === undefined || this.alive.length < 2) break;
        holder.leave();
        this.later(100, 20_000, () => this.remove(holder));
        break;
      case "drain":
        if (holder === undefined) break;
        world.leader.upsertInstance({ environment: "dev", service: "chat", instance: holder.instance }, true);
        this.later(10, 10_000, () => {
          if (world.known.has(holder.instance)) world.know(holder.instance);
        });
        break;
      case "busy": {
        const slot = this.pick([...(holder?.holds.keys() ?? [])]);
        if (holder === undefined || slot === undefined) break;
        holder.busy.add(slot);
        this.later(10, 25_000, () => holder.finish(slot));
        break;
      }
      case "leader":
        if (!this.isLeaderUp) break;
        this.isLeaderUp = false;
        world.stopLeader();
        this.later(10, 6000, () => {
          this.isLeaderUp = true;
          world.startLeader();
        });
        break;
      case "store":
        world.store.faults.push(this.pick(["doneUnanswered", "lostUnanswered", "late"] as const) ?? "late");
        this.later(10, 3000, () => void world.store.land());
        break;
      case "storeDown":
        world.store.isDown = true;
        this.later(10, 8000, () => {
          world.store.isDown = false;
        });
        break;
      case "wall":
        world.wallOffsetMs += this.between(-100_000, 100_000);
        break;
    }
  }

  check(): void {
    const acting = new Map<number, FakeHolder>();
    for (const holder of this.world.holders) {
      for (const { slot } of holder.acting()) {
        const other = acting.get(slot);
        if (other !== undefined && other !== holder) {
          this.violations.push(
            `${Math.round(this.world.clock.now())} ms: slot ${slot} at ${other.instance} and ${holder.instance}`,
          );
        }
        acting.set(slot, holder);
      }
    }
  }

  async run(ms: number): Promise<void> {
    const { clock } = this.world;
    const until = clock.now() + ms;
    while (this.violations.length === 0) {
      if (!clock.step(until)) {
        // What the store has promised comes in microtasks.
        for (let turn = 0; turn < 12; turn++) await Promise.resolve();
        if (!clock.step(until)) break;
      }
      for (let turn = 0; turn < 6; turn++) await Promise.resolve();
      this.check();
    }
    if (this.violations.length === 0) clock.advance(until - clock.now());
  }

  async live(steps: number): Promise<void> {
    for (let step = 0; step < steps && this.violations.length === 0; step++) {
      this.step();
      await this.run(this.between(1, 2500));
    }
  }
}

const everything = {
  add: 4,
  kill: 2,
  cut: 3,
  partition: 3,
  restartAgent: 2,
  loseApp: 1,
  hang: 1,
  leave: 2,
  drain: 1,
  busy: 8,
  leader: 2,
  store: 2,
  storeDown: 1,
  wall: 1,
};

describe("whatever happens", () => {
  it.each([1, 2, 3, 4])(
    "nobody acts for a slot while another still does, and all come to be held (part %i)",
    async (part) => {
      let grants = 0;
      for (let n = 0; n < 15; n++) {
        const seed = part * 1000 + n;
        const chaos = new Chaos(seed, everything);
        await chaos.live(60);
        expect(chaos.violations, `seed ${seed}`).toEqual([]);
        // Quiet again.
        const { world } = chaos;
        world.latencyMs = () => 1;
        world.store.delayMs = () => 1;
        world.store.faults.length = 0;
        chaos.add();
        await chaos.run(130_000);
        expect(chaos.violations, `seed ${seed}`).toEqual([]);
        expect(world.lies, `seed ${seed}`).toEqual([]);
        grants += world.holders.reduce((sum, holder) => sum + holder.grants.length, 0);
        const counts = world.counts();
        expect(Object.keys(counts).sort(), `seed ${seed}`).toEqual(chaos.alive.map(({ instance }) => instance).sort());
        expect(Math.max(...Object.values(counts)) - Math.min(...Object.values(counts)), `seed ${seed}`).toBeLessThan(2);
        for (const row of world.shown.values()) {
          const holder = chaos.alive.find(({ instance }) => instance === row.holder);
          expect(holder?.holds.get(row.slot), `seed ${seed} slot ${row.slot}`).toMatchObject({
            epoch: row.epoch,
            isDraining: false,
            isOpen: true,
          });
          expect(row.isMoving, `seed ${seed} slot ${row.slot}`).toBe(false);
        }
      }
      expect(grants).toBeGreaterThan(15 * 3 * slots);
    },
  );

  it("a leader whose clock goes faster than the bound is found out", async () => {
    let found = 0;
    for (let seed = 0; seed < 20; seed++) {
      const chaos = new Chaos(seed, everything, 1.2);
      await chaos.live(60);
      if (chaos.violations.length > 0) found++;
    }
    expect(found).toBeGreaterThan(3);
  });
});
