/** How the operator's reports are printed for people. */

import type { EndpointReport, ExplainReport, HolderReport } from "@leveros/operator/admin/admin-report.ts";
import { defaultServicePolicy } from "@leveros/protocol/control/discovery.ts";
import pc from "picocolors";
import { describe, expect, test } from "vitest";
import { benchText } from "./bench.ts";
import { checksText } from "./check-list.ts";
import { explainText, resourceOf } from "./explain.ts";
import { serviceName } from "./operator-command.ts";
import { endpointsText, resourcesText, servicesText } from "./services.ts";

const names = { environment: "dev", service: "chat" };

test("services", () => {
  const operator = {
    version: "0.1.0",
    address: "a:1",
    pid: 1,
    replica: null,
    leader: null,
    otherReplicas: 0,
    gateways: [],
  };
  const chat = {
    ...names,
    url: "lever://dev/chat",
    isReady: false,
    reason: "BackOff",
    message: null,
    serving: 2,
    desired: 3,
    methods: [],
    slots: { slots: 256, held: 171, moving: 4 },
    ageSeconds: 125,
  };
  expect(servicesText({ operator, services: [chat] })).toBe(
    "SERVICE   READY  INSTANCES  DESIRED  SLOTS    AGE  REASON\ndev/chat  False  2          3        171/256  2m   BackOff",
  );
  expect(servicesText({ operator, services: [] })).toBe("no services");
});

test("endpoints", () => {
  const endpoint: EndpointReport = {
    instance: "chat-1-x7k2",
    state: "Starting",
    address: "",
    zone: null,
    slots: 0,
    pid: null,
    restarts: 2,
    adminPort: null,
    isAttached: true,
    node: null,
    podUid: null,
    problem: null,
  };
  const report = { ...names, version: 7, policy: defaultServicePolicy, endpoints: [endpoint] };
  expect(endpointsText([report])).toBe(
    [
      "SERVICE   INSTANCE     STATE     ADDRESS  SLOTS  PID  RESTARTS  BY",
      "dev/chat  chat-1-x7k2  Starting  -        0      -    2         lever run",
    ].join("\n"),
  );
  expect(endpointsText([{ ...report, endpoints: [] }])).toBe("no instances");
});

test("endpoints of a cluster, with why one does not serve", () => {
  const endpoint: EndpointReport = {
    instance: "chat-6d5f-x7k2m",
    state: "Starting",
    address: "",
    zone: "a",
    slots: 0,
    pid: null,
    restarts: 2,
    adminPort: 3838,
    isAttached: false,
    node: "node-1",
    podUid: "1-2-3",
    problem: "container app ends again and again.",
  };
  const report = { ...names, version: 7, policy: defaultServicePolicy, endpoints: [endpoint] };
  expect(endpointsText([report])).toBe(
    [
      "SERVICE   INSTANCE         STATE     ADDRESS  NODE    ZONE  SLOTS  RESTARTS  WHY",
      "dev/chat  chat-6d5f-x7k2m  Starting  -        node-1  a     0      2         container app ends again and again.",
    ].join("\n"),
  );
});

test("resources, with what nobody holds last", () => {
  const runs = Array.from({ length: 10 }, (_, n): [number, number] => [3 * n, 3 * n + (n % 2)]);
  const holder = (part: Partial<HolderReport>): HolderReport => ({
    instance: "a-1",
    state: "Serving",
    slots: 15,
    runs,
    epochs: [4, 9],
    moving: 1,
    ...part,
  });
  const none = holder({ instance: "", state: null, slots: 1, runs: [[2, 2]], epochs: [0, 0], moving: 0 });
  const idle = holder({ instance: "a-2", slots: 0, runs: [], epochs: [0, 0], moving: 0 });
  const text = resourcesText([{ ...names, slots: 16, onUncertain: "Wait", holders: [holder({}), idle, none] }]);
  expect(text).toBe(
    [
      "SERVICE   INSTANCE  STATE    SLOTS  MOVING  EPOCHS  RUNS",
      "dev/chat  a-1       Serving  15     1       4-9     0 3-4 6 9-10 12 15-16 18 21-22 and 2 more",
      "dev/chat  a-2       Serving  0      0       -       -",
      "dev/chat  (nobody)  -        1      0       0       2",
    ].join("\n"),
  );
  expect(resourcesText([])).toContain("spec.ownership");
});

