/**
 * One service as a calling agent sees it: the last table, the balancer over its instances, the links to those that hold
 * slots, the policy of its methods, and the calls that wait for the first table. Its slots are slot-view.ts.
 */

import {
  type AccessPolicy,
  type AllowedMethods,
  allowedMethods,
  isMethodAllowed,
} from "@leveros/protocol/control/access.ts";
import {
  defaultServicePolicy,
  type OnUncertain,
  type ServiceLimits,
  type ServiceTable,
  type Instance as TableInstance,
} from "@leveros/protocol/control/discovery.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { xxHash32 } from "@leveros/protocol/target/slot.ts";
import { Target } from "@leveros/protocol/target/target.ts";
import type { Agent } from "./agent.ts";
import { type BalancedInstance, Balancer } from "./balancer/balancer.ts";
import { PeerLink } from "./peer-link.ts";
import { RetryBudget } from "./retry/retry-budget.ts";
import { SlotView, unknownRow } from "./slot-view.ts";

/** An instance as the router uses it. */
export interface Instance {
  readonly id: string;
  /** Its id and address: what answers at another address is another agent, of which nothing is known. */
  readonly key: string;
  readonly link: PeerLink;
  /**
   * What is known of it here, and who is told how calls to it went; undefined for one that gets no calls but those for
   * resources that it holds: it drains, say.
   */
  readonly balanced: BalancedInstance<Instance> | undefined;
}

/** What is known of a method, kept at the target so that nothing is looked up per call. */
export interface MethodRoute {
  readonly view: ServiceView;
  /** The target with its environment, as it goes to the peer. */
  readonly target: Target;
  readonly timeoutMs: number;
  readonly isIdempotent: boolean;
  /** The view's policy that this was made from. */
  readonly policyVersion: number;
}

/** Who waits for the first table. */
export interface ViewWaiter {
  /** With `error` when the table does not come. */
  onViewReady(error: LeverError | undefined): void;
}

export const timeoutMsDefault = 30_000;

export class ServiceView {
  readonly environment: string;
  readonly service: string;
  readonly #agent: Agent;
  readonly #balancer: Balancer<Instance>;
  #table: ServiceTable | undefined;
  /** What the balancer has, by key. */
  readonly #balanced = new Map<string, Instance>();
  /** The others that were asked for, by key. */
  readonly #others = new Map<string, Instance>();
  /** The table's instances by id; made when somebody asks. */
  #byId: Map<string, TableInstance> | undefined;
  readonly #waiters = new Set<ViewWaiter>();
  #policyVersion = 0;
  limits: ServiceLimits = defaultServicePolicy.limits;
  /** Of this service alone: one that fails must not use up what the others may retry. */
  readonly retryBudget = new RetryBudget();
  /** Calls and channels to the service that are open here. */
  calls = 0;
  lastUsedAt = 0;
  /** Calls and channels that ever came: each gets its number from here. */
  arrivals = 0;
  /** Undefined for a service that holds no resources. */
  slots: SlotView | undefined;
  onUncertain: OnUncertain = "Wait";
  /** Of the last table. */
  access: AccessPolicy | undefined;
  /** What may be called from here. It is the instance's agent that keeps others out: this only spares the way there. */
  #allowed: AllowedMethods = "all";

