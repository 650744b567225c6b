/**
 * What goes wrong in a world, and what is planned: one kind after another as chance has it, each for a while, several at
 * a time. All that is under way can be healed at once.
 */

import type { Cluster, Place } from "../node/cluster.ts";
import type { Machine } from "../world/machine.ts";
import type { SimProcess } from "../world/sim-process.ts";
import type { World } from "../world/world.ts";

export type FaultKind =
  // Planned.
  | "drain"
  | "scale up"
  | "scale down"
  | "evict"
  // Processes.
  | "app crash"
  | "app stopped"
  | "app stopped within"
  | "agent crash"
  | "agent stopped"
  | "agent stopped within"
  | "app hangs"
  | "instance frozen"
  | "stopped at the end of a lease"
  | "operator crash"
  | "operator restart"
  | "operator stopped"
  | "operator stopped within"
  | "caller's agent crash"
  // Machines.
  | "machine suspended"
  | "machine without power"
  | "wall clock set"
  // Connections.
  | "app socket cut"
  | "link cut"
  | "link refuses"
  | "link slow"
  | "silent one way"
  | "silent both ways"
  | "machine cut off"
  | "cut off from operator"
  | "late, then cut off from operator"
  | "cluster split"
  // The store of the slot tables.
  | "store unwell"
  | "store slow"
  | "store unwell and operator crashes"
  | "leader and its writes lost"
  // One after the other, where one alone is harmless.
  | "app crash and its leader's"
  | "app crash with its words under way"
  | "service made anew";

export type FaultWeights = Partial<Record<FaultKind, number>>;

export interface FaultPlan {
  readonly weights: FaultWeights;
  /** Between the beginnings of two faults, on average. */
  readonly pauseMs: number;
  /** The longest that one lasts. */
  readonly durationMsMax: number;
  /** Most of them last for about that. */
  readonly isLong?: boolean;
  readonly instancesMin: number;
  readonly instancesMax: number;
}

interface Active {
  readonly kind: FaultKind;
  /** Undefined once it was called. */
  heal: (() => void) | undefined;
}

export class Faults {
  readonly counts: Partial<Record<FaultKind, number>> = {};
  readonly #world: World;
  readonly #cluster: Cluster;
  readonly #plan: FaultPlan;
  readonly #weights: readonly (readonly [number, FaultKind])[];
  readonly #active = new Set<Active>();
  #isOver = false;

  constructor(cluster: Cluster, plan: FaultPlan) {
    this.#cluster = cluster;
    this.#world = cluster.network.world;
    this.#plan = plan;
    this.#weights = Object.entries(plan.weights).map(([kind, weight]) => [weight, kind as FaultKind] as const);
  }

