/**
 * The tables of all services: which instances each has, in which state, who holds which slot, and how it may be called.
 *
 * It owns the versions and can say, for any version that a subscriber last had, what has changed since, all in one:
 * nothing is queued per subscriber, however far behind it is. What an instance's state should be is decided elsewhere
 * (`service-registry.ts`), who holds a slot too (`ownership/`), and sending.
 *
 * Invariant: each change raises `version`, one count over all tables, so that a table at version v is the table as it
 * was after the last change at or before v.
 */

import { isSameAccess } from "@leveros/protocol/control/access.ts";
import {
  defaultServicePolicy,
  type Instance,
  type InstanceState,
  instancesPerServiceMax,
  type OwnershipPolicy,
  type ServicePolicy,
  type ServiceTable,
  type SlotRow,
} from "@leveros/protocol/control/discovery.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";

/** Answers of `changesSince` kept until the next change: most subscribers ask from the same version. */
const keptAnswersMax = 16;

export interface EndpointTablesOptions {
  /** Where versions begin: wall-clock ms, so that they also rise from one run of the operator to the next. */
  readonly startVersion: number;
  /** Who gives these versions: different for each run of each replica. */
  readonly origin: string;
  /** Removed instances that each table remembers, 1,000 unless set. Who is further behind gets the full table. */
  readonly removedMax?: number;
}

/** What has changed from one version of a table to another. */
export interface TableChanges {
  readonly from: number;
  readonly version: number;
  readonly changed: readonly Instance[];
  readonly removed: readonly string[];
  readonly policy?: ServicePolicy;
  /** Rows that have changed; undefined if none has. */
  readonly slots?: readonly SlotRow[];
}

interface Entry {
  readonly environment: string;
  readonly service: string;
  version: number;
  exists: boolean;
  policy: ServicePolicy;
  policyVersion: number;
  readonly instances: Map<string, { readonly instance: Instance; readonly version: number }>;
  /** Id of a removed instance → the version that removed it, oldest first. */
  readonly removed: Map<string, number>;
  /** One for each slot; none for a service that holds no resources. */
  slots: { row: SlotRow; version: number }[];
  /** Changes are known from this version on. */
  knownFrom: number;
  readonly listeners: Set<() => void>;
  snapshot: ServiceTable | undefined;
  readonly answers: Map<number, TableChanges>;
}

export class EndpointTables {
  readonly origin: string;
  readonly #removedMax: number;
  #version: number;
  readonly #entries = new Map<string, Entry>();

  constructor(options: EndpointTablesOptions) {
    this.#version = options.startVersion;
    this.origin = options.origin;
    this.#removedMax = options.removedMax ?? 1000;
  }

  /** The version of the last change of any table. */
  get version(): number {
    return this.#version;
  }