  constructor(agent: Agent, environment: string, service: string) {
    this.#agent = agent;
    this.environment = environment;
    this.service = service;
    this.#balancer = new Balancer<Instance>({
      random: agent.random,
      self: agent.identity.instance ?? "",
      zone: agent.zone,
    });
  }

  /** The first table is there. */
  get isReady(): boolean {
    return this.#table !== undefined;
  }

  get policyVersion(): number {
    return this.#policyVersion;
  }

  /** There is such a service, as far as is known. */
  get exists(): boolean {
    return this.#table?.exists === true;
  }

  /** Tells the waiter of the first table, or that it does not come; unless it leaves before. */
  whenReady(waiter: ViewWaiter): void {
    this.#waiters.add(waiter);
  }

  /** Waits no longer. */
  leave(waiter: ViewWaiter): void {
    this.#waiters.delete(waiter);
  }

  /** There is no table, and whoever waits has waited long enough. */
  unavailable(error: LeverError): void {
    this.#tell(error);
  }

  #tell(error: LeverError | undefined): void {
    const waiters = [...this.#waiters];
    this.#waiters.clear();
    for (const waiter of waiters) waiter.onViewReady(error);
  }

  update(table: ServiceTable): void {
    this.#table = table;
    this.#byId = undefined;
    this.#policyVersion++;
    this.limits = table.policy.limits;
    if (this.access !== table.policy.access || !table.exists) this.#updateAccess(table);
    this.#balancer.update(
      table.instances.map((instance) => ({
        id: keyOf(instance),
        zone: instance.zone,
        isServing: instance.state === "Serving",
        create: (balanced: BalancedInstance<Instance>) => this.#join(instance, balanced),
      })),
      this.#agent.clock.now(),
      (gone) => this.#leave(gone),
    );
    for (const [key, { id, link }] of this.#others) {
      if (this.#keyInTable(id) === key) continue;
      this.#others.delete(key);
      link.close();
    }
    this.#updateSlots(table);
    this.#tell(undefined);
  }

  #updateAccess({ exists, policy: { access } }: ServiceTable): void {
    this.access = access;
    // What there is not is not found, whoever asks.
    this.#allowed = exists ? allowedMethods(access, this.environment, this.#agent.identity) : "all";
  }

  /** Undefined if the method may be called from here. */
  whyNotAllowed(method: string): LeverError | undefined {
    if (this.#allowed === "all" || isMethodAllowed(this.#allowed, method)) return undefined;
    const { role, environment = "-", service } = this.#agent.identity;
    // To those outside what is not exposed does not exist.
    if (role === "gateway") return this.#notFound();
    return permissionDenied(service === undefined ? environment : `${environment}/${service}`, this.#name);
  }

  /** As the caller is to see what an instance's agent has refused with. */
  asSeen(refusal: LeverError): LeverError {
    const isHidden = refusal.reason === "PERMISSION_DENIED" && this.#agent.identity.role === "gateway";
    return isHidden ? this.#notFound() : refusal;
  }

  get #name(): string {
    return `${this.environment}/${this.service}`;
  }

  #notFound(): LeverError {
    return new LeverError(
      "SERVICE_NOT_FOUND",
      `there is no service ${this.#name}; check the name and the environment`,
      {
        effect: "none",
      },
    );
  }

  #join(instance: TableInstance, balanced: BalancedInstance<Instance>): Instance {
    const key = keyOf(instance);
    const link = this.#others.get(key)?.link ?? this.#linkTo(instance.id, instance.address);
    this.#others.delete(key);
    const joined = { id: instance.id, key, link, balanced };
    this.#balanced.set(key, joined);
    return joined;
  }

  #linkTo(instance: string, address: string): PeerLink {
    const { environment, service } = this;
    return new PeerLink(this.#agent, address, { environment, service, instance });
  }

  #leave(gone: Instance): void {
    const { id, key, link } = gone;
    if (this.#balanced.get(key) === gone) this.#balanced.delete(key);
    // It has left the part of a large service that is called from here, and may hold slots.
    if (this.slots !== undefined && this.#keyInTable(id) === key)
      this.#others.set(key, { ...gone, balanced: undefined });
    else link.close();
  }

  #keyInTable(id: string): string | undefined {
    this.#byId ??= new Map(this.#table?.instances.map((instance) => [instance.id, instance]));
    const instance = this.#byId.get(id);
    return instance === undefined ? undefined : keyOf(instance);
  }

  #updateSlots(table: ServiceTable): void {
    const { ownership } = table.policy;
    const { slots } = this;
    if (ownership !== undefined) this.onUncertain = ownership.onUncertain;
    if (ownership?.slots === slots?.count) return slots?.update(table.slots ?? []);
    this.slots =
      ownership && new SlotView(table.slots ?? Array.from({ length: ownership.slots }, (_, slot) => unknownRow(slot)));
    slots?.close(undefined);
  }

  /** The instance of this id, wherever it is in its life; undefined if the table does not have it, or no address. */
  instanceOf(id: string): Instance | undefined {
    const key = this.#keyInTable(id);
    const address = this.#byId?.get(id)?.address ?? "";
    if (key === undefined || address === "") return undefined;
    const known = this.#balanced.get(key) ?? this.#others.get(key);
    if (known !== undefined) return known;
    const other: Instance = { id, key, link: this.#linkTo(id, address), balanced: undefined };
    this.#others.set(key, other);
    return other;
  }

  /** The very instance, at the very address, as it is known now; undefined if there is none. */
  again({ id, key }: Instance): Instance | undefined {
    const found = this.instanceOf(id);
    return found?.key === key ? found : undefined;
  }

  /**
   * Who serves a resource while nobody is known to hold it: the Serving instance of the highest rank for it, the same
   * for all callers (rendezvous hashing; Thaler and Ravishankar, 1998). None of `avoid` (ids).
   */
  substituteFor(resourceHash: number, avoid: readonly string[] | undefined): Instance | undefined {
    let best: string | undefined;
    let bestRank = -1;
    for (const { id, state } of this.#table?.instances ?? []) {
      if (state !== "Serving" || avoid?.includes(id) === true) continue;
      const rank = xxHash32(encoder.encode(id), resourceHash);
      if (rank <= bestRank) continue;
      best = id;
      bestRank = rank;
    }
    return best === undefined ? undefined : this.instanceOf(best);
  }

  pick(now: number, tried: readonly Instance[] | undefined, isChannel: boolean): Instance | undefined {
    return this.#balancer.pick(now, tried, isChannel);
  }

  /** Why there is no `slots`. */
  whyNoSlots(): LeverError {
    if (!this.exists) return this.whyNone();
    return new LeverError(
      "NO_RESOURCES",
      `the call names a resource, and ${this.#name} holds none; leave it out of the URL`,
      { effect: "none" },
    );
  }

  /** Why `pick` gave none. */
  whyNone(): LeverError {
    const table = this.#table;
    if (table === undefined || !table.exists) return this.#notFound();
    const states = table.instances.map((instance) => `${instance.id} is ${instance.state}`);
    const found = states.length === 0 ? "it has no instance" : states.slice(0, 5).join(", ");
    return new LeverError("NO_INSTANCES", `no instance of ${this.#name} can take calls now: ${found}`, {
      effect: "none",
    });
  }

  route(method: string): MethodRoute {
    const methods = this.#table?.policy.methods ?? [];
    const own = methods.find((policy) => policy.name === method);
    const all = methods.find((policy) => policy.name === "*");
    return {
      view: this,
      target: new Target(this.environment, this.service, method),
      timeoutMs: own?.timeoutMs ?? all?.timeoutMs ?? timeoutMsDefault,
      isIdempotent: own?.idempotent ?? all?.idempotent ?? false,
      policyVersion: this.#policyVersion,
    };
  }

  /** Routes made from here are out of date, and whoever waits is told. */
  close(): void {
    this.#policyVersion = -1;
    this.#table = undefined;
    this.#byId = undefined;
    const { slots } = this;
    this.slots = undefined;
    const closing = new LeverError("CANCELLED", "the agent is closing", { effect: "none" });
    this.#tell(closing);
    slots?.close(closing);
    this.#balancer.update([], this.#agent.clock.now(), (gone) => this.#leave(gone));
    for (const { link } of this.#others.values()) link.close();
    this.#others.clear();
  }
}

/** `caller` and `service` by their environment and name. */
export function permissionDenied(caller: string, service: string): LeverError {
  return new LeverError(
    "PERMISSION_DENIED",
    `${caller} may not call ${service}: it is of another environment, and spec.access.callers of that LeverService does not name it`,
    { effect: "none" },
  );
}

function keyOf({ id, address }: TableInstance): string {
  return `${id} ${address}`;
}

const encoder = new TextEncoder();
