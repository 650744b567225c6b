import { VirtualClock } from "@leveros/protocol/clock/virtual-clock.ts";
import { beforeEach, describe, expect, test } from "vitest";
import { LocalWorkload, type LocalWorkloadOptions, replicasMax } from "./local-workload.ts";
import type { InstanceExit, InstanceObserver, InstanceSpec, RunningInstance } from "./process-supervisor.ts";

/** Runs nothing: the test says when an instance starts and ends. Real processes: process-supervisor's tests. */
class HandSupervisor {
  readonly starts: { spec: InstanceSpec; observer: InstanceObserver; instance: RunningInstance }[] = [];
  readonly stops: string[] = [];

  start(spec: InstanceSpec, observer: InstanceObserver = {}): RunningInstance {
    const instance = { id: spec.id, spec, pid: 100 + this.starts.length, exited: Promise.resolve({} as InstanceExit) };
    this.starts.push({ spec, observer, instance });
    return instance;
  }

  async stop(instance: RunningInstance): Promise<void> {
    this.stops.push(instance.id);
  }

  get last() {
    return this.starts.at(-1)!;
  }

  run(index = this.starts.length - 1): void {
    const { observer, instance } = this.starts[index]!;
    observer.onStart?.(instance);
  }

  end(exit: Partial<InstanceExit> = {}, index = this.starts.length - 1): void {
    const { observer, instance } = this.starts[index]!;
    observer.onExit?.(instance, { code: 1, signal: null, uptimeMs: 10, ...exit });
  }
}

let clock: VirtualClock;
let supervisor: HandSupervisor;
let messages: string[];
let exits: string[];
let stopping: string[];

beforeEach(() => {
  clock = new VirtualClock();
  supervisor = new HandSupervisor();
  messages = [];
  exits = [];
  stopping = [];
});

function workload(options: Partial<LocalWorkloadOptions> = {}): LocalWorkload {
  let seed = 1;
  return new LocalWorkload({
    service: "hello",
    environment: "dev",
    command: "node main.ts",
    directory: "/src/hello",
    env: { COLOR: "blue" },
    supervisor,
    clock,
    random: () => {
      seed = (seed * 48_271) % 2_147_483_647;
      return seed / 2_147_483_647;
    },
    onMessage: (line) => messages.push(line),
    onExit: (id) => exits.push(id),
    onStopping: (id) => stopping.push(id),
    ...options,
  });
}

/** Lets `prepareInstance` come back. */
async function settle(): Promise<void> {
  for (let index = 0; index < 10; index++) await Promise.resolve();
}

async function advance(ms: number): Promise<void> {
  clock.advance(ms);
  await settle();
}

const states = (of: LocalWorkload) => of.status().map(({ n, state }) => `${n} ${state}`);

