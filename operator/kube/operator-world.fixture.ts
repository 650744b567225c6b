/** A cluster on virtual time: an API server, replicas of the operator, and agents with apps that serve what is asked. */

import { DiscoveryClient } from "@leveros/agent/core/discovery-client.ts";
import { LeaderLink } from "@leveros/agent/core/ownership/leader-link.ts";
import { startChannel } from "@leveros/protocol/channel/open-channel.ts";
import type { TimerHandle } from "@leveros/protocol/clock/clock.ts";
import { VirtualClock } from "@leveros/protocol/clock/virtual-clock.ts";
import { operatorEnvironment, operatorService, type ServiceTable } from "@leveros/protocol/control/discovery.ts";
import type { HolderMessage, LeaderMessage } from "@leveros/protocol/control/ownership.ts";
import { DeadlineWheel } from "@leveros/protocol/deadline/deadline-wheel.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { AssemblyBudget } from "@leveros/protocol/invocation/assembly.ts";
import { startCall } from "@leveros/protocol/invocation/outgoing-call.ts";
import type { CallerRuntime, OutgoingOptions } from "@leveros/protocol/invocation/outgoing-stream.ts";
import { decodeReceived } from "@leveros/protocol/invocation/received-item.ts";
import type { Identity } from "@leveros/protocol/session/hello.ts";
import { defaultSessionLimits } from "@leveros/protocol/session/limits.ts";
import { Session } from "@leveros/protocol/session/session.ts";
import { Target } from "@leveros/protocol/target/target.ts";
import { memoryTransportPair } from "@leveros/protocol/transport/memory-transport.ts";
import type { Transport, TransportEvents } from "@leveros/protocol/transport/transport.ts";
import { encodeArgs } from "@leveros/protocol/value/form.ts";
import { parse } from "yaml";
import type { LeverServiceStatus } from "../api/v1alpha1/lever-service.ts";
import { ApiServer } from "./api-server.fixture.ts";
import { KubeClient } from "./kube-client.ts";
import { deployments, events, type KubeObject, leverServices, pods, replicaSets } from "./kube-object.ts";
import { KubeOperator } from "./kube-operator.ts";
import { Machine } from "./machine.fixture.ts";
import type { Deployment, Pod } from "./reconcile/kubernetes-object.ts";
import { pod, settings } from "./reconcile/objects.fixture.ts";
import { runFor, runUntil } from "./run-clock.fixture.ts";

export const systemNamespace = "lever-system";
const peopleOptions: OutgoingOptions = { timeoutMs: 5000, fields: new Uint8Array(0) };
const operatorLabels = { app: "lever-operator" };

/** One replica of the operator, on a machine of its own. */
export class OperatorReplica {
  readonly name: string;
  readonly address: string;
  readonly machine: Machine;
  readonly operator: KubeOperator;
  readonly logs: string[] = [];
  readonly connections = new Set<SilentTransport>();
  isDead = false;

  /** `calledName`: as it is told that its name is, its pod's unless set. */
  constructor(world: OperatorWorld, name: string, ip: string, calledName = name) {
    this.name = name;
    this.address = `${ip}:3837`;
    this.machine = new Machine(world.clock);
    const { machine } = this;
    world.api.put(pods, {
      metadata: { name, namespace: systemNamespace, labels: operatorLabels },
      status: { phase: "Running", podIP: ip },
    } as KubeObject);
    this.operator = new KubeOperator({
      client: new KubeClient({ transport: machine.transport(world.api.transport()), clock: machine }),
      clock: machine,
      leaseClock: machine,
      random: world.random,
      wallMs: () => machine.read().wallMs,
      namespace: systemNamespace,
      name: calledName,
      address: this.address,
      agent: () => settings,
      replicaSelector: "app=lever-operator",
      dial: (address) => world.dial({ role: "operator" }, address),
      observer: { onLog: (level, text) => void this.logs.push(`${level} ${text}`) },
    });
  }

  /** As a machine that loses its power: it does nothing any more, and nobody is told. */
  powerOff(): void {
    this.isDead = true;
    void this.machine.stopFor(1e12, false);
    for (const connection of this.connections) connection.isSilent = true;
  }

