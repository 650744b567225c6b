/**
 * The methods of `lever://lever-system/operator` for people and the command line: what there is, why a resource is where
 * it is, and a few things to do. Shapes of the answers: `admin-report.ts`.
 *
 * It checks arguments and puts reports together from what a source knows; it keeps nothing itself, so an answer is what
 * was true when it was asked for. Who may call is not looked at here: whoever registers these methods decides that.
 */

import type { Channel } from "@leveros/protocol/channel/channel.ts";
import type { Instance, ServiceTable, SlotRow } from "@leveros/protocol/control/discovery.ts";
import { FieldReader } from "@leveros/protocol/control/field-reader.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { isDnsLabel, resourceBytesMax } from "@leveros/protocol/target/lever-url.ts";
import { slotOf } from "@leveros/protocol/target/slot.ts";
import type { InstanceKey, ServiceRegistry } from "../core/service-registry.ts";
import type { OperatorCall, OperatorChannel } from "../discovery/operator-server.ts";
import type {
  AttachReport,
  Check,
  CheckReport,
  EndpointReport,
  EndpointsReport,
  EvictReport,
  ExplainReport,
  HolderReport,
  OperatorReport,
  ResourcesReport,
  ScaleReport,
  ServiceReport,
  ServicesReport,
  SlotCounts,
  SlotFacts,
} from "./admin-report.ts";

/** A service as its source runs it. */
export interface AdminService {
  readonly environment: string;
  readonly service: string;
  /** Instances that are wanted, attached ones included. */
  readonly desired: number;
  /** Instances that wait to be started again. */
  readonly waiting: number;
  /** Wall-clock ms. */
  readonly declaredAt: number;
  /** Why it is not ready, where the source knows better than the table does. */
  readonly problem?: { readonly reason: string; readonly message: string };
}

/** What runs behind an instance of the tables. */
export interface InstanceFacts {
  readonly pid: number | null;
  readonly restarts: number;
  readonly adminPort: number | null;
  readonly isAttached: boolean;
  readonly node: string | null;
  readonly podUid: string | null;
  readonly problem: string | null;
}

export interface HeldCalls {
  readonly byAgent: readonly { readonly agent: string; readonly calls: number }[];
  readonly agentsNotAsked: number;
}

/** Who knows. What throws LeverError is given to who asked. */
export interface AdminSource {
  readonly registry: ServiceRegistry;
  operator(): OperatorReport;
  services(): readonly AdminService[];
  factsOf(instance: InstanceKey): InstanceFacts;
  /** Undefined for a service without slots. Throws NOT_LEADER where only another one knows. */
  slotFacts(environment: string, service: string, slot: number): SlotFacts | undefined;
  heldCalls(environment: string, service: string, slot: number): HeldCalls;
  /** The library and version of the agent there, as its HELLO says it. Rejects if it does not answer. */
  probeAgent?(address: string): Promise<string>;
}

/** Who does, where that is the operator's to do. What throws LeverError with effect none has changed nothing. */
export interface AdminActions {
  /** Resolves with the id of the instance that has taken its place. */
  evict(instance: InstanceKey): Promise<string>;
  /** Gives the number that was wanted before. */
  scale(environment: string, service: string, replicas: number): number;
  /** A new instance, which someone else runs. */
  attach(environment: string, service: string): AttachReport;
  /** Its end; `hasExited`: nothing of its process is left. */
  detach(instance: InstanceKey, hasExited: boolean): void;
}

const idCharsMax = 253;
const secondMs = 1000;

export class AdminMethods {
  readonly #source: AdminSource;
  readonly #now: () => number;
  /** By name: each takes the values that its caller has sent, and refuses by a LeverError with effect none. */
  readonly calls: Readonly<Record<string, OperatorCall>>;
  /** As `calls`, of the streaming ones: checks the arguments, and gives what runs. */
  readonly channels: Readonly<Record<string, OperatorChannel>>;