  /** From now on, until `end`. */
  begin(): void {
    if (this.#weights.length === 0) return;
    const next = () => {
      if (this.#isOver) return;
      this.#world.after(this.#world.random.between(0.2, 1.8) * this.#plan.pauseMs, next);
      const kind = this.#world.random.weighted(this.#weights);
      if (this.do(kind)) this.counts[kind] = (this.counts[kind] ?? 0) + 1;
    };
    this.#world.after(this.#world.random.between(0.2, 1) * this.#plan.pauseMs, next);
  }

  /** Heals everything, and begins nothing any more. */
  end(): void {
    this.#isOver = true;
    for (const active of [...this.#active]) this.#heal(active);
  }

  #heal(active: Active): void {
    const { heal } = active;
    active.heal = undefined;
    this.#active.delete(active);
    if (heal === undefined) return;
    this.#world.note(`fault over: ${active.kind}`);
    heal();
  }

  /** Mostly short, sometimes longer than any lease. */
  #duration(minMs = 50): number {
    const { random } = this.#world;
    const max = this.#plan.durationMsMax;
    const longest = random.weighted([
      [4, Math.min(max, 1000)],
      [4, Math.min(max, 6000)],
      [this.#plan.isLong === true ? 24 : 3, max],
    ]);
    return random.between(Math.min(minMs, longest), longest);
  }

  #begin(kind: FaultKind, what: string, durationMs: number, heal: () => void): true {
    this.#world.note(`fault: ${kind}: ${what}, ${Math.round(durationMs)} ms`);
    const active: Active = { kind, heal };
    this.#active.add(active);
    this.#world.after(durationMs, () => this.#heal(active));
    return true;
  }

  // ---------------------------------------------------------------- each kind

  /** Does it now; false if there is nothing to do it to. */
  do(kind: FaultKind): boolean {
    const { random } = this.#world;
    const cluster = this.#cluster;
    const place = this.#somePlace();
    switch (kind) {
      case "drain":
        return this.#planned(kind, place, (each) => cluster.replace(each));
      case "scale up":
        if (cluster.instances.length >= this.#plan.instancesMax) return false;
        this.#world.note(`fault: ${kind}`);
        cluster.addInstance(this.#someService());
        return true;
      case "scale down":
        if (cluster.instances.length <= this.#plan.instancesMin) return false;
        return this.#planned(kind, place, (each) => cluster.drain(each));
      case "evict": {
        if (place === undefined || cluster.instances.length <= this.#plan.instancesMin) return false;
        cluster.evict(place, true);
        return this.#begin(kind, place.instance, this.#world.random.between(200, 6000), () =>
          cluster.evict(place, false),
        );
      }
      case "app crash":
        return place !== undefined && this.#appCrash(place);
      case "app stopped":
        return place !== undefined && this.#stop(kind, place.app.process);
      case "app stopped within":
        return place !== undefined && this.#stopWithin(kind, place.app.process);
      case "agent crash":
        return place !== undefined && this.#agentCrash(kind, place);
      case "agent stopped":
        return place !== undefined && this.#stop(kind, place.agent.process);
      case "agent stopped within":
        return place !== undefined && this.#stopWithin(kind, place.agent.process);
      case "instance frozen":
        return place !== undefined && this.#freeze(place);
      case "stopped at the end of a lease":
        return place !== undefined && this.#stopAtEnd(place);
      case "operator crash":
        return this.#operatorCrash(kind, random.chance(0.7) ? random.between(50, 3000) : this.#duration());
      case "operator restart":
        // As a rollout does: the next one only when the last one has been well, and heard, for a while.
        if (this.#world.now() < cluster.operatorSinceMs + 3000) return false;
        return this.#operatorCrash(kind, random.between(50, 2500));
      case "app hangs":
        // One at a time.
        if (place === undefined || this.#active.size > 0) return false;
        return this.#stop(kind, place.app.process, random.between(20_000, this.#plan.durationMsMax));
      case "operator stopped":
        return this.#stop(kind, cluster.operator.process);
      case "operator stopped within":
        return this.#stopWithin(kind, cluster.operator.process);
      case "caller's agent crash":
        return this.#agentCrash(kind, random.pick(cluster.callers));
      case "machine suspended":
        return place !== undefined && this.#suspend(place);
      case "machine without power":
        return place !== undefined && this.#powerOff(place);
      case "wall clock set":
        return this.#setWallClock();
      case "app socket cut":
        if (place === undefined) return false;
        this.#world.note(`fault: ${kind}: ${place.instance}`);
        cluster.network.cut(place.machine, place.machine);
        return true;
      case "link cut":
        return this.#link(kind, 1, (a, b) => {
          cluster.network.cut(a, b);
          return () => {};
        });
      case "link refuses":
        return this.#link(kind, this.#duration(), (a, b) => {
          const link = cluster.network.link(a, b);
          link.refuses = true;
          if (random.chance(0.7)) cluster.network.cut(a, b);
          return () => {
            link.refuses = false;
          };
        });
      case "link slow":
        return this.#link(kind, this.#duration(1000), (a, b) => {
          const { network } = cluster;
          const extraMs = random.chance(0.5) ? random.between(20, 400) : random.between(400, 3300);
          const both = random.chance(0.5);
          network.slow(a, b, extraMs);
          if (both) network.slow(b, a, extraMs);
          return () => {
            network.slow(a, b, 0);
            if (both) network.slow(b, a, 0);
          };
        });
      case "silent one way":
        return this.#link(kind, this.#duration(), (a, b) => this.#silence([[a, b]]));
      case "silent both ways":
        return this.#link(kind, this.#duration(), (a, b) =>
          this.#silence([
            [a, b],
            [b, a],
          ]),
        );
      case "machine cut off": {
        const machine = random.pick(this.#machines());
        return this.#begin(kind, machine.name, this.#duration(), this.#isolate(machine, this.#machines()));
      }
      case "cut off from operator": {
        if (place === undefined) return false;
        const { machine } = place;
        const heal = this.#isolate(cluster.operatorMachine, this.#withSomeCaller(machine));
        return this.#begin(kind, machine.name, this.#duration(), heal);
      }
      case "late, then cut off from operator":
        return place !== undefined && this.#lateThenCutOff(place);
      case "cluster split":
        return this.#split();
      case "store unwell": {
        const { apiServer } = cluster;
        apiServer.unansweredRate = random.between(0.2, 1);
        return this.#begin(kind, "", this.#duration(1000), () => {
          apiServer.unansweredRate = 0;
        });
      }
      case "store unwell and operator crashes":
        return this.#crashesWithStore();
      case "leader and its writes lost":
        return this.#leaderLost();
      case "app crash and its leader's":
        return place !== undefined && this.#appAndLeaderCrash(place);
      case "app crash with its words under way":
        return place !== undefined && this.#crashWithWords(place);
      case "service made anew":
        return this.#makeAnew();
      case "store slow": {
        const { apiServer } = cluster;
        apiServer.extraLatencyMs = random.between(50, 2000);
        return this.#begin(kind, "", this.#duration(1000), () => {
          apiServer.extraLatencyMs = 0;
        });
      }
    }
  }

  #someService(): string {
    return this.#world.random.pick(this.#cluster.serviceNames);
  }

  #somePlace(): Place | undefined {
    const { instances } = this.#cluster;
    return instances.length === 0 ? undefined : this.#world.random.pick(instances);
  }

  #machines(): Machine[] {
    const cluster = this.#cluster;
    return [...cluster.places.values(), ...cluster.callers]
      .map(({ machine }) => machine)
      .concat(cluster.operatorMachine);
  }

  #planned(kind: FaultKind, place: Place | undefined, begin: (place: Place) => void): boolean {
    if (place === undefined || place.isDraining || !place.app.process.isAlive) return false;
    this.#world.note(`fault: ${kind}: ${place.instance}`);
    begin(place);
    return true;
  }

  #stop(kind: FaultKind, process: SimProcess, durationMs = this.#duration()): boolean {
    if (!process.isAlive) return false;
    const fromMs = this.#world.now();
    this.#cluster.wasStopped(process, fromMs, fromMs + durationMs);
    if (this.#world.random.chance(0.5)) {
      process.stop();
      return this.#begin(kind, process.name, durationMs, () => process.go());
    }
    // When it has just said something: the answer finds it stopped.
    process.stopAfterWrite(() => {});
    return this.#begin(kind, process.name, durationMs, () => process.goOn());
  }

  #stopWithin(kind: FaultKind, process: SimProcess): boolean {
    if (!process.isAlive) return false;
    const durationMs = this.#duration();
    const fromMs = this.#world.now();
    const { random } = this.#world;
    process.stopWithin(random.integer(0, 8), () => {}, random.chance(0.3) ? "call" : undefined);
    this.#cluster.wasStopped(process, fromMs, fromMs + durationMs);
    return this.#begin(kind, process.name, durationMs, () => process.goOn());
  }

  /** App and agent stop together, the app when it has just written; one of them wakes first. */
  #freeze(place: Place): boolean {
    const { random } = this.#world;
    const [app, agent] = [place.app.process, place.agent.process];
    if (!app.isAlive || !agent.isAlive) return false;
    const durationMs = random.chance(0.3) ? this.#duration() : random.between(14_000, 25_000);
    const fromMs = this.#world.now();
    let isAgentStopped = false;
    const freezesAgent = random.chance(0.6);
    app.stopAfterWrite(
      () => {
        if (!freezesAgent) return;
        isAgentStopped = true;
        agent.stop();
      },
      random.chance(0.6) ? "call" : undefined,
    );
    const wakesAgentAfterMs = durationMs - random.between(0, 3000);
    const wakeAgent = () => {
      if (isAgentStopped) agent.go();
      isAgentStopped = false;
    };
    this.#world.after(Math.max(wakesAgentAfterMs, 0), wakeAgent);
    this.#cluster.wasStopped(app, fromMs, fromMs + durationMs);
    return this.#begin("instance frozen", place.instance, durationMs, () => {
      wakeAgent();
      app.goOn();
    });
  }

  /**
   * The last renewals are answered late, by the operator or by the app, and then no more come through: first nothing
   * reaches the operator, while its answers still do, and then these neither.
   */
  #lateThenCutOff(place: Place): boolean {
    const { random } = this.#world;
    const { network, operatorMachine } = this.#cluster;
    const { machine } = place;
    const slow = random.chance(0.5)
      ? (extraMs: number) => network.slow(operatorMachine, machine, extraMs)
      : (extraMs: number) => this.#cluster.slowWithin(place, extraMs / 6.5);
    slow(random.between(1950, 3200));
    const heals: (() => void)[] = [() => slow(0)];
    const step = (afterMs: number, begin: () => () => void) =>
      this.#world.after(afterMs, () => {
        if (!isHealed) heals.push(begin());
      });
    let isHealed = false;
    const cutAfterMs = random.between(5000, 9000);
    const apart = this.#withSomeCaller(machine);
    step(cutAfterMs, () => this.#silence(apart.map((each) => [each, operatorMachine])));
    step(cutAfterMs + 3300, () => this.#silence(apart.map((each) => [operatorMachine, each])));
    const durationMs = cutAfterMs + random.between(16_000, 24_000);
    return this.#begin("late, then cut off from operator", machine.name, durationMs, () => {
      isHealed = true;
      for (const heal of heals) heal();
    });
  }

  /** Cut off from the operator, and stopped for a moment when others may begin to hold what it has held. */
  #stopAtEnd(place: Place): boolean {
    const { random } = this.#world;
    const { machine } = place;
    const heal = this.#isolate(this.#cluster.operatorMachine, this.#withSomeCaller(machine));
    const fromMs = random.between(8000, 15_000);
    const durationMs = random.between(200, 3400);
    let goOn = () => {};
    this.#world.after(fromMs, () => {
      const process = random.chance(0.7) ? place.agent.process : place.app.process;
      if (!process.isAlive) return;
      const now = this.#world.now();
      this.#cluster.wasStopped(process, now, now + durationMs);
      process.stopWithin(random.integer(0, 8), () => {});
      goOn = () => process.goOn();
      this.#world.after(durationMs, goOn);
    });
    return this.#begin("stopped at the end of a lease", machine.name, fromMs + random.between(4000, 9000), () => {
      goOn();
      heal();
    });
  }

  /** Writes that land late, or never, and leaders that come and go meanwhile. */
  #crashesWithStore(): boolean {
    const { random } = this.#world;
    const cluster = this.#cluster;
    cluster.apiServer.unansweredRate = random.between(0.4, 1);
    let isOver = false;
    const crash = () => {
      if (isOver) return;
      if (cluster.operator.process.isAlive) {
        cluster.operator.kill();
        this.#world.after(random.between(20, 1500), () => cluster.restartOperator());
      }
      cluster.apiServer.unansweredRate = random.chance(0.5) ? 0 : random.between(0.2, 1);
      this.#world.after(random.between(1000, 6000), crash);
    };
    this.#world.after(random.between(100, 3000), crash);
    return this.#begin("store unwell and operator crashes", "", random.between(3000, 15_000), () => {
      isOver = true;
      cluster.apiServer.unansweredRate = 0;
      cluster.restartOperator();
    });
  }

  /**
   * A slot is to move and the leader's writes get no answer; then it crashes, and some of those whom it has told things
   * do not reach the next one for a while.
   */
  #leaderLost(): boolean {
    const { random } = this.#world;
    const cluster = this.#cluster;
    const { apiServer } = cluster;
    if (!cluster.operator.process.isAlive) return false;
    apiServer.unansweredWriteRate = 1;
    const place = this.#somePlace();
    if (place !== undefined) {
      if (random.chance(0.6)) this.#appCrash(place);
      else cluster.evict(place, true);
    }
    let heal = () => {};
    let isOver = false;
    const crashAfterMs = random.between(500, 4500);
    this.#world.after(crashAfterMs, () => {
      if (isOver) return;
      apiServer.unansweredWriteRate = random.chance(0.7) ? 0 : 0.5;
      heal = this.#replaceOperator(cluster.instances);
    });
    return this.#begin("leader and its writes lost", "", crashAfterMs + random.between(1000, 8000), () => {
      isOver = true;
      apiServer.unansweredWriteRate = 0;
      heal();
      if (place !== undefined) cluster.evict(place, false);
      cluster.restartOperator();
    });
  }

  /** What the leader has drawn from the process's end is known to nobody else. */
  #appAndLeaderCrash(place: Place): boolean {
    const { random } = this.#world;
    const cluster = this.#cluster;
    if (!cluster.operator.process.isAlive || !place.app.process.isAlive) return false;
    const provenAfterMs = random.between(5, 100);
    cluster.killApp(place, provenAfterMs);
    let heal = () => {};
    let isOver = false;
    this.#world.after(provenAfterMs + random.between(5, 600), () => {
      if (!isOver) heal = this.#replaceOperator(cluster.instances.filter((each) => each !== place));
    });
    return this.#begin("app crash and its leader's", place.instance, random.between(1500, 6000), () => {
      isOver = true;
      heal();
      cluster.restartOperator();
      cluster.restartApp(place);
    });
  }

  /** It crashes, and another one comes soon, whom some of `places` do not reach until that is healed. */
  #replaceOperator(places: readonly Place[]): () => void {
    const { random } = this.#world;
    const cluster = this.#cluster;
    cluster.operator.kill();
    const apart = places.filter(() => random.chance(0.5));
    const heal = this.#isolate(cluster.operatorMachine, machinesOf(apart));
    this.#world.after(random.between(20, 400), () => cluster.restartOperator());
    return heal;
  }

  /** It is far from its agent, and callers who hear of no fence are near. */
  #crashWithWords(place: Place): boolean {
    const { random } = this.#world;
    const cluster = this.#cluster;
    if (!place.app.process.isAlive) return false;
    cluster.slowWithin(place, random.between(100, 800));
    const heal = this.#isolate(cluster.operatorMachine, machinesOf(cluster.callers));
    const crashAfterMs = random.between(1000, 3000);
    let isOver = false;
    this.#world.after(crashAfterMs, () => {
      if (!isOver) cluster.killApp(place, random.between(1, 30));
    });
    return this.#begin("app crash with its words under way", place.instance, crashAfterMs + 2500, () => {
      isOver = true;
      cluster.slowWithin(place, 0);
      heal();
      cluster.restartApp(place);
    });
  }

  /**
   * The service and its table are deleted, and made again: by the same leader, or by another one when nobody can hold
   * anything any more.
   */
  #makeAnew(): boolean {
    const { random } = this.#world;
    const cluster = this.#cluster;
    if (!cluster.operator.process.isAlive || !cluster.removeService()) return false;
    const isByAnother = random.chance(0.6);
    const durationMs = isByAnother ? random.between(17_000, 25_000) : random.between(200, 20_000);
    const dueAtMs = this.#world.now() + durationMs - 1;
    return this.#begin("service made anew", "", durationMs, () => {
      cluster.makeService(isByAnother && this.#world.now() >= dueAtMs);
    });
  }

  #appCrash(place: Place): boolean {
    const { random } = this.#world;
    if (!place.app.process.isAlive) return false;
    const cluster = this.#cluster;
    const provenAfterMs = random.chance(0.7) ? random.between(5, 300) : random.between(300, 4000);
    const restartsAfterMs = random.chance(0.5) ? random.between(20, 500) : random.between(500, 8000);
    cluster.killApp(place, provenAfterMs);
    return this.#begin("app crash", place.instance, provenAfterMs + restartsAfterMs, () => cluster.restartApp(place));
  }

  #agentCrash(kind: FaultKind, place: Place): boolean {
    if (!place.agent.process.isAlive) return false;
    const { random } = this.#world;
    this.#cluster.killAgent(place, random.chance(0.5) ? random.between(5, 300) : random.between(300, 4000));
    return this.#begin(kind, place.instance, this.#duration(), () => {
      if (!place.isGone) place.restartAgent();
    });
  }

  #operatorCrash(kind: FaultKind, durationMs: number): boolean {
    const cluster = this.#cluster;
    if (!cluster.operator.process.isAlive) return false;
    cluster.operator.kill();
    return this.#begin(kind, "", durationMs, () => cluster.restartOperator());
  }

  #suspend(place: Place): boolean {
    const { machine, app, agent } = place;
    if (machine.isSuspended) return false;
    const world = this.#world;
    const fromMs = world.now();
    const durationMs = this.#duration(2000);
    const processes = [app.process, agent.process];
    machine.suspend(fromMs);
    for (const process of processes) {
      process.stop();
      this.#cluster.wasStopped(process, fromMs, fromMs + durationMs);
    }
    return this.#begin("machine suspended", machine.name, durationMs, () => {
      machine.wake(world.now());
      for (const process of processes) process.go();
    });
  }

  #powerOff(place: Place): boolean {
    const { random } = this.#world;
    const cluster = this.#cluster;
    cluster.powerOff(place);
    const goneAfterMs = random.between(500, 30_000);
    return this.#begin("machine without power", place.instance, goneAfterMs, () => {
      cluster.remove(place);
      cluster.addInstance(place.service as string);
    });
  }

  /** Within what tokens allow clocks to differ. */
  #setWallClock(): boolean {
    const { random } = this.#world;
    const machine = random.pick(this.#machines());
    // A proof by time needs a clock that is not set back by more than a second.
    if (this.#cluster.provesByTime && machine !== this.#cluster.operatorMachine) return false;
    const offsetMs = Math.round(random.between(-3000, 3000));
    this.#world.note(`fault: wall clock set: ${machine.name} to ${offsetMs} ms`);
    machine.setWallClock(offsetMs);
    return true;
  }

  #link(kind: FaultKind, durationMs: number, begin: (a: Machine, b: Machine) => () => void): boolean {
    const { random } = this.#world;
    const machines = this.#machines();
    const a = random.pick(machines);
    const b = random.pick(machines);
    if (a === b) return false;
    const heal = begin(a, b);
    return this.#begin(kind, `${a.name} to ${b.name}`, durationMs, heal);
  }

  /** Some machines hear of nobody but each other. The way to the others may have been slow before. */
  #split(): boolean {
    const { random } = this.#world;
    const { network, operatorMachine } = this.#cluster;
    const machines = this.#machines().filter((machine) => machine !== operatorMachine);
    const apart = machines.filter(() => random.chance(0.4));
    if (apart.length === 0) return false;
    const others = [...machines.filter((machine) => !apart.includes(machine)), operatorMachine];
    const ways = apart.flatMap((a) => others.flatMap((b) => [[a, b] as const, [b, a] as const]));
    const slowMs = random.chance(0.5) ? random.between(500, 5000) : 0;
    const extraMs = random.between(500, 3000);
    // Answers are what is slow.
    const slowed = ways.filter(([from]) => slowMs > 0 && from === operatorMachine);
    for (const [from, to] of slowed) network.slow(from, to, extraMs);
    let heal = () => {};
    let isOver = false;
    this.#world.after(slowMs, () => {
      if (!isOver) heal = this.#silence(ways);
    });
    return this.#begin("cluster split", apart.map(({ name }) => name).join(" "), slowMs + this.#duration(1000), () => {
      isOver = true;
      for (const [from, to] of slowed) network.slow(from, to, 0);
      heal();
    });
  }

  /** The machine, and often a caller's, which then goes on with it and hears of no other holder. */
  #withSomeCaller(machine: Machine): Machine[] {
    const { random } = this.#world;
    return random.chance(0.6) ? [machine, random.pick(this.#cluster.callers).machine] : [machine];
  }

  #silence(ways: readonly (readonly [Machine, Machine])[]): () => void {
    const { network } = this.#cluster;
    for (const [from, to] of ways) network.silence(from, to, true);
    return () => {
      for (const [from, to] of ways) network.silence(from, to, false);
    };
  }

  #isolate(machine: Machine, others: readonly Machine[]): () => void {
    return this.#silence(
      others
        .filter((other) => other !== machine)
        .flatMap((other) => [[machine, other] as const, [other, machine] as const]),
    );
  }
}

function machinesOf(places: readonly Place[]): Machine[] {
  return places.map(({ machine }) => machine);
}
