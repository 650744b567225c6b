/** A leader on virtual time, its store, and holders that obey the protocol, over links with a delay. */

import { setImmediate as nextTurn } from "node:timers/promises";
import type { ClockReading } from "@leveros/protocol/clock/lease-clock.ts";
import { VirtualClock } from "@leveros/protocol/clock/virtual-clock.ts";
import type { OwnershipPolicy, SlotRow } from "@leveros/protocol/control/discovery.ts";
import { leaseMsDefault, leaseTimes, renewalIntervalMs } from "@leveros/protocol/control/lease.ts";
import type {
  GrantedSlot,
  HolderIdentity,
  HolderMessage,
  LeaderMessage,
  ReleasedSlot,
  SlotOrigin,
} from "@leveros/protocol/control/ownership.ts";
import type { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { type HolderLine, OwnershipLeader } from "./leader.ts";
import { MemorySlotStore, type SlotStore, type SlotTableContent, type StoredSlotTable } from "./slot-store.ts";

export const policyOf = (slots: number, part: Partial<OwnershipPolicy> = {}): OwnershipPolicy => ({
  slots,
  onUncertain: "Wait",
  onLapse: "Abort",
  leaseMs: leaseMsDefault,
  idleMs: 180_000,
  ...part,
});

/** What becomes of the next write. */
export type WriteFault =
  /** It is done, and its answer is lost. */
  | "doneUnanswered"
  /** It is not done, and neither is it answered. */
  | "lostUnanswered"
  /** Unanswered, and done when `land` is called. */
  | "late";

export class FaultyStore implements SlotStore {
  readonly inner = new MemorySlotStore();
  writes: SlotTableContent[] = [];
  reads = 0;
  inFlight = 0;
  inFlightMax = 0;
  readonly faults: WriteFault[] = [];
  /** Reads and writes fail. */
  isDown = false;
  readonly #late: (() => Promise<unknown>)[] = [];
  /** How long each request takes. */
  delayMs = () => 0;
  readonly #clock: VirtualClock;

  constructor(clock: VirtualClock) {
    this.#clock = clock;
  }

  async read(environment: string, service: string): Promise<StoredSlotTable | undefined> {
    return this.#request(async () => {
      this.reads++;
      return structuredClone(await this.inner.read(environment, service));
    });
  }

  async write(table: SlotTableContent, ifVersion: string | undefined): Promise<string> {
    const content = structuredClone(table);
    return this.#request(async () => {
      const fault = this.faults.shift();
      this.writes.push(content);
      if (fault === "late") this.#late.push(() => this.inner.write(content, ifVersion));
      if (fault === "late" || fault === "lostUnanswered") throw new Error("no answer");
      const version = await this.inner.write(content, ifVersion);
      if (fault === "doneUnanswered") throw new Error("no answer");
      return version;
    });
  }

  delete(environment: string, service: string, ifVersion: string | undefined): Promise<void> {
    return this.#request(() => this.inner.delete(environment, service, ifVersion));
  }

  /** Writes that were on their way arrive, whatever they find. */
  async land(): Promise<void> {
    for (const write of this.#late.splice(0)) await write().catch(() => {});
  }

  async #request<Answer>(apply: () => Promise<Answer>): Promise<Answer> {
    this.inFlight++;
    this.inFlightMax = Math.max(this.inFlightMax, this.inFlight);
    try {
      const delayMs = this.delayMs();
      if (delayMs > 0) await new Promise<void>((resolve) => void this.#clock.setTimer(resolve, delayMs));
      if (this.isDown) throw new Error("the store is down");
      return await apply();
    } finally {
      this.inFlight--;
    }
  }
}

export interface WorldOptions {
  readonly slots?: number;
  readonly random?: () => number;
  /** How fast the leader's clock goes. */
  readonly rate?: number;
}

export class LeaderWorld {
  readonly clock = new VirtualClock();
  readonly store = new FaultyStore(this.clock);
  readonly random: () => number;
  readonly policy: OwnershipPolicy;
  leader!: OwnershipLeader;
  /** What callers see. */
  shown = new Map<number, SlotRow>();
  readonly holders: FakeHolder[] = [];
  readonly errors: unknown[] = [];
  wallOffsetMs = 1_000_000;
  readonly known = new Set<string>();
  /** What the leader is told of its own lease. */
  isLeaderAt: (reading: ClockReading) => boolean = () => true;
  /** Slot → the highest epoch under which anybody has opened it. */
  readonly opened = new Map<number, number>();
  /** Grants that promised something that cannot be. */
  readonly lies: string[] = [];
  latencyMs: () => number = () => 1;
  /** How long the leader's process is stopped when it hears next that the store has failed, ms. */
  stopAtErrorMs = 0;
  #stoppedMs = 0;

