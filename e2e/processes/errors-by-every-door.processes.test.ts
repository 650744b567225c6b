/**
 * One table of what can go wrong with a call, by the Node client, HTTP and the command line alike. What each says of
 * `effect` is compared with what the method itself wrote down: `none` is never a lie, and neither is `ran`.
 */

import { setTimeout as sleep } from "node:timers/promises";
import { LeverError } from "leveros";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { AgentLinks, linkedAgents } from "../harness/agent-links.ts";
import { type Call, type FrontEnd, frontEnds, type Outcome } from "../harness/front-end.ts";
import { LeverDev } from "../harness/lever-dev.ts";
import { until } from "../harness/until.ts";

const mebibyte = 1024 * 1024;

interface Row extends Call {
  readonly name: string;
  readonly expected: {
    readonly kind: string;
    readonly code: string;
    readonly reason: string;
    readonly effect: "none" | "unknown" | "ran";
    readonly httpStatus: number;
    readonly exitCode: number;
    readonly value?: unknown;
    /** What a person has to be told. */
    readonly text?: RegExp;
  };
  /** How often the method was entered. */
  readonly runs: number;
  before?(run: Run): void | Promise<void>;
  /** Done when all three calls are under way: entered, if the row expects them to be. */
  during?(run: Run): void | Promise<void>;
  after?(run: Run): void | Promise<void>;
}

interface Run {
  readonly dev: LeverDev;
  readonly links: AgentLinks;
}

const lost = {
  kind: "network",
  code: "UNAVAILABLE",
  reason: "CONNECTION_LOST",
  effect: "unknown",
  httpStatus: 502,
  exitCode: 3,
} as const;
const wrong = { kind: "arguments", code: "INVALID_ARGUMENT", effect: "none", httpStatus: 400, exitCode: 2 } as const;
const own = {
  kind: "method",
  code: "UNKNOWN",
  reason: "METHOD_ERROR",
  effect: "ran",
  httpStatus: 422,
  exitCode: 1,
} as const;

async function killApp({ dev }: Run, service: string): Promise<void> {
  const app = dev.apps().find((each) => each.service === service);
  process.kill(app?.pid as number, "SIGKILL");
}

async function healed({ dev, links }: Run, service: string): Promise<void> {
  await dev.serving(service, 1);
  await links.update();
  await using client = dev.client();
  await until("calls pass again", () =>
    client.invoke(`/${service}/ping`).then(
      () => true,
      () => false,
    ),
  );
}