  /** As a process that is killed: its connections are broken. */
  kill(): void {
    this.powerOff();
    for (const connection of this.connections) connection.destroy();
  }
}

export class OperatorWorld {
  readonly clock = new VirtualClock();
  readonly api = new ApiServer(this.clock);
  readonly replicas: OperatorReplica[] = [];
  #random: number;

  constructor(seed = 7) {
    this.#random = seed;
  }

  readonly random = (): number => {
    this.#random = (this.#random * 48_271) % 2_147_483_647;
    return this.#random / 2_147_483_647;
  };

  async start(name = `operator-${this.replicas.length}`, calledName = name): Promise<OperatorReplica> {
    const replica = new OperatorReplica(this, name, `10.0.0.${this.replicas.length + 1}`, calledName);
    this.replicas.push(replica);
    let isReady = false;
    void replica.operator.start().then((ready) => {
      isReady = ready;
    });
    await runUntil(this.clock, () => isReady, 20_000);
    return replica;
  }

  async stop(replica: OperatorReplica): Promise<void> {
    replica.isDead = true;
    let isClosed = false;
    void replica.operator.close().then(() => {
      isClosed = true;
    });
    await runUntil(this.clock, () => isClosed, 30_000);
    this.api.remove(pods, systemNamespace, replica.name);
  }

  get living(): OperatorReplica[] {
    return this.replicas.filter(({ isDead }) => !isDead);
  }

  get leader(): OperatorReplica | undefined {
    return this.living.find(({ operator }) => operator.election.isLeader);
  }

  /** A session with the replica at the address, or with any. */
  async dial(identity: Identity, address?: string): Promise<Session> {
    const { living } = this;
    const to =
      address === undefined
        ? living[Math.floor(this.random() * living.length)]
        : living.find((replica) => replica.address === address);
    if (to === undefined || !to.operator.isReady) throw new Error("connect ECONNREFUSED");
    const [a, b] = memoryTransportPair(this.clock);
    const connection = new SilentTransport(b);
    to.connections.add(connection);
    to.operator.server.accept(connection);
    return new Session({
      transport: a,
      clock: this.clock,
      side: "dialer",
      identity,
      limits: defaultSessionLimits,
      handler: {},
    });
  }