  /** The service exists, with this policy; its instances stay as they are. */
  declare(environment: string, service: string, policy: ServicePolicy): void {
    const entry = this.#entry(environment, service);
    if (!entry.exists) {
      this.#change(entry, (version) => {
        entry.exists = true;
        entry.policy = policy;
        entry.knownFrom = version;
        entry.slots = emptySlots(policy.ownership, version);
      });
    } else if (!isSamePolicy(entry.policy, policy)) {
      this.#change(entry, (version) => {
        if (entry.policy.ownership?.slots !== policy.ownership?.slots) {
          // Other slots than before: only the full table can tell.
          entry.slots = emptySlots(policy.ownership, version);
          entry.knownFrom = version;
        }
        entry.policy = policy;
        entry.policyVersion = version;
      });
    }
  }

  /** The service is gone, with all its instances. */
  remove(environment: string, service: string): void {
    const entry = this.#entries.get(keyOf(environment, service));
    if (entry === undefined || !entry.exists) return;
    this.#change(entry, (version) => {
      entry.exists = false;
      entry.policy = defaultServicePolicy;
      entry.instances.clear();
      entry.removed.clear();
      entry.slots = [];
      entry.knownFrom = version;
    });
    this.#dropUnused(entry);
  }

  /**
   * Adds the instance, or replaces what is known of it. False if there is no such service. Throws OVERLOADED above
   * 10,000 instances of a service.
   */
  upsertInstance(environment: string, service: string, instance: Instance): boolean {
    const entry = this.#declared(environment, service);
    if (entry === undefined) return false;
    const known = entry.instances.get(instance.id)?.instance;
    if (known === undefined && entry.instances.size >= instancesPerServiceMax) {
      throw new LeverError(
        "OVERLOADED",
        `${environment}/${service} has ${instancesPerServiceMax} instances, the most that a service may have`,
        { effect: "none", details: { limit: "instancesPerService", instancesMax: instancesPerServiceMax } },
      );
    }
    if (known !== undefined && isSameInstance(known, instance)) return true;
    this.#change(entry, (version) => {
      entry.instances.set(instance.id, { instance, version });
      entry.removed.delete(instance.id);
    });
    return true;
  }

  /** False if there is no such instance. */
  setState(environment: string, service: string, id: string, state: InstanceState): boolean {
    const known = this.#declared(environment, service)?.instances.get(id)?.instance;
    if (known === undefined) return false;
    return this.upsertInstance(environment, service, { ...known, state });
  }

  /** False if there is no such instance. */
  removeInstance(environment: string, service: string, id: string): boolean {
    const entry = this.#declared(environment, service);
    if (entry?.instances.has(id) !== true) return false;
    this.#change(entry, (version) => {
      entry.instances.delete(id);
      entry.removed.set(id, version);
      if (entry.removed.size > this.#removedMax) {
        const [oldest, removedAt] = entry.removed.entries().next().value as [string, number];
        entry.removed.delete(oldest);
        entry.knownFrom = removedAt;
      }
    });
    return true;
  }

  /**
   * Who holds these slots now; the other ones stay as they are. False if there is no such service, or it holds no
   * resources. Left out are rows of slots that it does not have, and those that are behind what is known: whoever says so,
   * a row never goes back to a lower epoch, and neither `issued` nor `fence` falls.
   */
  setSlots(environment: string, service: string, rows: readonly SlotRow[]): boolean {
    const entry = this.#declared(environment, service);
    if (entry === undefined || entry.slots.length === 0) return false;
    const changed = rows.flatMap((row) => {
      const known = entry.slots[row.slot]?.row;
      if (known === undefined || isBehind(row, known)) return [];
      const next = row.fence < known.fence ? { ...row, fence: known.fence } : row;
      return isSameRow(known, next) ? [] : [next];
    });
    if (changed.length === 0) return true;
    this.#change(entry, (version) => {
      for (const row of changed) entry.slots[row.slot] = { row, version };
    });
    return true;
  }

  /** The table as it is now, the same object until it changes; `exists: false` for a service that is not declared. */
  table(environment: string, service: string): ServiceTable {
    const entry = this.#entries.get(keyOf(environment, service));
    if (entry !== undefined) return snapshotOf(entry);
    return { environment, service, version: this.#version, exists: false, instances: [], policy: defaultServicePolicy };
  }

  /** Undefined for a service that is not declared. */
  policyOf(environment: string, service: string): ServicePolicy | undefined {
    return this.#declared(environment, service)?.policy;
  }

  /** The tables of all declared services. */
  tables(): ServiceTable[] {
    return [...this.#entries.values()].filter((entry) => entry.exists).map(snapshotOf);
  }

  /** What has changed since `version` (of this origin), in one; undefined if only the full table can tell. */
  changesSince(environment: string, service: string, version: number): TableChanges | undefined {
    const entry = this.#entries.get(keyOf(environment, service));
    if (entry === undefined || version < entry.knownFrom || version > entry.version) return undefined;
    let answer = entry.answers.get(version);
    if (answer === undefined) {
      const changed: Instance[] = [];
      const removed: string[] = [];
      for (const known of entry.instances.values()) if (known.version > version) changed.push(known.instance);
      for (const [id, removedAt] of entry.removed) if (removedAt > version) removed.push(id);
      const slots = entry.slots.filter((known) => known.version > version).map((known) => known.row);
      answer = {
        from: version,
        version: entry.version,
        changed,
        removed,
        ...(entry.policyVersion > version && { policy: entry.policy }),
        ...(slots.length > 0 && { slots }),
      };
      if (entry.answers.size < keptAnswersMax) entry.answers.set(version, answer);
    }
    return answer;
  }

  /**
   * Calls `listener` after each change of this table, also of one that does not exist yet; returns how to stop that.
   * Listeners do not throw and do not change tables.
   */
  watch(environment: string, service: string, listener: () => void): () => void {
    const entry = this.#entry(environment, service);
    entry.listeners.add(listener);
    return () => {
      entry.listeners.delete(listener);
      this.#dropUnused(entry);
    };
  }

  #declared(environment: string, service: string): Entry | undefined {
    const entry = this.#entries.get(keyOf(environment, service));
    return entry?.exists === true ? entry : undefined;
  }

  #entry(environment: string, service: string): Entry {
    const key = keyOf(environment, service);
    let entry = this.#entries.get(key);
    if (entry === undefined) {
      entry = {
        environment,
        service,
        version: this.#version,
        exists: false,
        policy: defaultServicePolicy,
        policyVersion: this.#version,
        instances: new Map(),
        removed: new Map(),
        slots: [],
        knownFrom: this.#version,
        listeners: new Set(),
        snapshot: undefined,
        answers: new Map(),
      };
      this.#entries.set(key, entry);
    }
    return entry;
  }

  #dropUnused(entry: Entry): void {
    const key = keyOf(entry.environment, entry.service);
    if (!entry.exists && entry.listeners.size === 0 && this.#entries.get(key) === entry) this.#entries.delete(key);
  }

  #change(entry: Entry, apply: (version: number) => void): void {
    const version = ++this.#version;
    apply(version);
    entry.version = version;
    entry.snapshot = undefined;
    entry.answers.clear();
    for (const listener of entry.listeners) listener();
  }
}