const rows: readonly Row[] = [
  {
    name: "an argument that the validator refuses",
    path: "/probe/checked",
    args: ["a", 1.5],
    expected: { ...wrong, reason: "INVALID_ARGUMENTS", text: /args\[1\]/ },
    runs: 0,
  },
  {
    name: "too many arguments",
    path: "/probe/checked",
    args: ["a", 1, 2],
    expected: { ...wrong, reason: "INVALID_ARGUMENTS", text: /3 arguments/ },
    runs: 0,
  },
  {
    name: "bytes where JSON is wanted",
    path: "/probe/checked",
    args: Uint8Array.of(1, 2, 3),
    expected: { ...wrong, reason: "ARGS_FORM", text: /bytes/ },
    runs: 0,
  },
  {
    name: "the method's own error, a JSON value",
    path: "/probe/fail",
    args: [{ error: "NO", left: [1, null, "é"] }],
    expected: { ...own, value: { error: "NO", left: [1, null, "é"] } },
    runs: 1,
  },
  {
    name: "the method's own error, bytes",
    path: "/probe/fail",
    args: Uint8Array.of(0, 255, 128),
    expected: { ...own, value: { bytes: "AP+A" } },
    runs: 1,
  },
  {
    name: "a method that throws what is not for callers",
    path: "/probe/crash",
    args: [],
    expected: {
      kind: "method",
      code: "INTERNAL",
      reason: "METHOD_THREW",
      effect: "ran",
      httpStatus: 500,
      exitCode: 1,
    },
    runs: 1,
  },
  {
    name: "an unknown method",
    path: "/probe/ech0",
    args: [],
    expected: {
      ...wrong,
      code: "UNIMPLEMENTED",
      reason: "METHOD_NOT_FOUND",
      httpStatus: 404,
      text: /ech0.*echo/s,
    },
    runs: 0,
  },
  {
    name: "an unknown service",
    path: "/prob/echo",
    args: [],
    expected: { ...wrong, code: "NOT_FOUND", reason: "SERVICE_NOT_FOUND", httpStatus: 404, text: /dev\/prob/ },
    runs: 0,
  },
  {
    name: "a service without an instance",
    path: "/asleep/echo",
    args: [],
    expected: {
      kind: "network",
      code: "UNAVAILABLE",
      reason: "NO_INSTANCES",
      effect: "none",
      httpStatus: 503,
      exitCode: 3,
    },
    runs: 0,
  },
  {
    name: "a resource of a service that holds none",
    path: "/probe/room-7/echo",
    args: [],
    expected: { ...wrong, code: "FAILED_PRECONDITION", reason: "NO_RESOURCES" },
    runs: 0,
  },
  {
    name: "invoking a streaming method",
    path: "/probe/echoChan",
    args: [],
    expected: { ...wrong, code: "FAILED_PRECONDITION", reason: "METHOD_KIND_MISMATCH", text: /streaming/ },
    runs: 0,
  },
  {
    name: "a channel to a method that does not stream",
    path: "/probe/echo",
    args: [],
    asChannel: true,
    expected: { ...wrong, code: "FAILED_PRECONDITION", reason: "METHOD_KIND_MISMATCH", text: /no streaming/ },
    runs: 0,
  },
  {
    name: "arguments of 1 MiB and 1 byte",
    path: "/probe/takes",
    args: new Uint8Array(mebibyte + 1),
    expected: {
      ...wrong,
      code: "RESOURCE_EXHAUSTED",
      reason: "ARGS_TOO_LARGE",
      httpStatus: 413,
      text: /channel/,
    },
    runs: 0,
  },
  {
    name: "a result of 1 MiB and 1 byte",
    path: "/probe/gives",
    args: [mebibyte + 1],
    expected: {
      kind: "method",
      code: "RESOURCE_EXHAUSTED",
      reason: "RESULT_TOO_LARGE",
      effect: "ran",
      httpStatus: 500,
      exitCode: 1,
      text: /channel/,
    },
    runs: 1,
  },
  {
    name: "a deadline that passes while the method runs",
    path: "/probe/wait",
    args: [1500],
    timeoutMs: 400,
    expected: {
      kind: "network",
      code: "DEADLINE_EXCEEDED",
      reason: "DEADLINE_EXCEEDED",
      effect: "unknown",
      httpStatus: 504,
      exitCode: 3,
      text: /within \d+ ms/,
    },
    runs: 1,
  },
  {
    name: "an instance that is killed while the method runs",
    path: "/fragile/wait",
    args: [20_000],
    expected: { ...lost, reason: "APP_GONE" },
    runs: 1,
    during: (run) => killApp(run, "fragile"),
    after: (run) => healed(run, "fragile"),
  },
  {
    name: "a link that is cut before the call",
    path: "/fragile/echo",
    args: [1],
    expected: { ...lost, reason: "INSTANCE_UNREACHABLE", effect: "none", httpStatus: 503 },
    runs: 0,
    before: ({ links }) => links.refuse("fragile"),
    after: (run) => healed(run, "fragile"),
  },
  {
    name: "a link that is cut before the call has arrived",
    path: "/fragile/echo",
    args: [1],
    expected: lost,
    runs: 0,
    before: ({ links }) => setMode(links, "hold requests"),
    during: async ({ links }) => {
      // Held, they leave no trace but the bytes that the link has swallowed: all three within this time.
      await sleep(2000);
      cut(links);
    },
    after: (run) => healed(run, "fragile"),
  },
  {
    name: "a link that is cut while the method runs",
    path: "/fragile/wait",
    args: [1500],
    expected: lost,
    runs: 1,
    during: ({ links }) => cut(links),
    after: (run) => healed(run, "fragile"),
  },
  {
    name: "a link that falls silent while the method runs",
    path: "/fragile/wait",
    args: [1500],
    expected: lost,
    runs: 1,
    during: ({ links }) => setMode(links, "hold"),
    after: (run) => {
      cut(run.links);
      return healed(run, "fragile");
    },
  },
  {
    name: "a link that is cut after the method ran, before its answer has arrived",
    path: "/fragile/wait",
    args: [1],
    expected: lost,
    runs: 1,
    before: ({ links }) => setMode(links, "hold replies"),
    during: async ({ dev, links }) => {
      const left = () =>
        dev.log.entries().filter(({ event, id }) => event === "left" && id?.startsWith("after")).length;
      await until("the methods have returned", () => left() === 3);
      await sleep(100);
      cut(links);
    },
  },
];

function setMode(links: AgentLinks, mode: "hold" | "hold requests" | "hold replies"): void {
  for (const link of links.to("fragile")) link.mode = mode;
}

function cut(links: AgentLinks): void {
  for (const link of links.to("fragile")) {
    link.mode = "forward";
    link.cut();
  }
}