  /** A method of the replica's for people. */
  ask(replica: OperatorReplica, method: string, ...args: unknown[]): Promise<unknown> {
    return this.#people(replica, async (runtime, session, target) =>
      decodeReceived(await startCall(runtime, session, target(method), encodeArgs(args), peopleOptions)),
    );
  }

  askChannel(replica: OperatorReplica, method: string): Promise<unknown> {
    return this.#people(replica, (runtime, session, target) =>
      startChannel(runtime, session, target(method), encodeArgs([]), peopleOptions),
    );
  }

  async #people(
    { operator }: OperatorReplica,
    ask: (runtime: CallerRuntime, session: Session, target: (method: string) => Target) => Promise<unknown>,
  ): Promise<unknown> {
    const { clock } = this;
    const [transport, there] = memoryTransportPair(clock);
    operator.people.accept(there);
    const session = new Session({
      transport,
      clock,
      side: "dialer",
      identity: { role: "client" },
      limits: defaultSessionLimits,
      handler: {},
    });
    const runtime = {
      wheel: new DeadlineWheel(clock),
      budget: new AssemblyBudget(1e6),
      now: () => clock.now(),
    };
    let isDone = false;
    const answer = ask(runtime, session, (method) => new Target(operatorEnvironment, operatorService, method)).finally(
      () => {
        isDone = true;
      },
    );
    answer.catch(() => {});
    await this.until(() => isDone);
    session.close(new LeverError("CANCELLED", "done", { effect: "none" }));
    return answer;
  }

  run(ms: number): Promise<void> {
    return runFor(this.clock, ms);
  }

  until(isDone: () => boolean, limitMs = 60_000): Promise<void> {
    return runUntil(this.clock, isDone, limitMs);
  }

  // ---------------------------------------------------------------- what users and Kubernetes do

  /** As `kubectl apply` of a LeverService with this spec. */
  apply(name: string, spec: string, namespace = "shop"): void {
    const found = this.api.object(leverServices, namespace, name) as (KubeObject & { status?: unknown }) | undefined;
    this.api.put(leverServices, {
      ...found,
      metadata: { ...found?.metadata, name, namespace },
      spec: parse(spec),
    } as KubeObject);
  }

  status(name: string, namespace = "shop"): LeverServiceStatus {
    const object = this.api.object(leverServices, namespace, name) as { status?: LeverServiceStatus } | undefined;
    return object?.status ?? {};
  }

  /** `type=status/reason` of each condition. */
  conditions(name: string, namespace = "shop"): Record<string, string> {
    const { conditions = [] } = this.status(name, namespace);
    return Object.fromEntries(conditions.map(({ type, status, reason }) => [type, `${status}/${reason}`]));
  }

  deployment(name: string, namespace = "shop"): (Deployment & KubeObject) | undefined {
    return this.api.object(deployments, namespace, name);
  }

  /** `type reason` of each event. */
  get events(): string[] {
    return this.api
      .objects<KubeObject & { type: string; reason: string }>(events)
      .map(({ type, reason }) => `${type} ${reason}`);
  }

  /** As the Deployment's controller does it, once it has looked: so many pods, all of the present revision. */
  rollOut(name: string, podNames: readonly string[], namespace = "shop"): void {
    const deployment = this.deployment(name, namespace) as Deployment & KubeObject;
    const uid = deployment.metadata.uid ?? "";
    const labels = { "leveros.dev/service": name };
    const set = `${name}-1`;
    this.api.put(replicaSets, {
      metadata: {
        name: set,
        namespace,
        labels,
        annotations: { "deployment.kubernetes.io/revision": "1" },
        ownerReferences: [{ apiVersion: "apps/v1", kind: "Deployment", name, uid, controller: true }],
      },
    });
    const setUid = this.api.object<KubeObject>(replicaSets, namespace, set)?.metadata.uid ?? "";
    const owner = { apiVersion: "apps/v1", kind: "ReplicaSet", name: set, uid: setUid, controller: true };
    for (const [index, podName] of podNames.entries()) {
      this.put(pod({ name: podName, meta: { namespace, labels, ownerReferences: [owner] } }), `10.1.0.${index + 1}`);
    }
    const replicas = podNames.length;
    this.api.put(deployments, {
      ...deployment,
      metadata: {
        ...deployment.metadata,
        annotations: { ...deployment.metadata.annotations, "deployment.kubernetes.io/revision": "1" },
      },
      status: {
        observedGeneration: deployment.metadata.generation,
        replicas,
        updatedReplicas: replicas,
        availableReplicas: replicas,
        conditions: [
          { type: "Available", status: "True" },
          { type: "Progressing", status: "True", reason: "NewReplicaSetAvailable" },
        ],
      },
    } as KubeObject);
  }

  put(object: Pod, podIP?: string): void {
    const { uid: _, ...metadata } = object.metadata;
    this.api.put(pods, { ...object, metadata, status: { ...object.status, ...(podIP && { podIP }) } } as KubeObject);
  }

  agent(service: string, instance: string, options: { resources?: boolean } = {}): FakeAgent {
    return new FakeAgent(this, service, instance, options.resources === true);
  }
}

/** An agent whose app has registered. It holds slots, if the service has any, and gives them up when it is asked to. */
export class FakeAgent {
  readonly instance: string;
  readonly discovery: DiscoveryClient;
  /** Slot → epoch. */
  readonly held = new Map<number, number>();
  /** Of its own service. */
  table: ServiceTable | undefined;
  /** Every holder that was seen of a slot, with its epoch, in order. */
  readonly seen: string[] = [];
  lapses = 0;
  /** The oldest that its lease has become before it was renewed, ms. */
  oldestLeaseMs = 0;
  readonly #world: OperatorWorld;
  readonly #service: string;
  readonly #identity: Identity;
  readonly #incarnation: string;
  #link: LeaderLink | undefined;
  #timer: TimerHandle | undefined;
  #renewals = 0;
  #renewedAt: number | undefined;
  readonly #sentAt = new Map<number, number>();

