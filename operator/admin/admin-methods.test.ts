import { VirtualClock } from "@leveros/protocol/clock/virtual-clock.ts";
import { defaultServicePolicy, type OwnershipPolicy } from "@leveros/protocol/control/discovery.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import type { Session } from "@leveros/protocol/session/session.ts";
import { slotOf } from "@leveros/protocol/target/slot.ts";
import { beforeEach, describe, expect, test } from "vitest";
import { EndpointTables } from "../core/endpoint-table.ts";
import { ServiceRegistry } from "../core/service-registry.ts";
import { type AdminActions, AdminMethods, type AdminService, type AdminSource, runsOf } from "./admin-methods.ts";
import type { CheckReport, ExplainReport } from "./admin-report.ts";

const ownership: OwnershipPolicy = {
  slots: 8,
  onUncertain: "Wait",
  onLapse: "Abort",
  leaseMs: 15_000,
  idleMs: 180_000,
};

let registry: ServiceRegistry;
let services: AdminService[];
let done: unknown[][];
let agents: Map<string, string>;
let methods: AdminMethods;

beforeEach(() => {
  const tables = new EndpointTables({ startVersion: 100, origin: "test" });
  registry = new ServiceRegistry({ tables, clock: new VirtualClock() });
  services = [];
  done = [];
  agents = new Map();
  const source: AdminSource = {
    registry,
    operator: () => ({
      version: "1.2.3",
      address: "127.0.0.1:4000",
      pid: 7,
      replica: null,
      leader: null,
      otherReplicas: 0,
      gateways: [],
    }),
    services: () => services,
    factsOf: ({ instance }) => ({
      pid: instance.length,
      restarts: 1,
      adminPort: null,
      isAttached: false,
      node: null,
      podUid: null,
      problem: null,
    }),
    slotFacts: (_environment, _service, slot) => ({ why: `slot ${slot}`, leaseLeftMs: 5, move: null, moves: [] }),
    heldCalls: () => ({ byAgent: [{ agent: "gateway", calls: 2 }], agentsNotAsked: 1 }),
    probeAgent: async (address) => {
      const library = agents.get(address);
      if (library === undefined) throw new LeverError("INSTANCE_UNREACHABLE", `nobody answers at ${address}`);
      return library;
    },
  };
  const actions: AdminActions = {
    evict: async (key) => {
      done.push(["evict", key]);
      return "new-1";
    },
    scale: (...args) => {
      done.push(["scale", ...args]);
      return 2;
    },
    attach: (environment, service) => ({ environment, service, instance: "chat-9-zzzz", operator: "127.0.0.1:4000" }),
    detach: (...args) => done.push(["detach", ...args]),
  };
  methods = new AdminMethods(source, () => 61_000, actions);
});

function declare(environment: string, service: string, facts: Partial<AdminService> = {}, holds = true): void {
  registry.declareService(environment, service, { ...defaultServicePolicy, ...(holds && { ownership }) });
  services.push({ environment, service, desired: 2, waiting: 0, declaredAt: 1000, ...facts });
}

function serve(environment: string, service: string, instance: string): void {
  registry.upsertInstance({ environment, service, instance });
  const address = `127.0.0.1:${5000 + agents.size}`;
  agents.set(address, "lever-agent/1.2.3");
  registry
    .connect({ environment, service, instance, address }, () => {})
    .registered({ methods: [{ name: "say", kind: "call" }], resources: true, library: "leveros", version: "0.1.0" });
}

function hold(slots: readonly number[], holder: string, epoch: number, isMoving = false): void {
  const rows = slots.map((slot) => ({ slot, holder, epoch, issued: epoch, isMoving, fence: 0 }));
  registry.tables.setSlots("dev", "chat", rows);
}

const call = (name: string, ...args: unknown[]) => methods.calls[name]!(args);

describe("services", () => {
  test("come by environment and name, with what serves", () => {
    declare("dev", "chat");
    declare("blog", "chat", { desired: 0, declaredAt: 61_000 }, false);
    serve("dev", "chat", "chat-1-a");
    registry.upsertInstance({ environment: "dev", service: "chat", instance: "chat-2-a" });
    hold([0, 1, 2], "chat-1-a", 9);
    expect(call("listServices")).toEqual({
      operator: {
        version: "1.2.3",
        address: "127.0.0.1:4000",
        pid: 7,
        replica: null,
        leader: null,
        otherReplicas: 0,
        gateways: [],
      },
      services: [
        {
          environment: "blog",
          service: "chat",
          url: "lever://blog/chat",
          isReady: true,
          reason: "ScaledToZero",
          message: null,
          serving: 0,
          desired: 0,
          methods: [],
          slots: null,
          ageSeconds: 0,
        },
        {
          environment: "dev",
          service: "chat",
          url: "lever://dev/chat",
          isReady: false,
          reason: "Starting",
          message: null,
          serving: 1,
          desired: 2,
          methods: ["say"],
          slots: { slots: 8, held: 3, moving: 0 },
          ageSeconds: 60,
        },
      ],
    });
  });

  test.each([
    ["AllServing", { desired: 1 }],
    ["BackOff", { desired: 3, waiting: 1 }],
    ["Draining", { desired: 3 }],
  ])("%s", (reason, facts) => {
    declare("dev", "chat", facts);
    serve("dev", "chat", "chat-1-a");
    registry.upsertInstance({ environment: "dev", service: "chat", instance: "chat-2-a", isDraining: true });
    expect(methods.listServices().services[0]?.reason).toBe(reason);
  });
});