  readonly #rate: number;

  constructor({ slots = 8, random = () => 0.5, rate = 1 }: WorldOptions = {}) {
    this.random = random;
    this.#rate = rate;
    this.policy = policyOf(slots);
    this.startLeader();
  }

  wallMs(): number {
    return this.clock.now() + this.wallOffsetMs;
  }

  /** Another leader, which finds what the store has. */
  startLeader(declares = true): void {
    this.shown = new Map();
    const leader: OwnershipLeader = new OwnershipLeader({
      clock: {
        now: () => this.clock.now() + this.#stoppedMs,
        setTimer: (callback, ms) => this.clock.setTimer(callback, ms),
        clearTimer: (timer) => this.clock.clearTimer(timer),
        defer: (callback) => this.clock.defer(callback),
      },
      leaseClock: {
        read: () => {
          const monotonicMs = (this.clock.now() + this.#stoppedMs) * this.#rate;
          return { monotonicMs, bootMs: monotonicMs, wallMs: this.wallMs() };
        },
      },
      random: this.random,
      store: this.store,
      isLeaderAt: (reading) => this.isLeaderAt(reading),
      onSlots: (_environment, _service, rows) => {
        if (this.leader !== leader) return;
        for (const row of rows) this.#show(row);
      },
      onError: (_environment, _service, error) => {
        this.errors.push(error);
        this.#stoppedMs += this.stopAtErrorMs;
        this.stopAtErrorMs = 0;
      },
    });
    this.leader = leader;
    leader.start();
    if (!declares) return;
    leader.declareService("dev", "chat", this.policy);
    for (const instance of this.known) leader.upsertInstance({ environment: "dev", service: "chat", instance });
  }

  /** As a process that is killed. */
  stopLeader(): void {
    this.leader.close();
    for (const holder of this.holders) holder.cut();
  }

  #show(row: SlotRow): void {
    const before = this.shown.get(row.slot);
    if (before !== undefined && (row.fence < before.fence || row.issued < before.issued)) {
      throw new Error(`slot ${row.slot} went back: ${JSON.stringify(before)} to ${JSON.stringify(row)}`);
    }
    this.shown.set(row.slot, row);
    for (const holder of this.holders) holder.onRow(row);
  }

  /** The source knows it, its app serves, its agent is connected. */
  add(instance: string, options: FakeHolderOptions = {}): FakeHolder {
    this.know(instance);
    const holder = new FakeHolder(this, instance, options);
    this.holders.push(holder);
    holder.connect();
    return holder;
  }

  know(instance: string, isDraining = false): void {
    this.known.add(instance);
    this.leader.upsertInstance({ environment: "dev", service: "chat", instance }, isDraining);
  }

  /** The source does not know it any more, and no process of it is left. */
  end(holder: FakeHolder): void {
    holder.kill();
    this.known.delete(holder.instance);
    this.processesEnded(holder.instance);
    this.leader.removeInstance({ environment: "dev", service: "chat", instance: holder.instance });
  }

  /** Of its app and of its agent. */
  processesEnded(instance: string): void {
    const key = { environment: "dev", service: "chat", instance };
    for (const process of ["app", "agent"] as const) this.leader.processEnded(key, process);
  }

  row(slot: number): SlotRow {
    const row = this.shown.get(slot);
    if (row === undefined) throw new Error(`nothing is known of slot ${slot}`);
    return row;
  }

  /** Instance → how many slots callers see there. */
  counts(): Record<string, number> {
    const counts: Record<string, number> = {};
    for (const { holder } of this.shown.values()) counts[holder] = (counts[holder] ?? 0) + 1;
    return counts;
  }

  rowsOf(holder: FakeHolder): SlotRow[] {
    return [...this.shown.values()].filter((row) => row.holder === holder.instance);
  }

  async settle(): Promise<void> {
    for (let quietTurns = 0; quietTurns < 3; ) {
      if (this.clock.step(this.clock.now())) quietTurns = 0;
      else quietTurns++;
      await nextTurn();
    }
  }