  /** `now`: wall-clock ms. Without `actions` there are no methods that change anything. */
  constructor(source: AdminSource, now: () => number, actions?: AdminActions) {
    this.#source = source;
    this.#now = now;
    this.calls = { ...this.#questions(), ...(actions && this.#orders(actions)) };
    this.channels = actions === undefined ? {} : { attachChan: (args) => this.#attaching(actions, args) };
  }

  #questions(): Record<string, OperatorCall> {
    return {
      listServices: () => this.listServices(),
      listEndpoints: (args) => {
        const fields = named(args, "environment", "service");
        return this.listEndpoints(optionalLabel(fields, "environment"), optionalLabel(fields, "service"));
      },
      listResources: (args) => {
        const fields = named(args, "environment", "service");
        return this.listResources(optionalLabel(fields, "environment"), optionalLabel(fields, "service"));
      },
      explain: (args) => {
        const fields = named(args, "environment", "service", "resource");
        const resource = fields.text("resource", resourceBytesMax, (text) => text !== "", "1 to 1024 bytes of text");
        return this.explain(label(fields, "environment"), label(fields, "service"), resource);
      },
      check: () => this.check(),
    };
  }

  #orders(actions: AdminActions): Record<string, OperatorCall> {
    return {
      evict: (args) => {
        const fields = named(args, "instance", "environment");
        return this.#evict(actions, fields.text("instance", idCharsMax), optionalLabel(fields, "environment"));
      },
      scale: (args) => {
        const fields = named(args, "environment", "service", "replicas");
        const replicas = fields.integer("replicas", 0, Number.MAX_SAFE_INTEGER);
        return this.#scale(actions, label(fields, "environment"), label(fields, "service"), replicas);
      },
    };
  }