describe("explain", () => {
  const report: ExplainReport = {
    ...names,
    resource: "room-7",
    slot: 63,
    slots: 256,
    holder: "chat-1-x7k2",
    state: "Serving",
    address: "127.0.0.1:4000",
    epoch: 17,
    fence: 0,
    why: "nobody had held it",
    onUncertain: "Wait",
    leaseLeftMs: 12_340,
    move: { to: "chat-2-aaaa", epoch: 18, waitsFor: "chat-1-x7k2 (epoch 17) is to finish" },
    moves: [{ at: new Date(2026, 0, 2, 3, 4, 5).getTime(), from: "", to: "chat-1-x7k2", epoch: 17, why: "first" }],
    heldCalls: [
      { agent: "gateway", calls: 2 },
      { agent: "hello-1-b", calls: 1 },
    ],
    agentsNotAsked: 2,
  };

  test("says all of it", () => {
    expect(explainText(report).split("\n")).toEqual([
      'resource    "room-7" of dev/chat',
      "slot        63 of 256",
      "holder      chat-1-x7k2 (Serving, 127.0.0.1:4000)",
      "epoch       17",
      "lease       12.3 s left",
      "why there   nobody had held it",
      "moving      to chat-2-aaaa under epoch 18: chat-1-x7k2 (epoch 17) is to finish",
      "held calls  3 (2 at gateway, 1 at hello-1-b); not known of 2 agents that are processes of their own",
      "last moves  03:04:05  nobody → chat-1-x7k2  epoch 17  first",
    ]);
  });

  test("and what there is not", () => {
    const none = { holder: "", state: null, address: null, move: null, moves: [], heldCalls: [], agentsNotAsked: 0 };
    const text = explainText({ ...report, ...none, why: "", leaseLeftMs: null });
    expect(text.split("\n").slice(2)).toEqual([
      "holder      nobody, any more",
      "epoch       17",
      "lease       -",
      "why there   -",
      "moving      no",
      "held calls  0",
    ]);
  });

  test.each<[string, string, string, string]>([
    ["lever://dev/chat/room-7/", "dev", "chat", "room-7"],
    ["lever://dev/chat/room-7/history", "dev", "chat", "room-7"],
    ["lever://dev:3837/chat/room-7/", "dev", "chat", "room-7"],
    ["/chat/room-7/", "shop", "chat", "room-7"],
    ["/chat/a/b//", "shop", "chat", "a/b/"],
    ["/chat/100%25%F0%9F%98%80/", "shop", "chat", "100%😀"],
    ["/chat/😀/", "shop", "chat", "😀"],
    [`/chat/${"x".repeat(1024)}/`, "shop", "chat", "x".repeat(1024)],
  ])("%s names a resource", (url, environment, service, resource) => {
    expect(resourceOf(url, "shop")).toEqual({ environment, service, resource });
  });

  test.each([
    ["/chat/room-7", /names no resource, .*end it with a slash/],
    ["/chat/", /names no resource, expected/],
    ["/chat", /names no resource, expected [^;]*$/],
    ["lever://dev/chat/room-7", /end it with a slash/],
    ["/chat//", /resource is empty/],
    ["/chat/a%ZZ/", /two hex digits/],
    [`/chat/${"x".repeat(1025)}/`, /1025 bytes/],
    [`/chat/${"😀".repeat(257)}/`, /1028 bytes/],
  ])("%s does not", (url, message) => {
    expect(() => resourceOf(url, "dev")).toThrow(expect.objectContaining({ reason: "INVALID_URL" }));
    expect(() => resourceOf(url, "dev")).toThrow(message);
  });
});

test("checks, under their headings, with what to do", () => {
  const check = (category: string, what: string, hint: string | null) => ({
    category,
    what,
    isOk: hint === null,
    isWarning: false,
    hint,
  });
  const plain = pc.createColors(false);
  expect(
    checksText([check("lever", "a", null), check("dev/chat", "b", "do c"), check("dev/chat", "d", null)], plain),
  ).toBe("lever\n-----\n√ a\n\ndev/chat\n--------\n× b\n    do c\n√ d\n\n1 of 3 checks failed");
  expect(checksText([check("lever", "a", null)], plain)).toBe("lever\n-----\n√ a\n\nall is well");
  expect(checksText([{ ...check("lever", "a", "look"), isWarning: true }], plain)).toBe(
    "lever\n-----\n‼ a\n    look\n\nall is well, 1 warning",
  );
});

test("bench", () => {
  const latencyMs = { p50: 0.384, p90: 12.34, p99: 123.4, max: 999.6 };
  const report = { url: "/a/b", concurrency: 10, seconds: 2, calls: 41_794, callsPerSecond: 20_897, latencyMs };
  expect(benchText({ ...report, errors: {} })).toBe(
    [
      "20897 calls/s  (41794 calls in 2.0 s by 10 callers)",
      "latency  p50 0.38 ms  p90 12.3 ms  p99 123 ms  max 1000 ms",
      "errors   0",
    ].join("\n"),
  );
  expect(benchText({ ...report, errors: { APP_GONE: 2, OVERLOADED: 1 } })).toMatch(
    /errors {3}3: APP_GONE 2, OVERLOADED 1$/,
  );
});

test.each([
  ["chat", undefined, "chat"],
  ["dev/chat", "dev", "chat"],
  ["lever://dev/chat", "dev", "chat"],
])("%s is a service", (text, environment, service) => {
  expect(serviceName(text)).toEqual({ environment, service });
});

test.each(["", "/", "Chat", "dev/", "/chat", "a/b/c", "dev/chat/"])("%j is none", (text) => {
  expect(() => serviceName(text)).toThrow(expect.objectContaining({ reason: "INVALID_ARGUMENTS", effect: "none" }));
});