function keyOf(environment: string, service: string): string {
  return `${environment}/${service}`;
}

function snapshotOf(entry: Entry): ServiceTable {
  entry.snapshot ??= {
    environment: entry.environment,
    service: entry.service,
    version: entry.version,
    exists: entry.exists,
    instances: Array.from(entry.instances.values(), (known) => known.instance),
    policy: entry.policy,
    ...(entry.slots.length > 0 && { slots: entry.slots.map((known) => known.row) }),
  };
  return entry.snapshot;
}

/** Of a service whose slots nobody has held yet. */
function emptySlots(ownership: OwnershipPolicy | undefined, version: number): Entry["slots"] {
  return Array.from({ length: ownership?.slots ?? 0 }, (_, slot) => ({
    row: { slot, holder: "", epoch: 0, issued: 0, isMoving: false, fence: 0 },
    version,
  }));
}

/** Another replica of the operator, or the next leader, may know less than the last one did. */
function isBehind(row: SlotRow, known: SlotRow): boolean {
  return row.epoch < known.epoch || (row.epoch === known.epoch && row.issued < known.issued);
}

function isSameRow(a: SlotRow, b: SlotRow): boolean {
  return (
    a.holder === b.holder &&
    a.epoch === b.epoch &&
    a.issued === b.issued &&
    a.isMoving === b.isMoving &&
    a.fence === b.fence
  );
}

function isSameInstance(a: Instance, b: Instance): boolean {
  return a.address === b.address && a.zone === b.zone && a.state === b.state;
}

function isSamePolicy(a: ServicePolicy, b: ServicePolicy): boolean {
  const isSameMethods =
    a.methods.length === b.methods.length &&
    a.methods.every((method, index) => {
      const other = b.methods[index];
      return (
        method.name === other?.name && method.timeoutMs === other.timeoutMs && method.idempotent === other.idempotent
      );
    });
  return (
    isSameMethods &&
    a.limits.argsBytes === b.limits.argsBytes &&
    a.limits.resultBytes === b.limits.resultBytes &&
    a.limits.messageBytes === b.limits.messageBytes &&
    a.limits.inFlightPerInstance === b.limits.inFlightPerInstance &&
    a.limits.channelsPerInstance === b.limits.channelsPerInstance &&
    isSameOwnership(a.ownership, b.ownership) &&
    isSameAccess(a.access, b.access)
  );
}

function isSameOwnership(a: OwnershipPolicy | undefined, b: OwnershipPolicy | undefined): boolean {
  if (a === undefined || b === undefined) return a === b;
  return (
    a.slots === b.slots &&
    a.onUncertain === b.onUncertain &&
    a.onLapse === b.onLapse &&
    a.leaseMs === b.leaseMs &&
    a.idleMs === b.idleMs
  );
}