  #attaching(actions: AdminActions, args: readonly unknown[]): (channel: Channel) => Promise<void> {
    const fields = named(args, "environment", "service");
    const [environment, service] = [label(fields, "environment"), label(fields, "service")];
    this.#table(environment, service);
    return (channel) => this.#attach(actions, channel, environment, service);
  }

  listServices(): ServicesReport {
    const services = [...this.#source.services()].sort(byName).map((service) => this.#service(service));
    return { operator: this.#source.operator(), services };
  }

  /** Without a service those of all; without an environment those of all of them. Throws SERVICE_NOT_FOUND. */
  listEndpoints(environment?: string, service?: string): EndpointsReport[] {
    return this.#tables(environment, service).map((table) => ({
      environment: table.environment,
      service: table.service,
      version: table.version,
      policy: table.policy,
      endpoints: [...table.instances].sort((a, b) => compare(a.id, b.id)).map((each) => this.#endpoint(table, each)),
    }));
  }

  /** As `listEndpoints`. Throws NO_RESOURCES for a named service without any. */
  listResources(environment?: string, service?: string): ResourcesReport[] {
    return this.#tables(environment, service).flatMap((table) => {
      const { ownership } = table.policy;
      if (ownership !== undefined && table.slots !== undefined) {
        const { slots, onUncertain } = ownership;
        return [
          { environment: table.environment, service: table.service, slots, onUncertain, holders: holdersOf(table) },
        ];
      }
      if (service !== undefined) throw noResources(table);
      return [];
    });
  }

  explain(environment: string, service: string, resource: string): ExplainReport {
    const table = this.#table(environment, service);
    const { ownership } = table.policy;
    if (ownership === undefined) throw noResources(table);
    const slot = slotOf(resource, ownership.slots);
    const row = table.slots?.[slot];
    const facts = this.#source.slotFacts(environment, service, slot);
    const holder = table.instances.find(({ id }) => id === row?.holder);
    const { byAgent, agentsNotAsked } = this.#source.heldCalls(environment, service, slot);
    return {
      environment,
      service,
      resource,
      slot,
      slots: ownership.slots,
      holder: row?.holder ?? "",
      state: holder?.state ?? null,
      address: holder?.address ?? null,
      epoch: row?.epoch ?? 0,
      fence: row?.fence ?? 0,
      why: facts?.why ?? "",
      onUncertain: ownership.onUncertain,
      leaseLeftMs: facts?.leaseLeftMs ?? null,
      move: facts?.move ?? null,
      moves: facts?.moves ?? [],
      heldCalls: byAgent,
      agentsNotAsked,
    };
  }

  /**
   * Resolves when another instance serves in its place. Rejects with INVALID_ARGUMENTS (effect none) if no instance, or
   * more than one, has the id, and with another effect if none could take its place: then it goes on.
   */
  async #evict(actions: AdminActions, instance: string, environment?: string): Promise<EvictReport> {
    const found = this.#tables(environment, undefined).filter(({ instances }) =>
      instances.some(({ id }) => id === instance),
    );
    const [table] = found;
    if (table === undefined || found.length > 1) {
      throw new LeverError(
        "INVALID_ARGUMENTS",
        table === undefined
          ? `there is no instance ${instance}${environment === undefined ? "" : ` in ${environment}`}; lever endpoints lists them`
          : `${instance} is in ${found.map((each) => each.environment).join(" and ")}; name the environment too`,
        { effect: "none", details: { instance } },
      );
    }
    const key = { environment: table.environment, service: table.service, instance };
    return {
      environment: table.environment,
      service: table.service,
      evicted: instance,
      replacement: await actions.evict(key),
    };
  }

  #scale(actions: AdminActions, environment: string, service: string, replicas: number): ScaleReport {
    this.#table(environment, service);
    return { environment, service, before: actions.scale(environment, service, replicas), after: replicas };
  }

  async check(): Promise<CheckReport> {
    const services = [...this.#source.services()].sort(byName);
    const checks = await Promise.all(services.map((service) => this.#check(service)));
    return { checks: checks.flat() };
  }

  // ---------------------------------------------------------------- inside

  /** Of those that are declared by a source: the operator is none of them. */
  #tables(environment: string | undefined, service: string | undefined): ServiceTable[] {
    if (environment !== undefined && service !== undefined) return [this.#table(environment, service)];
    const tables = this.#source
      .services()
      .filter(
        (each) =>
          (environment === undefined || each.environment === environment) &&
          (service === undefined || each.service === service),
      )
      .sort(byName)
      .map((each) => this.#source.registry.tables.table(each.environment, each.service));
    if (tables.length === 0 && service !== undefined) throw this.#notFound("any environment", service);
    return tables;
  }

  #table(environment: string, service: string): ServiceTable {
    const isKnown = this.#source
      .services()
      .some((each) => each.environment === environment && each.service === service);
    if (!isKnown) throw this.#notFound(environment, service);
    return this.#source.registry.tables.table(environment, service);
  }

  #notFound(environment: string, service: string): LeverError {
    const names = this.#source.services().map((each) => `${each.environment}/${each.service}`);
    const there = names.length === 0 ? "there are none" : `there are ${listed(names.sort())}`;
    return new LeverError("SERVICE_NOT_FOUND", `there is no service ${service} in ${environment}; ${there}`, {
      effect: "none",
    });
  }

  #service(source: AdminService): ServiceReport {
    const { environment, service, desired, declaredAt, problem } = source;
    const table = this.#source.registry.tables.table(environment, service);
    const serving = table.instances.filter(({ state }) => state === "Serving").length;
    const isReady = serving >= desired;
    const told = isReady ? undefined : problem;
    const methods = new Set<string>();
    for (const { id } of table.instances) {
      const registration = this.#source.registry.registrationOf({ environment, service, instance: id });
      for (const { name } of registration?.methods ?? []) methods.add(name);
    }
    return {
      environment,
      service,
      url: `lever://${environment}/${service}`,
      isReady,
      reason: told?.reason ?? reasonOf(source, table, serving),
      message: told?.message ?? null,
      serving,
      desired,
      methods: [...methods],
      slots: table.slots === undefined ? null : countsOf(table.slots),
      ageSeconds: Math.max(0, Math.floor((this.#now() - declaredAt) / secondMs)),
    };
  }

  #endpoint({ environment, service, slots = [] }: ServiceTable, instance: Instance): EndpointReport {
    return {
      instance: instance.id,
      state: instance.state,
      address: instance.address,
      zone: instance.zone ?? null,
      slots: slots.filter(({ holder }) => holder === instance.id).length,
      ...this.#source.factsOf({ environment, service, instance: instance.id }),
    };
  }

  async #check(source: AdminService): Promise<Check[]> {
    const { environment, service, desired } = source;
    const category = `${environment}/${service}`;
    const { serving, isReady, reason, message, slots } = this.#service(source);
    const { instances } = this.#source.registry.tables.table(environment, service);
    const checks: Check[] = [
      {
        category,
        what: `${serving} of ${desired} instances serve`,
        isOk: isReady,
        hint: isReady ? null : `${reason}: ${message ?? reasonHints[reason] ?? "lever endpoints says more"}`,
      },
    ];
    if (slots !== null && desired > 0) {
      const isOk = slots.held === slots.slots;
      checks.push({
        category,
        what: `${slots.held} of ${slots.slots} slots are held`,
        isOk,
        hint: isOk ? null : `${slots.moving} are being moved; lever resources ${category} says where the others were`,
      });
    }
    const { version } = this.#source.operator();
    const probe = this.#source.probeAgent?.bind(this.#source);
    if (probe === undefined) return checks;
    const agents = instances
      .filter(({ address }) => address !== "")
      .map(async ({ id, address }): Promise<Check> => {
        const what = `the agent of ${id} answers`;
        try {
          const library = await probe(address);
          const isOk = library.endsWith(`/${version}`);
          return { category, what, isOk, hint: isOk ? null : `it is ${library}, the operator is ${version}` };
        } catch (error) {
          return { category, what, isOk: false, hint: LeverError.from(error).rawMessage };
        }
      });
    return [...checks, ...(await Promise.all(agents))];
  }

  /** The instance is there for as long as the channel. */
  async #attach(actions: AdminActions, channel: Channel, environment: string, service: string): Promise<void> {
    const report = actions.attach(environment, service);
    const key = { environment, service, instance: report.instance };
    let hasExited = false;
    try {
      await channel.send(report);
      for await (const message of channel) {
        if (new FieldReader(message, "message", "INVALID_ARGUMENTS").text("type", 64) !== "exited") continue;
        hasExited = true;
        break;
      }
    } finally {
      actions.detach(key, hasExited);
    }
  }
}