describe("endpoints", () => {
  test("of all, of an environment, of a service; in the order of their numbers", () => {
    declare("dev", "chat");
    declare("dev", "hello");
    declare("blog", "chat");
    for (const n of [10, 9, 1]) serve("dev", "chat", `chat-${n}-a`);
    hold([0, 3], "chat-9-a", 9);
    const names = (...args: unknown[]) =>
      (call("listEndpoints", ...args) as { environment: string; service: string }[]).map(
        (each) => `${each.environment}/${each.service}`,
      );
    expect(names()).toEqual(["blog/chat", "dev/chat", "dev/hello"]);
    expect(names("dev")).toEqual(["dev/chat", "dev/hello"]);
    expect(names(null, "chat")).toEqual(["blog/chat", "dev/chat"]);
    const [chat] = methods.listEndpoints("dev", "chat");
    expect(chat?.endpoints.map(({ instance, slots, state }) => [instance, slots, state])).toEqual([
      ["chat-1-a", 0, "Serving"],
      ["chat-9-a", 2, "Serving"],
      ["chat-10-a", 0, "Serving"],
    ]);
    expect(chat?.endpoints[0]).toMatchObject({ address: "127.0.0.1:5002", zone: null, pid: 8, restarts: 1 });
  });

  test("of what is not there are refused, with what is", () => {
    declare("dev", "chat");
    for (const args of [
      ["dev", "chta"],
      [null, "chta"],
      ["prod", "chat"],
    ]) {
      expect(() => call("listEndpoints", ...args)).toThrow(
        expect.objectContaining({
          reason: "SERVICE_NOT_FOUND",
          effect: "none",
          message: expect.stringContaining("dev/chat"),
        }),
      );
    }
    // The operator itself is not listed.
    registry.declareService("lever-system", "operator", defaultServicePolicy);
    expect(() => call("listEndpoints", "lever-system", "operator")).toThrow(/no service operator/);
  });
});

describe("resources", () => {
  test("are told by holder: runs, epochs, what moves, and what nobody holds", () => {
    declare("dev", "chat");
    declare("dev", "hello", {}, false);
    serve("dev", "chat", "chat-1-a");
    serve("dev", "chat", "chat-2-a");
    hold([0, 1, 3], "chat-1-a", 5);
    hold([2], "chat-1-a", 7, true);
    hold([5], "chat-0-gone", 4);
    expect(call("listResources")).toEqual([
      {
        environment: "dev",
        service: "chat",
        slots: 8,
        onUncertain: "Wait",
        holders: [
          { instance: "chat-0-gone", state: null, slots: 1, runs: [[5, 5]], epochs: [4, 4], moving: 0 },
          { instance: "chat-1-a", state: "Serving", slots: 4, runs: [[0, 3]], epochs: [5, 7], moving: 1 },
          { instance: "chat-2-a", state: "Serving", slots: 0, runs: [], epochs: [0, 0], moving: 0 },
          {
            instance: "",
            state: null,
            slots: 3,
            runs: [
              [4, 4],
              [6, 7],
            ],
            epochs: [0, 0],
            moving: 0,
          },
        ],
      },
    ]);
    expect(() => call("listResources", "dev", "hello")).toThrow(expect.objectContaining({ reason: "NO_RESOURCES" }));
  });

  test("in a row are runs", () => {
    expect(runsOf([])).toEqual([]);
    expect(runsOf([1])).toEqual([[1, 1]]);
    expect(runsOf([0, 1, 2, 4, 6, 7])).toEqual([
      [0, 2],
      [4, 4],
      [6, 7],
    ]);
  });

  test("one is explained by its slot's row, the leader's facts and the agents' held calls", () => {
    declare("dev", "chat");
    serve("dev", "chat", "chat-1-a");
    const slot = slotOf("room-7/✓", 8);
    hold([slot], "chat-1-a", 5, true);
    expect(call("explain", "dev", "chat", "room-7/✓")).toEqual({
      environment: "dev",
      service: "chat",
      resource: "room-7/✓",
      slot,
      slots: 8,
      holder: "chat-1-a",
      state: "Serving",
      address: "127.0.0.1:5000",
      epoch: 5,
      fence: 0,
      why: `slot ${slot}`,
      onUncertain: "Wait",
      leaseLeftMs: 5,
      move: null,
      moves: [],
      heldCalls: [{ agent: "gateway", calls: 2 }],
      agentsNotAsked: 1,
    } satisfies ExplainReport);
    expect(methods.explain("dev", "chat", `not-${slot}`)).toMatchObject({ holder: expect.any(String) });
  });
});