describe("starting and ending", () => {
  test("each replica gets an id, its variables and a state", async () => {
    const prepared: string[] = [];
    const hello = workload({
      gracePeriodMs: 5000,
      prepareInstance: async (id) => {
        prepared.push(id);
        return { LEVER_AGENT: `unix:///run/${id}.sock` };
      },
    });
    hello.scale(2);
    expect(states(hello)).toEqual(["1 Starting", "2 Starting"]);
    expect(supervisor.starts).toHaveLength(0);
    await settle();
    const [first, second] = supervisor.starts.map(({ spec }) => spec);
    expect(prepared).toEqual([first?.id, second?.id]);
    expect(first?.id).toMatch(/^hello-1-[a-z0-9]{4}$/);
    expect(second?.id).toMatch(/^hello-2-[a-z0-9]{4}$/);
    expect(first).toMatchObject({
      service: "hello",
      environment: "dev",
      command: "node main.ts",
      directory: "/src/hello",
      gracePeriodMs: 5000,
      env: { COLOR: "blue", LEVER_AGENT: `unix:///run/${first?.id}.sock` },
    });
    supervisor.run(0);
    expect(states(hello)).toEqual(["1 Running", "2 Starting"]);
    expect(hello.status()[0]).toMatchObject({ id: first?.id, pid: 100, restarts: 0, lastExit: undefined });
  });

  test("restarts after 0.5 s doubling to 30 s, under a new id each time", async () => {
    const hello = workload();
    hello.scale(1);
    await settle();
    const pausesMs: number[] = [];
    const ids = new Set<string>();
    for (let index = 0; index < 9; index++) {
      ids.add(supervisor.last.spec.id);
      supervisor.run();
      supervisor.end();
      const [status] = hello.status();
      expect(status).toMatchObject({ state: "BackOff", pid: undefined, restarts: index, lastExit: { code: 1 } });
      const pauseMs = status?.nextStartInMs as number;
      pausesMs.push(pauseMs);
      await advance(pauseMs - 1);
      expect(supervisor.starts).toHaveLength(index + 1);
      await advance(1);
      expect(supervisor.starts).toHaveLength(index + 2);
    }
    expect(pausesMs).toEqual([500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000]);
    expect(ids.size).toBe(9);
    expect(exits).toEqual([...ids]);
  });

  test("60 s of uptime begin the pauses anew, less do not", async () => {
    const hello = workload();
    hello.scale(1);
    await settle();
    const pauseAfter = async (uptimeMs: number) => {
      supervisor.run();
      supervisor.end({ uptimeMs });
      const pauseMs = hello.status()[0]?.nextStartInMs as number;
      await advance(pauseMs);
      return pauseMs;
    };
    expect(await pauseAfter(1)).toBe(500);
    expect(await pauseAfter(1)).toBe(1000);
    expect(await pauseAfter(59_999)).toBe(2000);
    expect(await pauseAfter(60_000)).toBe(500);
    expect(await pauseAfter(1)).toBe(1000);
  });

  test("each place has pauses of its own", async () => {
    const hello = workload();
    hello.scale(2);
    await settle();
    for (let index = 0; index < 3; index++) {
      supervisor.end({}, supervisor.starts.length - (index === 0 ? 2 : 1));
      await advance(30_000);
    }
    supervisor.end({}, 1);
    expect(hello.status().map(({ nextStartInMs }) => nextStartInMs)).toEqual([undefined, 500]);
  });

  test("a failure to prepare counts as a failed start, and is cleaned up after", async () => {
    let isBroken = true;
    const hello = workload({
      prepareInstance: async () => {
        if (isBroken) throw new Error("no port is free");
        return {};
      },
    });
    hello.scale(1);
    await settle();
    expect(states(hello)).toEqual(["1 BackOff"]);
    expect(exits).toHaveLength(1);
    expect(messages).toHaveLength(1);
    expect(messages[0]).toContain("no port is free");
    isBroken = false;
    await advance(500);
    expect(supervisor.starts).toHaveLength(1);
  });

  test("ids are not used again, whatever chance says", async () => {
    const hello = workload({ random: () => 0.999_999_999 });
    hello.scale(1);
    await settle();
    for (let index = 0; index < 50; index++) {
      supervisor.end();
      await advance(30_000);
    }
    expect(new Set(supervisor.starts.map(({ spec }) => spec.id)).size).toBe(51);
    expect(supervisor.starts.every(({ spec }) => /^hello-1-[a-z0-9]{4}$/.test(spec.id))).toBe(true);
  });
});

describe("scale", () => {
  test("up takes the lowest free numbers, down stops the highest", async () => {
    const hello = workload();
    hello.scale(3);
    await settle();
    for (const index of [0, 1, 2]) supervisor.run(index);
    const ids = supervisor.starts.map(({ spec }) => spec.id);
    hello.scale(1);
    expect(hello.replicas).toBe(1);
    expect(supervisor.stops).toEqual([ids[2], ids[1]]);
    expect(states(hello)).toEqual(["1 Running", "2 Stopping", "3 Stopping"]);
    supervisor.end({ code: 0 }, 1);
    expect(states(hello)).toEqual(["1 Running", "3 Stopping"]);
    hello.scale(3);
    await settle();
    expect(states(hello)).toEqual(["1 Running", "2 Starting", "3 Stopping", "4 Starting"]);
    supervisor.end({ code: 0 }, 2);
    await advance(60_000);
    expect(states(hello)).toEqual(["1 Running", "2 Starting", "4 Starting"]);
    expect(messages).toEqual([]);
  });

  test("down to 0 ends a waiting one at once, and nothing comes back", async () => {
    const hello = workload();
    hello.scale(1);
    await settle();
    supervisor.end();
    hello.scale(0);
    expect(hello.status()).toEqual([]);
    await advance(60_000);
    expect(supervisor.starts).toHaveLength(1);
    expect(clock.timerCount).toBe(0);
  });

  test("one that is removed while it is prepared never starts, and is cleaned up after", async () => {
    const gate = Promise.withResolvers<Record<string, string>>();
    const hello = workload({ prepareInstance: () => gate.promise });
    hello.scale(1);
    hello.scale(0);
    expect(states(hello)).toEqual(["1 Stopping"]);
    gate.resolve({});
    await settle();
    expect(supervisor.starts).toHaveLength(0);
    expect(exits).toHaveLength(1);
    expect(hello.status()).toEqual([]);
  });

  test.each([-1, 1.5, Number.NaN, replicasMax + 1])("%d replicas are refused", (replicas) => {
    expect(() => workload().scale(replicas)).toThrow(expect.objectContaining({ reason: "INVALID_OPTION" }));
  });
});