  constructor(world: OperatorWorld, service: string, instance: string, isHolder: boolean) {
    const { clock, random } = world;
    const address = "10.1.0.1:3837";
    this.#world = world;
    this.#service = service;
    this.instance = instance;
    this.#incarnation = `${Math.floor(random() * 1e9).toString(36)}.0.1`;
    this.#identity = { role: "agent", environment: "shop", service, instance };
    this.discovery = new DiscoveryClient({
      clock,
      random,
      dial: () => world.dial(this.#identity),
      identity: { ...this.#identity, role: "agent", address },
    });
    this.discovery.register({ methods: [], resources: isHolder, library: "test", version: "1" });
    this.discovery.subscribe("shop", service, (table) => {
      this.table = table;
    });
    if (isHolder) this.#hold(address);
  }

  /** Its pod is gone, without a word. */
  kill(): void {
    this.discovery.close();
    this.#link?.close();
    this.#world.clock.clearTimer(this.#timer);
  }

  #hold(address: string): void {
    const { clock, random } = this.#world;
    let leader: string | undefined;
    this.#link = new LeaderLink({
      clock,
      random,
      dial: (to) => {
        leader = to;
        return this.#world.dial(this.#identity, leader);
      },
      identity: () => ({
        environment: "shop",
        service: this.#service,
        instance: this.instance,
        address,
        incarnation: this.#incarnation,
        process: this.#incarnation,
        appStartedAt: 2,
        agentStartedAt: 1,
        isSilent: false,
        holds: [...this.held].map(([slot, epoch]) => ({ slot, epoch, isDraining: false })),
        released: [],
      }),
      onOpen: () => this.#renew(),
      onMessage: (message) => this.#onMessage(message),
      onOver: () => {
        this.lapses++;
      },
    });
    this.#renewLater();
  }

  #send(message: HolderMessage): void {
    this.#link?.send(message);
  }

  #renew(): void {
    this.#sentAt.set(++this.#renewals, this.#world.clock.now());
    this.#send({ type: "renew", n: this.#renewals, ageMs: 0 });
  }

  #renewLater(): void {
    this.#timer = this.#world.clock.setTimer(() => {
      if (this.#link?.isOpen === true) this.#renew();
      if (this.#renewedAt !== undefined && this.#world.clock.now() - this.#renewedAt > 10_000) this.lapses++;
      this.#renewLater();
    }, 2000);
  }

  #onMessage(message: LeaderMessage): void {
    if (message.type === "renewed") {
      const now = this.#world.clock.now();
      this.oldestLeaseMs = Math.max(this.oldestLeaseMs, now - (this.#renewedAt ?? now));
      this.#renewedAt = this.#sentAt.get(message.n);
    } else if (message.type === "grant") {
      for (const { slot, epoch } of message.slots) this.held.set(slot, epoch);
      this.#send({ type: "held", slots: message.slots.map(({ slot, epoch }) => ({ slot, epoch })) });
    } else if (message.type === "drain" || message.type === "drop") {
      const slots = message.slots.map(({ slot, epoch }) => ({ slot, epoch, hasState: false }));
      for (const { slot } of slots) this.held.delete(slot);
      this.#send({ type: "released", slots });
    } else if (message.type === "withdraw") {
      this.#send({ type: "neverHeld", slots: message.slots });
    }
  }
}

/** A connection whose near end may fall silent: what comes is not heard, and nothing goes out. */
class SilentTransport implements Transport {
  isSilent = false;
  readonly #inner: Transport;

  constructor(inner: Transport) {
    this.#inner = inner;
  }

  get peerName(): string {
    return this.#inner.peerName;
  }

  get bufferedBytes(): number {
    return this.#inner.bufferedBytes;
  }

  start(events: TransportEvents): void {
    this.#inner.start({
      onData: (chunk) => {
        if (!this.isSilent) events.onData(chunk);
      },
      onDrain: () => events.onDrain(),
      onClose: (error) => events.onClose(error),
    });
  }

  write(chunks: readonly Uint8Array[], onWritten: () => void): void {
    if (!this.isSilent) this.#inner.write(chunks, onWritten);
  }

  end(): void {
    if (!this.isSilent) this.#inner.end();
  }

  destroy(): void {
    this.#inner.destroy();
  }
}