  async run(ms: number): Promise<void> {
    const until = this.clock.now() + ms;
    for (;;) {
      await this.settle();
      const next = this.clock.nextDueAtMs;
      if (next === undefined || next > until) break;
      this.clock.step(until);
    }
    this.clock.advance(until - this.clock.now());
    await this.settle();
  }
}

export interface FakeHolderOptions {
  /** When its app and its agent began, 2 and 1 unless set. */
  readonly appStartedAt?: number;
  readonly agentStartedAt?: number;
  /** How fast its clock goes. */
  readonly rate?: number;
  /** How old the app's answer is in each renewal, on its clock. */
  readonly ageMs?: () => number;
  /** How long opening and closing a slot takes. */
  readonly openMs?: () => number;
  readonly closeMs?: () => number;
  /** Does not connect again by itself. */
  readonly staysAway?: boolean;
}

interface Hold {
  readonly epoch: number;
  readonly origin: SlotOrigin;
  isDraining: boolean;
  isOpen: boolean;
}

let serial = 0;

/** An agent and its app, as the leader sees them. */
export class FakeHolder {
  /** It takes what it is granted. */
  opens = true;
  readonly instance: string;
  readonly world: LeaderWorld;
  readonly options: FakeHolderOptions;
  process = `process-${++serial}`;
  #boot = `boot-${serial}`;
  #lapses = 0;
  #session = 0;
  address: string;
  holds = new Map<number, Hold>();
  released: ReleasedSlot[] = [];
  /** Slots of incarnations that are over, by the own clock of the holder silent from `until` on. */
  lapsed: { slot: number; epoch: number; until: number }[] = [];
  /** Slots with methods that run. */
  readonly busy = new Set<number>();
  readonly log: LeaderMessage[] = [];
  readonly grants: GrantedSlot[] = [];
  ends: LeverError[] = [];
  refusals: LeverError[] = [];
  isAlive = true;
  /** Its app does not answer. */
  isHung = false;
  isLeaving = false;
  #isCutOff = false;
  #hasApp = true;
  #link: HolderLine | undefined;
  #line = 0;
  #lastArrival = { toLeader: 0, toHolder: 0 };
  #renewals = 0;
  /** Of renewals that wait for an answer: when the app's ping was sent, on true time. */
  readonly #asked = new Map<number, number>();
  #leaseFrom: number | undefined;

  constructor(world: LeaderWorld, instance: string, options: FakeHolderOptions) {
    this.world = world;
    this.instance = instance;
    this.options = options;
    this.address = `${instance}:1`;
    this.#renewLater();
  }

  get incarnation(): string {
    return `${this.#boot}.${this.#lapses}.${this.#session}`;
  }

  get isConnected(): boolean {
    return this.#link !== undefined;
  }