test("stop waits for all, is idempotent and final", async () => {
  const hello = workload();
  hello.scale(3);
  await settle();
  supervisor.run(0);
  supervisor.end({}, 1);
  let stopped = 0;
  const both = [hello.stop(), hello.stop()].map((promise) => promise.then(() => stopped++));
  await settle();
  expect(supervisor.stops).toHaveLength(2);
  supervisor.end({ code: null, signal: "SIGTERM" }, 0);
  await settle();
  expect(stopped).toBe(0);
  supervisor.end({ code: null, signal: "SIGTERM" }, 2);
  await Promise.all(both);
  expect(hello.status()).toEqual([]);
  hello.scale(2);
  await advance(60_000);
  expect(supervisor.starts).toHaveLength(3);
  expect(messages).toHaveLength(1);
});

describe("replacing", () => {
  /** `replicas` that serve. */
  async function serving(replicas: number): Promise<LocalWorkload> {
    const hello = workload();
    hello.scale(replicas);
    await settle();
    for (let index = 0; index < replicas; index++) {
      supervisor.run(index);
      hello.serving(supervisor.starts[index]!.spec.id);
    }
    return hello;
  }
  const id = (index: number) => supervisor.starts[index]!.spec.id;
  /** What a promise has come to so far. */
  function watched<T>(promise: Promise<T>) {
    const seen: { value?: T; error?: unknown } = {};
    promise.then(
      (value) => Object.assign(seen, { value }),
      (error: unknown) => Object.assign(seen, { error }),
    );
    return seen;
  }

  test("the new one first; the old one is asked to end when the new one serves", async () => {
    const hello = await serving(2);
    const seen = watched(hello.replace(id(0)));
    await settle();
    expect(id(2)).toMatch(/^hello-1-\w{4}$/);
    supervisor.run(2);
    expect(states(hello)).toEqual(["1 Running", "1 Running", "2 Running"]);
    expect([hello.replicas, stopping, supervisor.stops, seen]).toEqual([2, [], [], {}]);
    hello.serving(id(2));
    await settle();
    expect([stopping, supervisor.stops, seen.value?.id]).toEqual([[id(0)], [id(0)], id(2)]);
    expect(states(hello)).toEqual(["1 Stopping", "1 Running", "2 Running"]);
    const gone = watched(seen.value!.gone);
    await settle();
    expect(gone).toEqual({});
    supervisor.end({ code: 0 }, 0);
    await settle();
    expect(gone).toEqual({ value: undefined });
    expect(hello.status().map((status) => [status.id, status.restarts])).toEqual([
      [id(2), 1],
      [id(1), 0],
    ]);
    expect(messages).toEqual([]);
    expect(clock.timerCount).toBe(0);
  });

  test("one that ends before it serves is not started again, and the old one goes on", async () => {
    const hello = await serving(1);
    const seen = watched(hello.replace(id(0)));
    await settle();
    supervisor.run(1);
    supervisor.end({ code: 1 }, 1);
    await settle();
    expect(seen.error).toMatchObject({
      rawMessage: `the replacement ${id(1)} did not come up: it ended before it served`,
    });
    expect(messages).toEqual([expect.stringContaining(`${id(1)} ended with exit code 1`)]);
    await advance(60_000);
    expect([states(hello), supervisor.stops, supervisor.starts.length, exits]).toEqual([["1 Running"], [], 2, [id(1)]]);
    expect(clock.timerCount).toBe(0);
  });

  test("one that does not serve within 60 s is given up", async () => {
    const hello = await serving(1);
    const seen = watched(hello.replace(id(0)));
    await settle();
    supervisor.run(1);
    await advance(59_999);
    expect(seen).toEqual({});
    await advance(1);
    expect(seen.error).toMatchObject({ rawMessage: expect.stringContaining("did not serve within 60 s") });
    expect(supervisor.stops).toEqual([id(1)]);
    hello.serving(id(1));
    expect(supervisor.stops).toEqual([id(1)]);
  });

  test("asked for again, the newest counts", async () => {
    const hello = await serving(1);
    const [first, second] = [watched(hello.replace(id(0))), watched(hello.replace(id(0)))];
    await settle();
    expect(first.error).toMatchObject({ rawMessage: expect.stringContaining("another one was asked for") });
    // The first was still being prepared.
    expect(supervisor.starts).toHaveLength(2);
    hello.serving(id(1));
    await settle();
    expect(second.value?.id).toBe(id(1));
  });

  test("when the old one ends meanwhile the new one is its successor at once, and is started again if it ends", async () => {
    const hello = await serving(1);
    const seen = watched(hello.replace(id(0)));
    await settle();
    supervisor.end({ code: 3 }, 0);
    await settle();
    expect(seen.value?.id).toBe(id(1));
    expect([hello.replicas, states(hello)]).toEqual([1, ["1 Starting"]]);
    supervisor.end({ code: 1 }, 1);
    await advance(500);
    expect(supervisor.starts).toHaveLength(3);
    expect(messages[0]).toContain(`${id(0)} ended with exit code 3`);
  });

  test("one that waits to be started again is started at once", async () => {
    const hello = await serving(1);
    supervisor.end({ code: 1 }, 0);
    await advance(100);
    await hello.replace(id(0));
    await settle();
    expect(supervisor.starts).toHaveLength(2);
    await advance(60_000);
    expect(supervisor.starts).toHaveLength(2);
  });

  test("of what is not there is refused; scaling and stopping end both", async () => {
    const hello = await serving(2);
    await expect(hello.replace("hello-9-xxxx")).rejects.toMatchObject({ reason: "INVALID_ARGUMENTS" });
    const seen = watched(hello.replace(id(1)));
    await settle();
    await expect(hello.replace(id(2))).rejects.toMatchObject({ reason: "INVALID_ARGUMENTS" });
    hello.scale(1);
    await settle();
    expect(seen.error).toMatchObject({ rawMessage: expect.stringContaining("its place was taken away") });
    expect(supervisor.stops.toSorted()).toEqual([id(1), id(2)].toSorted());
    supervisor.end({}, 1);
    supervisor.end({}, 2);
    const other = watched(hello.replace(id(0)));
    await settle();
    const stopped = watched(hello.stop());
    await settle();
    expect(other.error).toBeDefined();
    supervisor.end({}, 0);
    supervisor.end({}, 3);
    await settle();
    expect([stopped, hello.status(), clock.timerCount]).toEqual([{ value: undefined }, [], 0]);
  });

  test("all, one after the other, with what is to run from now on", async () => {
    const hello = await serving(2);
    hello.changeProgram({ command: "node other.ts", directory: "/src/other", gracePeriodMs: 1 });
    const seen = watched(hello.restart());
    await settle();
    expect(supervisor.starts).toHaveLength(3);
    expect(supervisor.last.spec).toMatchObject({
      command: "node other.ts",
      directory: "/src/other",
      gracePeriodMs: 1,
      env: { COLOR: "blue" },
    });
    hello.serving(id(2));
    await settle();
    // The first of the old ones is still ending: it is waited for, but not for ever.
    expect(supervisor.starts).toHaveLength(3);
    await advance(5000);
    expect(supervisor.starts).toHaveLength(4);
    hello.serving(id(3));
    await settle();
    supervisor.end({ code: 0 }, 1);
    await settle();
    expect([seen.value, supervisor.stops]).toEqual([true, [id(0), id(1)]]);
  });

  test("all: the first that does not come up ends it, and is told of", async () => {
    const hello = await serving(3);
    const seen = watched(hello.restart());
    await settle();
    supervisor.end({ code: 1 }, 3);
    await settle();
    expect(seen.value).toBe(false);
    expect(supervisor.starts).toHaveLength(4);
    expect(messages.at(-1)).toBe(
      `hello: the replacement ${id(3)} did not come up: it ended before it served. ${id(0)} goes on as it was.`,
    );
  });

  test("all, again: the later one begins anew, and only it goes on", async () => {
    const hello = await serving(2);
    const first = watched(hello.restart());
    await settle();
    supervisor.run(2);
    const second = watched(hello.restart());
    await settle();
    expect([first.value, supervisor.stops]).toEqual([false, [id(2)]]);
    hello.serving(id(3));
    supervisor.end({}, 0);
    await settle();
    hello.serving(id(4));
    supervisor.end({}, 1);
    await settle();
    expect([second.value, supervisor.starts.length, messages]).toEqual([true, 5, []]);
  });
});