let run: Run & { readonly doors: readonly FrontEnd[] };

beforeAll(async () => {
  const dev = await LeverDev.start({ ...linkedAgents, manifests: ["e2e/fixtures/probe/probe.yaml"] });
  const links = await AgentLinks.start(dev);
  run = { dev, links, doors: frontEnds(dev, dev.client()) };
});

afterAll(async () => {
  run?.links[Symbol.dispose]();
  await run?.dev.stop();
});

/** What the row's three calls came to, and how often each has run. */
async function outcomes(row: Row, { dev, links, doors }: typeof run) {
  await row.before?.({ dev, links });
  const prefix = row.name.includes("after") ? "after" : "row";
  const ids = doors.map(({ name }) => `${prefix}-${rows.indexOf(row)}-${name}`);
  const calls = doors.map((door, i) => door.call(row, ids[i] as string));
  if (row.during !== undefined) {
    if (row.runs > 0) await until("all calls are under way", () => ids.every((id) => dev.log.enteredWith(id) > 0));
    await row.during({ dev, links });
  }
  const results = await Promise.all(calls);
  await row.after?.({ dev, links });
  return results.map((outcome, i) => ({ door: doors[i]?.name, outcome, runs: dev.log.enteredWith(ids[i] as string) }));
}

/** Effects that do not agree with how often the method was entered. */
function lies(found: readonly { readonly outcome: Outcome; readonly runs: number }[]): number {
  return found.filter(
    ({ outcome: { effect }, runs }) => (effect === "none" && runs > 0) || (effect === "ran" && runs === 0),
  ).length;
}

describe("by Node, HTTP and the command line alike", () => {
  test.for(rows)("$name", async (row) => {
    const found = await outcomes(row, run);
    const { httpStatus, exitCode, text, ...expected } = row.expected;
    for (const { door, outcome, runs } of found) {
      expect({ door, runs, ...outcome }).toMatchObject({
        door,
        runs: row.runs,
        ...expected,
        ...(door === "http" ? { httpStatus } : door === "cli" ? { exitCode } : {}),
      });
      if (text !== undefined) expect(outcome.text).toMatch(text);
      if (row.expected.value !== undefined) expect(outcome.value).toEqual(row.expected.value);
    }
    expect(lies(found)).toBe(0);
  });

  test("1 MiB itself passes, there and back", async () => {
    const [node, , cli] = run.doors as [FrontEnd, FrontEnd, FrontEnd];
    for (const door of [node, cli]) {
      const data = new Uint8Array(mebibyte);
      expect(await door.call({ path: "/probe/takes", args: data }, "x")).toMatchObject({ result: mebibyte });
      const { result } = await door.call({ path: "/probe/gives", args: [mebibyte] }, "x");
      expect(Buffer.from((result as { bytes: string }).bytes, "base64")).toHaveLength(mebibyte);
    }
  });

  test("an error with which the caller cannot repeat says what a repeat would do", async () => {
    await using client = run.dev.client();
    const controller = new AbortController();
    const call = client.invoke("/probe/wait", [1000], { signal: controller.signal, metadata: { id: "cancelled" } });
    await until("it runs", () => run.dev.log.enteredWith("cancelled") === 1);
    controller.abort();
    const error = await call.catch((thrown: unknown) => thrown);
    expect(LeverError.is(error) && [error.reason, error.effect]).toEqual(["CANCELLED", "unknown"]);
  });
});

test("the control: an agent that calls a death in mid-call harmless is found out", async () => {
  await using dev = await LeverDev.start({
    ...linkedAgents,
    manifests: ["e2e/fixtures/probe/probe.yaml"],
    patches: [
      {
        file: "agent/core/inbound-relay.ts",
        find: "this.#peer.reset(encodeFault(gone));",
        replace: 'this.#peer.refuse(encodeFault(gone.withEffect("none")));',
      },
    ],
  });
  using links = await AgentLinks.start(dev);
  const row = rows.find(({ name }) => name === "an instance that is killed while the method runs") as Row;
  const doors = frontEnds(dev, dev.client());
  // Believed to be harmless, the death is followed by attempts at whatever is started next, until their time is over.
  const found = await outcomes({ ...row, timeoutMs: 3000 }, { dev, links, doors });
  const wrongRuns = found.filter(({ outcome, runs }) => runs !== row.runs || outcome.effect !== row.expected.effect);
  console.log(`errors: 0 lies in ${rows.length} rows; control: ${lies(found)} lies, ${wrongRuns.length} of 3 wrong`);
  expect(wrongRuns.length).toBeGreaterThan(0);
});
