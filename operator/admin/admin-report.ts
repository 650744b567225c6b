/**
 * What the methods of `lever://lever-system/operator` answer: plain JSON, for the command line and for any other caller.
 * Shapes only. A key that is not known has the value null, never none.
 */

import type { InstanceState, OnUncertain, ServicePolicy } from "@leveros/protocol/control/discovery.ts";

/** `listServices()` */
export interface ServicesReport {
  readonly operator: OperatorReport;
  /** By environment, then name. */
  readonly services: readonly ServiceReport[];
}

export interface OperatorReport {
  readonly version: string;
  /** `host:port` that agents connect to. */
  readonly address: string;
  readonly pid: number;
  /** The pod that answers, of a cluster's operator. */
  readonly replica: string | null;
  /** The pod that leads; null: nobody that is known, or there are no replicas. */
  readonly leader: string | null;
  /** Replicas that this one is in touch with, without itself. */
  readonly otherReplicas: number;
  /** The doors from outside that belong to it. */
  readonly gateways: readonly GatewayReport[];
}

export interface GatewayReport {
  readonly host: string;
  readonly httpPort: number;
  readonly port: number;
  readonly adminPort: number;
}

export interface ServiceReport {
  readonly environment: string;
  readonly service: string;
  /** `lever://<environment>/<service>` */
  readonly url: string;
  /** All instances that are wanted serve. */
  readonly isReady: boolean;
  /**
   * Why, one CamelCase word: AllServing, ScaledToZero, Starting, BackOff, Draining, Unreachable; in a cluster also the
   * reasons of the conditions in its status.
   */
  readonly reason: string;
  /** A sentence about it; null if there is none. */
  readonly message: string | null;
  /** Instances that take calls. */
  readonly serving: number;
  /** Instances that are wanted, those of `lever run` included. */
  readonly desired: number;
  /** Names, as its apps have registered them. */
  readonly methods: readonly string[];
  /** Null: the service holds no resources. */
  readonly slots: SlotCounts | null;
  readonly ageSeconds: number;
}

export interface SlotCounts {
  readonly slots: number;
  readonly held: number;
  readonly moving: number;
}

/** `listEndpoints(environment?, service?)`: what routing sees, and what runs behind it. */
export interface EndpointsReport {
  readonly environment: string;
  readonly service: string;
  /** Of the table. */
  readonly version: number;
  readonly policy: ServicePolicy;
  /** By id. */
  readonly endpoints: readonly EndpointReport[];
}

export interface EndpointReport {
  readonly instance: string;
  readonly state: InstanceState;
  /** `host:port` of its agent; empty until that is known. */
  readonly address: string;
  readonly zone: string | null;
  /** Slots that it holds. */
  readonly slots: number;
  /** Of its first process. */
  readonly pid: number | null;
  /** How often something was started again in its place. */
  readonly restarts: number;
  /** Of its agent: /metrics, /livez, /readyz. */
  readonly adminPort: number | null;
  /** It is run by `lever run`. */
  readonly isAttached: boolean;
  /** Of its pod. */
  readonly node: string | null;
  readonly podUid: string | null;
  /** Why it does not serve, a sentence; null: it does, or nothing is known but its state. */
  readonly problem: string | null;
}

/** `listResources(environment?, service?)`: one for each service that holds resources. */
export interface ResourcesReport {
  readonly environment: string;
  readonly service: string;
  readonly slots: number;
  readonly onUncertain: OnUncertain;
  /** By instance; the slots that nobody holds come last, with an empty `instance`. */
  readonly holders: readonly HolderReport[];
}

export interface HolderReport {
  readonly instance: string;
  /** Null: the instance is in the table no more. */
  readonly state: InstanceState | null;
  readonly slots: number;
  /** Slots in a row, first and last. */
  readonly runs: readonly (readonly [first: number, last: number])[];
  /** Of these slots, the lowest and the highest. */
  readonly epochs: readonly [lowest: number, highest: number];
  /** Those of the slots that are about to go elsewhere, or to come here. */
  readonly moving: number;
}

/** `explain(environment, service, resource)` */
export interface ExplainReport {
  readonly environment: string;
  readonly service: string;
  readonly resource: string;
  readonly slot: number;
  readonly slots: number;
  /** Who holds it now; empty: nobody. Calls go there, and only there. */
  readonly holder: string;
  /** Null: nobody holds it, or the holder is in the table no more. */
  readonly state: InstanceState | null;
  readonly address: string | null;
  /** Of the holder, or of the last one; 0 before the first. */
  readonly epoch: number;
  /** Replies under lower epochs are dropped. */
  readonly fence: number;
  /** A sentence. */
  readonly why: string;
  readonly onUncertain: OnUncertain;
  /** How long the holder's lease still runs, as the operator counts. */
  readonly leaseLeftMs: number | null;
  /** Null: it stays where it is. */
  readonly move: MoveReport | null;
  /** Latest first. */
  readonly moves: readonly MoveRecord[];
  /** Calls that wait for this slot, by the agent that holds them. Agents that are processes of their own are not asked. */
  readonly heldCalls: readonly { readonly agent: string; readonly calls: number }[];
  /** Agents that were not asked. */
  readonly agentsNotAsked: number;
}

/** What is known of a slot beside its row in the table. */
export type SlotFacts = Pick<ExplainReport, "why" | "leaseLeftMs" | "move" | "moves">;

export interface MoveReport {
  readonly to: string;
  readonly epoch: number;
  /** What it waits for, a sentence. */
  readonly waitsFor: string;
}

export interface MoveRecord {
  /** Wall-clock ms. */
  readonly at: number;
  readonly from: string;
  readonly to: string;
  readonly epoch: number;
  /** A sentence. */
  readonly why: string;
}

/** `evict(instance, environment?)` */
export interface EvictReport {
  readonly environment: string;
  readonly service: string;
  readonly evicted: string;
  /** Serves in its place. */
  readonly replacement: string;
}

/** `scale(environment, service, replicas)` */
export interface ScaleReport {
  readonly environment: string;
  readonly service: string;
  readonly before: number;
  readonly after: number;
}

/** `check()` */
export interface CheckReport {
  readonly checks: readonly Check[];
}

export interface Check {
  /** A heading: `dev/chat`. */
  readonly category: string;
  readonly what: string;
  readonly isOk: boolean;
  /** What is wrong and what to do; null if it is fine. */
  readonly hint: string | null;
}

/** The first message of `attachChan(environment, service)`, to who runs the process. */
export interface AttachReport {
  readonly environment: string;
  readonly service: string;
  /** The id of the instance that the process is to be. */
  readonly instance: string;
  /** `host:port`, for its agent. */
  readonly operator: string;
}

/** A message of who runs the process, on `attachChan`: nothing of it is left. The operator half-closes then. */
export interface ExitedMessage {
  readonly type: "exited";
}