describe("what changes", () => {
  test("evict finds the instance, in the environment that is named where there are several", async () => {
    declare("dev", "chat");
    declare("blog", "chat");
    for (const environment of ["dev", "blog"]) serve(environment, "chat", "chat-1-a");
    serve("dev", "chat", "chat-2-a");
    expect(await call("evict", "chat-2-a")).toEqual({
      environment: "dev",
      service: "chat",
      evicted: "chat-2-a",
      replacement: "new-1",
    });
    await expect(call("evict", "chat-1-a")).rejects.toThrow(/in blog and dev; name the environment/);
    expect(await call("evict", "chat-1-a", "blog")).toMatchObject({ environment: "blog" });
    await expect(call("evict", "chat-7-a")).rejects.toMatchObject({ reason: "INVALID_ARGUMENTS", effect: "none" });
    expect(done).toEqual([
      ["evict", { environment: "dev", service: "chat", instance: "chat-2-a" }],
      ["evict", { environment: "blog", service: "chat", instance: "chat-1-a" }],
    ]);
  });

  test("scale", () => {
    declare("dev", "chat");
    expect(call("scale", "dev", "chat", 4)).toEqual({ environment: "dev", service: "chat", before: 2, after: 4 });
    expect(done).toEqual([["scale", "dev", "chat", 4]]);
    expect(() => call("scale", "dev", "chta", 4)).toThrow(/no service chta/);
  });
});

test.each<[string, unknown[], string]>([
  ["explain", ["dev", "chat"], "args.resource"],
  ["explain", ["dev", "chat", ""], "args.resource"],
  ["explain", ["dev", "chat", "a", 1], "got 4 arguments"],
  ["scale", ["dev", "chat", 1.5], "args.replicas"],
  ["scale", ["dev", "chat", "4"], "args.replicas"],
  ["scale", ["Dev", "chat", 4], "args.environment"],
  ["evict", [], "args.instance"],
  ["evict", [7], "args.instance"],
  ["listEndpoints", ["dev", { a: 1 }], "args.service"],
])("%s refuses %j", (name, args, text) => {
  declare("dev", "chat");
  expect(() => methods.calls[name]!(args)).toThrow(
    expect.objectContaining({
      reason: "INVALID_ARGUMENTS",
      effect: "none",
      rawMessage: expect.stringContaining(text),
    }),
  );
});

test("attaching refuses what is wrong before it begins", () => {
  declare("dev", "chat");
  const attach = (...args: unknown[]) => methods.channels["attachChan"]!(args, {} as Session);
  expect(() => attach("dev", "chta")).toThrow(expect.objectContaining({ reason: "SERVICE_NOT_FOUND" }));
  expect(() => attach("dev")).toThrow(expect.objectContaining({ reason: "INVALID_ARGUMENTS" }));
  expect(attach("dev", "chat")).toBeTypeOf("function");
});

describe("checks", () => {
  const failed = ({ checks }: CheckReport) =>
    checks.filter(({ isOk }) => !isOk).map(({ what, hint }) => `${what}: ${hint}`);

  test("are fine when all serve, hold and answer", async () => {
    declare("dev", "chat", { desired: 1 });
    serve("dev", "chat", "chat-1-a");
    hold([0, 1, 2, 3, 4, 5, 6, 7], "chat-1-a", 1);
    const report = await methods.check();
    expect(failed(report)).toEqual([]);
    expect(report.checks.map(({ category, what }) => `${category} ${what}`)).toEqual([
      "dev/chat 1 of 1 instances serve",
      "dev/chat 8 of 8 slots are held",
      "dev/chat the agent of chat-1-a answers",
    ]);
  });

  test("name what is not, and what to do", async () => {
    declare("dev", "chat");
    serve("dev", "chat", "chat-1-a");
    serve("dev", "chat", "chat-2-a");
    registry.removeInstance({ environment: "dev", service: "chat", instance: "chat-2-a" });
    registry.upsertInstance({ environment: "dev", service: "chat", instance: "chat-3-a" });
    hold([0], "chat-1-a", 1);
    agents.set("127.0.0.1:5000", "lever-agent/0.9.0");
    expect(failed(await methods.check())).toEqual([
      expect.stringMatching(/^1 of 2 instances serve: Starting: .*await serve/),
      expect.stringMatching(/^1 of 8 slots are held: /),
      "the agent of chat-1-a answers: it is lever-agent/0.9.0, the operator is 1.2.3",
    ]);
    agents.clear();
    expect(failed(await methods.check()).at(-1)).toBe(
      "the agent of chat-1-a answers: nobody answers at 127.0.0.1:5000",
    );
  });

  test("of a service without instances ask for no slots", async () => {
    declare("dev", "chat", { desired: 0 });
    expect((await methods.check()).checks).toMatchObject([{ isOk: true }]);
  });
});
