/**
 * One service as a calling agent sees it: the last table, the balancer over its instances, the policy of its methods,
 * and the calls that wait for the first table.
 */

import { defaultServicePolicy, type ServiceLimits, type ServiceTable } from "@leveros/protocol/control/discovery.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { Target } from "@leveros/protocol/target/target.ts";
import type { Agent } from "./agent.ts";
import { type BalancedInstance, Balancer } from "./balancer/balancer.ts";
import { PeerLink } from "./peer-link.ts";
import { RetryBudget } from "./retry/retry-budget.ts";

/** An instance as the router uses it. */
export interface Instance {
  readonly id: string;
  readonly link: PeerLink;
  /** What is known of it here, and who is told how calls to it went. */
  readonly balanced: BalancedInstance<Instance>;
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
  readonly #waiters = new Set<ViewWaiter>();
  #policyVersion = 0;
  limits: ServiceLimits = defaultServicePolicy.limits;
  /** Of this service alone: one that fails must not use up what the others may retry. */
  readonly retryBudget = new RetryBudget();
  /** Calls and channels to the service that are open here. */
  calls = 0;
  lastUsedAt = 0;

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
    this.#policyVersion++;
    this.limits = table.policy.limits;
    this.#balancer.update(
      table.instances.map((instance) => ({
        // What answers at another address is another agent: nothing that is known of the former holds.
        id: `${instance.id} ${instance.address}`,
        zone: instance.zone,
        isServing: instance.state === "Serving",
        create: (balanced: BalancedInstance<Instance>): Instance => ({
          id: instance.id,
          link: new PeerLink(this.#agent, instance.address),
          balanced,
        }),
      })),
      this.#agent.clock.now(),
      (gone) => gone.link.close(),
    );
    this.#tell(undefined);
  }

  pick(now: number, tried: readonly Instance[] | undefined, isChannel: boolean): Instance | undefined {
    return this.#balancer.pick(now, tried, isChannel);
  }

  /** Why `pick` gave none. */
  whyNone(): LeverError {
    const table = this.#table;
    const name = `${this.environment}/${this.service}`;
    if (table === undefined || !table.exists) {
      return new LeverError("SERVICE_NOT_FOUND", `there is no service ${name}; check the name and the environment`, {
        effect: "none",
      });
    }
    const states = table.instances.map((instance) => `${instance.id} is ${instance.state}`);
    const found = states.length === 0 ? "it has no instance" : states.slice(0, 5).join(", ");
    return new LeverError("NO_INSTANCES", `no instance of ${name} can take calls now: ${found}`, { effect: "none" });
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
    this.#tell(new LeverError("CANCELLED", "the agent is closing", { effect: "none" }));
    this.#balancer.update([], this.#agent.clock.now(), (gone) => gone.link.close());
  }
}
