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

beforeEach(() => {
  clock = new VirtualClock();
  supervisor = new HandSupervisor();
  messages = [];
  exits = [];
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