/** What to do about a service that is not ready. */
const reasonHints: Readonly<Record<string, string>> = {
  Starting: "its instances run and have not registered yet; does the program reach `await serve(…)`?",
  BackOff: "instances end and are started again; their last lines of output say why",
  Draining: "instances are ending; new ones follow",
  Unreachable: "an agent has lost its connection to the operator",
};

function reasonOf({ desired, waiting }: AdminService, { instances }: ServiceTable, serving: number): string {
  if (serving >= desired) return desired === 0 ? "ScaledToZero" : "AllServing";
  if (waiting > 0) return "BackOff";
  for (const state of ["Unreachable", "Starting", "Draining"] as const) {
    if (instances.some((instance) => instance.state === state)) return state;
  }
  return "Starting";
}

function countsOf(rows: readonly SlotRow[]): SlotCounts {
  return {
    slots: rows.length,
    held: rows.filter(({ holder }) => holder !== "").length,
    moving: rows.filter(({ isMoving }) => isMoving).length,
  };
}

function holdersOf({ instances, slots = [] }: ServiceTable): HolderReport[] {
  const rowsOf = new Map<string, SlotRow[]>(instances.map(({ id }) => [id, []]));
  for (const row of slots) {
    const rows = rowsOf.get(row.holder);
    if (rows === undefined) rowsOf.set(row.holder, [row]);
    else rows.push(row);
  }
  return [...rowsOf]
    .sort(([a], [b]) => (a === "" ? 1 : b === "" ? -1 : compare(a, b)))
    .map(([instance, rows]) => {
      const epochs = rows.map(({ epoch }) => epoch);
      return {
        instance,
        state: instances.find(({ id }) => id === instance)?.state ?? null,
        slots: rows.length,
        runs: runsOf(rows.map(({ slot }) => slot)),
        epochs: [rows.length === 0 ? 0 : Math.min(...epochs), Math.max(0, ...epochs)],
        moving: rows.filter(({ isMoving }) => isMoving).length,
      };
    });
}

/** Ascending numbers as first and last of those in a row. */
export function runsOf(numbers: readonly number[]): [number, number][] {
  const runs: [number, number][] = [];
  for (const number of numbers) {
    const last = runs.at(-1);
    if (last !== undefined && last[1] === number - 1) last[1] = number;
    else runs.push([number, number]);
  }
  return runs;
}

/** The arguments by name; one that is null is not there. */
function named(args: readonly unknown[], ...names: readonly string[]): FieldReader {
  if (args.length > names.length) {
    throw new LeverError("INVALID_ARGUMENTS", `got ${args.length} arguments, expected ${names.join(", ")}`, {
      effect: "none",
    });
  }
  const entries = names.map((name, index) => [name, args[index] ?? undefined]);
  return new FieldReader(Object.fromEntries(entries), "args", "INVALID_ARGUMENTS");
}

const labelRule = "a name: 1 to 63 of a-z, 0-9 and -, not beginning or ending with -";

function label(fields: FieldReader, key: string): string {
  return fields.text(key, 63, isDnsLabel, labelRule);
}

function optionalLabel(fields: FieldReader, key: string): string | undefined {
  return fields.optionalText(key, 63, isDnsLabel, labelRule);
}

function noResources({ environment, service }: ServiceTable): LeverError {
  return new LeverError(
    "NO_RESOURCES",
    `${environment}/${service} holds no resources; give its manifest spec.ownership`,
    { effect: "none" },
  );
}

function listed(names: readonly string[]): string {
  const shown = names.slice(0, 20).join(", ");
  return names.length > 20 ? `${shown} and ${names.length - 20} more` : shown;
}

interface Named {
  readonly environment: string;
  readonly service: string;
}

function byName(a: Named, b: Named): number {
  return compare(a.environment, b.environment) || compare(a.service, b.service);
}

/** `chat-2-…` before `chat-10-…`. */
const { compare } = new Intl.Collator("en", { numeric: true });