  /** What passed on its clock since. */
  #passedMs(from: number): number {
    return (this.world.clock.now() - from) * (this.options.rate ?? 1);
  }

  /** It may act for its slots: the gate is open. */
  get isLeaseRunning(): boolean {
    return this.#leaseFrom !== undefined && this.#passedMs(this.#leaseFrom) < leaseTimes(leaseMsDefault).gateMs;
  }

  /** All slots for which it, or what is left of it, may act now. */
  acting(): { slot: number; epoch: number }[] {
    const now = this.world.clock.now();
    const acting = this.lapsed.filter(({ until }) => now < until).map(({ slot, epoch }) => ({ slot, epoch }));
    if (this.isAlive && this.isLeaseRunning) for (const [slot, { epoch }] of this.holds) acting.push({ slot, epoch });
    return acting;
  }

  get identity(): HolderIdentity {
    return {
      environment: "dev",
      service: "chat",
      instance: this.instance,
      address: this.address,
      incarnation: this.incarnation,
      process: this.process,
      appStartedAt: this.options.appStartedAt ?? 2,
      agentStartedAt: this.options.agentStartedAt ?? 1,
      isSilent: !this.#hasApp,
      holds: [...this.holds].map(([slot, { epoch, isDraining }]) => ({ slot, epoch, isDraining })),
      released: this.released,
    };
  }

  connect(): void {
    if (this.#link !== undefined || !this.isAlive || this.#isCutOff) return;
    const line = ++this.#line;
    const { leader } = this.world;
    try {
      const link: HolderLine = leader.connect(
        this.identity,
        (message) =>
          this.#deliver("toHolder", () => {
            if (this.#line === line && this.#link === link) this.#onMessage(message);
          }),
        (error) =>
          this.#deliver("toHolder", () => {
            if (this.#line !== line) return;
            this.ends.push(error);
            this.#link = undefined;
            link.lost();
            this.#connectLater();
          }),
      );
      this.#link = link;
      if (this.isLeaving) this.send({ type: "leaving" });
      this.renew();
    } catch (error) {
      const refusal = error as LeverError;
      this.refusals.push(refusal);
      // Its clock may say otherwise, or it never had a lease.
      if (refusal.reason === "LEASE_LAPSED") this.#lapse();
      else this.#connectLater();
    }
  }

  /** Both ends see that the connection is gone. */
  cut(): void {
    const link = this.#link;
    if (link === undefined) return;
    this.#link = undefined;
    this.#line++;
    link.lost();
    this.#connectLater();
  }

  /** Nothing passes, and nobody is told. */
  partition(): void {
    this.#isCutOff = true;
    this.#line++;
    this.#link = undefined;
  }

  heal(): void {
    this.#isCutOff = false;
    this.connect();
  }

  #connectLater(): void {
    if (this.options.staysAway === true) return;
    const line = this.#line;
    this.world.clock.setTimer(() => {
      if (this.#line === line) this.connect();
    }, 100);
  }

  kill(): void {
    this.isAlive = false;
    this.cut();
    this.lapsed = [];
    this.holds.clear();
  }

  /** Another agent takes over the same process. */
  restartAgent(): void {
    this.cut();
    this.#boot = `boot-${++serial}`;
    this.#lapses = 0;
    this.#begin();
  }

  /** The app has gone and another process has registered with the same agent. */
  restartApp(): void {
    this.process = `process-${++serial}`;
    this.#session++;
    this.cut();
    this.#begin();
  }

  /** The app's socket has closed: what does not run is given up. */
  loseApp(): void {
    const released: ReleasedSlot[] = [];
    for (const [slot, { epoch }] of this.holds) {
      if (!this.busy.has(slot)) released.push({ slot, epoch, hasState: false });
    }
    for (const slot of released) this.holds.delete(slot.slot);
    this.released.push(...released);
    this.send({ type: "released", slots: released });
    this.send({ type: "silent" });
    this.isHung = true;
    this.#hasApp = false;
  }

  /** A new incarnation, which holds nothing. */
  #begin(): void {
    this.holds.clear();
    this.#leaseFrom = undefined;
    this.#asked.clear();
    this.connect();
  }

  /** Its lease is about to end: it admits nothing any more, and what still runs is silent when the gate shuts. */
  #lapse(): void {
    const { gateMs } = leaseTimes(leaseMsDefault);
    const until = (this.#leaseFrom ?? 0) + gateMs / (this.options.rate ?? 1);
    for (const [slot, { epoch }] of this.holds) this.lapsed.push({ slot, epoch, until });
    this.#lapses++;
    this.cut();
    this.#isCutOff ||= !this.#hasApp;
    this.#begin();
  }

  leave(): void {
    this.isLeaving = true;
    this.send({ type: "leaving" });
  }

  send(message: HolderMessage): void {
    const link = this.#link;
    if (link === undefined) return;
    this.#deliver("toLeader", () => link.message(message));
  }

  renew(): void {
    if (!this.isAlive || this.isHung || this.#link === undefined) return;
    const ageMs = this.options.ageMs?.() ?? 0;
    const n = ++this.#renewals;
    this.#asked.set(n, this.world.clock.now() - ageMs / (this.options.rate ?? 1));
    this.send({ type: "renew", n, ageMs });
  }

  #renewLater(): void {
    this.world.clock.setTimer(() => {
      if (!this.isAlive) return;
      if (this.#leaseFrom !== undefined && this.#passedMs(this.#leaseFrom) >= leaseTimes(leaseMsDefault).admitMs) {
        this.#lapse();
      } else this.renew();
      this.#renewLater();
    }, renewalIntervalMs);
  }

  /** The end of a running method. */
  finish(slot: number): void {
    this.busy.delete(slot);
    const hold = this.holds.get(slot);
    if (hold?.isDraining === true) this.#releaseLater(slot, hold);
  }

  #releaseLater(slot: number, hold: Hold): void {
    this.#later(this.options.closeMs, () => {
      if (this.holds.get(slot) !== hold || !hold.isDraining || this.busy.has(slot)) return;
      this.holds.delete(slot);
      this.#methodsReturned(slot);
      this.#release({ slot, epoch: hold.epoch, hasState: true });
    });
  }

  /** A slot opens and closes only when nothing of its earlier life in the same process runs any more (R7). */
  #methodsReturned(slot: number): void {
    this.lapsed = this.lapsed.filter((lapsed) => lapsed.slot !== slot);
  }

  #release(slot: ReleasedSlot): void {
    this.released.push(slot);
    this.send({ type: "released", slots: [slot] });
  }

  onRow(row: SlotRow): void {
    this.released = this.released.filter(({ slot, epoch }) => slot !== row.slot || epoch >= row.epoch);
  }

  #onMessage(message: LeaderMessage): void {
    if (!this.isAlive) return;
    this.log.push(message);
    switch (message.type) {
      case "renewed": {
        const from = this.#asked.get(message.n);
        this.#asked.delete(message.n);
        if (from !== undefined && (this.#leaseFrom === undefined || from > this.#leaseFrom)) this.#leaseFrom = from;
        break;
      }
      case "grant":
        for (const granted of message.slots) this.#onGrant(granted);
        break;
      case "drain":
        for (const { slot, epoch } of message.slots) {
          const hold = this.holds.get(slot);
          if (hold?.epoch !== epoch) continue;
          hold.isDraining = true;
          if (!this.busy.has(slot)) this.#releaseLater(slot, hold);
        }
        break;
      case "resume":
        for (const { slot, epoch } of message.slots) {
          const hold = this.holds.get(slot);
          if (hold?.epoch === epoch) hold.isDraining = false;
        }
        break;
      case "withdraw": {
        const never = message.slots.filter(({ slot, epoch }) => this.holds.get(slot)?.epoch !== epoch);
        if (never.length > 0) this.send({ type: "neverHeld", slots: never });
        for (const { slot, epoch } of message.slots) {
          const hold = this.holds.get(slot);
          if (hold?.epoch !== epoch) continue;
          hold.isDraining = true;
          if (!this.busy.has(slot)) this.#releaseLater(slot, hold);
        }
        break;
      }
      case "drop":
        for (const { slot, epoch } of message.slots) {
          if (this.holds.get(slot)?.epoch !== epoch) continue;
          this.holds.delete(slot);
          this.#release({ slot, epoch, hasState: false });
        }
        break;
    }
  }

  #onGrant(granted: GrantedSlot): void {
    const { slot, epoch, origin } = granted;
    const known = this.holds.get(slot);
    if (known?.epoch === epoch) {
      if (known.isOpen) this.send({ type: "held", slots: [{ slot, epoch }] });
      return;
    }
    if (!this.isLeaseRunning || this.released.some((entry) => entry.slot === slot && entry.epoch >= epoch)) return;
    if (known !== undefined && known.epoch > epoch) return;
    this.grants.push(granted);
    if (!this.opens) return;
    const opened = this.world.opened.get(slot) ?? 0;
    if (origin.memory === "state" ? opened > origin.epoch : origin.memory === "fresh" && opened > 0) {
      this.world.lies.push(`slot ${slot}: ${JSON.stringify(origin)} after epoch ${opened}`);
    }
    const hold: Hold = { epoch, origin, isDraining: false, isOpen: false };
    this.holds.set(slot, hold);
    this.#later(this.options.openMs, () => {
      if (this.holds.get(slot) !== hold) return;
      hold.isOpen = true;
      this.world.opened.set(slot, Math.max(epoch, this.world.opened.get(slot) ?? 0));
      this.#methodsReturned(slot);
      this.send({ type: "held", slots: [{ slot, epoch }] });
    });
  }

  #later(ms: (() => number) | undefined, callback: () => void): void {
    const delayMs = ms?.() ?? 0;
    if (delayMs === 0) callback();
    else this.world.clock.setTimer(callback, delayMs);
  }

  /** In order, after the link's delay. */
  #deliver(direction: "toLeader" | "toHolder", deliver: () => void): void {
    const { clock } = this.world;
    const dueAt = Math.max(this.#lastArrival[direction], clock.now() + this.world.latencyMs());
    this.#lastArrival[direction] = dueAt;
    clock.setTimer(deliver, dueAt - clock.now());
  }
}