test("attached instances have ids with numbers of their own", async () => {
  const hello = workload();
  hello.scale(1);
  const other = hello.attach();
  hello.scale(2);
  await settle();
  expect(other).toMatch(/^hello-2-\w{4}$/);
  expect(states(hello)).toEqual(["1 Starting", "3 Starting"]);
  hello.detach(other);
  hello.scale(3);
  expect(states(hello)).toEqual(["1 Starting", "2 Starting", "3 Starting"]);
});

describe("messages", () => {
  test("name what ended, how, and what to do", async () => {
    const hello = workload();
    hello.scale(1);
    await settle();
    const message = async (exit: Partial<InstanceExit>) => {
      const { id } = supervisor.last.spec;
      supervisor.end(exit);
      await advance(30_000);
      expect(messages.at(-1)).toContain(`hello: ${id} `);
      expect(messages.at(-1)).toContain("(node main.ts, in /src/hello)");
      return messages.at(-1);
    };
    expect(await message({ code: 1, uptimeMs: 250 })).toContain(
      "ended with exit code 1 after 0.3 s (node main.ts, in /src/hello). Its last lines of output say why. " +
        "It is started again in 0.5 s",
    );
    expect(await message({ code: 127 })).toContain("The shell did not find the command");
    expect(await message({ code: 126 })).toContain("executable");
    expect(await message({ code: 0 })).toContain("A service has to keep running");
    expect(await message({ code: null, signal: "SIGKILL" })).toContain("ended by SIGKILL");
    expect(await message({ code: 137 })).toContain("ended with exit code 137 (SIGKILL) after 0.0 s");
    expect(messages.at(-1)).toContain("memory");
    expect(await message({ code: null, startError: "the directory /x is not there" })).toContain(
      "could not be started (node main.ts, in /src/hello): the directory /x is not there. Correct",
    );
    expect(messages).toHaveLength(7);
    expect(messages.every((line) => !line.includes("\n"))).toBe(true);
  });

  test("the same failure comes once for all replicas, until it changes or one was up for 60 s", async () => {
    const hello = workload();
    hello.scale(3);
    await settle();
    for (const index of [0, 1, 2]) supervisor.end({ code: 1 }, index);
    await advance(500);
    supervisor.end({ code: 1 });
    await advance(30_000);
    expect(messages).toHaveLength(1);
    supervisor.end({ code: 2 });
    await advance(30_000);
    expect(messages).toHaveLength(2);
    supervisor.end({ code: 2, uptimeMs: 61_000 });
    expect(messages).toHaveLength(3);
  });

  test("what does not even end by SIGKILL is named", async () => {
    const hello = workload();
    hello.scale(1);
    await settle();
    const stopped = hello.stop();
    supervisor.end({ code: null, signal: "SIGKILL", survivorsOf: 4711 });
    await stopped;
    expect(messages).toHaveLength(1);
    expect(messages[0]).toContain("group 4711");
  });

  test("a long command is shortened to one line", async () => {
    const hello = workload({ command: `node -e '\n${"x".repeat(5000)}'` });
    hello.scale(1);
    await settle();
    supervisor.end();
    expect(messages[0]).toContain("(node -e ' xxx");
    expect(messages[0]?.length).toBeLessThan(600);
  });
});
