import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, it } from "vitest";
import { type Channel, Client, context, LeverError } from "../index.ts";
import { TestEnvironment } from "./index.ts";

const where = {
  instance() {
    return context().instance;
  },
  async slowly(ms: number) {
    await sleep(ms);
    return context().instance;
  },
};

/** As a module of a service has it: made when the module is loaded. */
const client = new Client();

const front = {
  /** Which instance of `where` answers, and who asked. */
  async ask(environment?: string) {
    const service = environment === undefined ? "where" : `${environment}/where`;
    return [context().instance, await client.service<typeof where>(service).instance()];
  },
};

async function until(isTrue: () => boolean): Promise<void> {
  while (!isTrue()) await sleep(1);
}

function timers(): number {
  return process.getActiveResourcesInfo().filter((resource) => resource === "Timeout").length;
}

describe("TestEnvironment", () => {
  it("has the instances that were asked for, which share the work", async () => {
    await using env = await TestEnvironment.start({ where: { methods: where, instances: 3 }, one: { methods: where } });
    expect(env.environment).toBe("test");
    expect(env.instances("where")).toEqual(["where-1", "where-2", "where-3"]);
    expect(env.instances("one")).toEqual(["one-1"]);
    const service = env.client.service<typeof where>("where");
    const instances = new Set<string>();
    while (instances.size < 3) instances.add(await service.instance());
    expect([...instances].sort()).toEqual(env.instances("where"));
  });

  it("shares methods between instances, or has each make its own", async () => {
    class Counter {
      #count = 0;
      next() {
        return { instance: context().instance, count: ++this.#count };
      }
    }
    await using env = await TestEnvironment.start({
      shared: { methods: new Counter(), instances: 2 },
      own: { methods: () => new Counter(), instances: 2 },
      late: { methods: async () => new Counter(), instances: 2 },
    });
    const last = async (service: string) => {
      const counts: Record<string, number> = {};
      for (let index = 0; index < 40; index++) {
        const { instance, count } = await env.client.service<Counter>(service).next();
        counts[instance] = count;
      }
      return Object.values(counts);
    };
    expect(Math.max(...(await last("shared")))).toBe(40);
    for (const service of ["own", "late"]) {
      const [first = 0, second = 0] = await last(service);
      expect(first + second).toBe(40);
    }
  });

  it("stops an instance without an error for anybody", async () => {
    await using env = await TestEnvironment.start({ where: { methods: where, instances: 3 } });
    const service = env.client.service<typeof where>("where");
    let isOver = false;
    const answers: string[] = [];
    const load = Promise.all(
      Array.from({ length: 20 }, async () => {
        while (!isOver) answers.push(await service.slowly(2));
      }),
    );
    await sleep(20);
    await env.stop("where-1");
    expect(env.instances("where")).toEqual(["where-2", "where-3"]);
    const before = answers.length;
    await sleep(20);
    expect(new Set(answers.slice(before + 20))).not.toContain("where-1");
    await env.stop("where-2");
    isOver = true;
    await load;
    expect(await service.instance()).toBe("where-3");
    await env.stop("where-3");
    await expect(service.instance()).rejects.toMatchObject({ reason: "NO_INSTANCES", effect: "none" });
  });

  it("kills an instance: calls that may be repeated see no error, others the truth", async () => {
    let entered = 0;
    const methods = {
      async fragile() {
        entered++;
        await sleep(5);
        return true;
      },
      async repeatable() {
        await sleep(5);
        return true;
      },
    };
    await using env = await TestEnvironment.start({
      work: { methods, instances: 3, policies: { repeatable: { idempotent: true } } },
    });
    const service = env.client.service<typeof methods>("work");
    await service.repeatable();
    let isOver = false;
    const outcomes: string[] = [];
    const lanes = Array.from({ length: 10 }, async (_, lane) => {
      while (!isOver) {
        if (lane % 2 === 0) await service.repeatable();
        else {
          outcomes.push(
            await service.fragile().then(
              () => "answered",
              (error: unknown) => LeverError.from(error).effect,
            ),
          );
        }
      }
    });
    await sleep(30);
    await env.kill("work-1");
    await sleep(30);
    isOver = true;
    await Promise.all(lanes);
    const count = (outcome: string) => outcomes.filter((each) => each === outcome).length;
    expect(count("none")).toBe(0);
    expect(count("unknown")).toBeLessThanOrEqual(5);
    expect(count("answered")).toBeLessThanOrEqual(entered);
    expect(entered).toBeLessThanOrEqual(count("answered") + count("unknown"));
  });

  it("tells a method of a killed instance by its signal", async () => {
    const reasons: unknown[] = [];
    let entered = false;
    const methods = {
      async waits() {
        const { signal } = context();
        entered = true;
        await new Promise((resolve) => signal.addEventListener("abort", resolve));
        reasons.push(signal.reason);
      },
    };
    await using env = await TestEnvironment.start({ work: { methods } });
    const call = expect(env.client.invoke("/work/waits")).rejects.toMatchObject({ effect: "unknown" });
    await until(() => entered);
    await env.kill("work-1");
    await call;
    expect(reasons).toEqual([expect.objectContaining({ reason: "CONNECTION_LOST" })]);
    expect(env.instances("work")).toEqual([]);
  });

  it("applies what a manifest declares of methods", async () => {
    await using env = await TestEnvironment.start({
      where: { methods: where, policies: { slowly: { timeoutMs: 40 }, "*": { timeoutMs: 5000 } } },
    });
    await expect(env.client.invoke("/where/slowly", [2000])).rejects.toMatchObject({ reason: "DEADLINE_EXCEEDED" });
    expect(await env.client.invoke("/where/instance")).toBe("where-1");
  });

  describe("new Client()", () => {
    it("in a method goes through the instance that runs it, wherever it was made", async () => {
      await using env = await TestEnvironment.start({
        front: { methods: front, instances: 2 },
        where: { methods: where },
      });
      const askers = new Set<unknown>();
      while (askers.size < 2) {
        const [asker, answer] = (await env.client.invoke("/front/ask")) as [string, string];
        askers.add(asker);
        expect(answer).toBe("where-1");
      }
      expect([...askers].sort()).toEqual(["front-1", "front-2"]);
    });

    it("keeps environments apart", async () => {
      await using blue = await TestEnvironment.start(
        { front: { methods: front }, where: { methods: { instance: () => "blue" } } },
        { environment: "blue" },
      );
      await using green = await TestEnvironment.start(
        { front: { methods: front }, where: { methods: { instance: () => "green" } } },
        { environment: "green", onError: () => {} },
      );
      expect(await blue.client.invoke("/front/ask")).toEqual(["front-1", "blue"]);
      expect(await green.client.invoke("/front/ask")).toEqual(["front-1", "green"]);
      expect(await green.client.invoke("lever://green/front/ask")).toEqual(["front-1", "green"]);
      await expect(green.client.invoke("/front/ask", ["blue"])).rejects.toMatchObject({ reason: "METHOD_THREW" });
    });

    it("works in what a factory of methods has started", async () => {
      const answers: unknown[] = [];
      await using env = await TestEnvironment.start({
        where: { methods: where },
        watcher: {
          methods: () => {
            const timer = setInterval(() => {
              client
                .service<typeof where>("where")
                .instance()
                .then(
                  (answer) => answers.push(answer),
                  () => clearInterval(timer),
                );
            }, 5);
            return { stop: () => clearInterval(timer) };
          },
        },
      });
      await until(() => answers.includes("where-1"));
      await env.client.invoke("/watcher/stop");
    });

    it("has no agent outside of methods", async () => {
      await using _env = await TestEnvironment.start({ where: { methods: where } });
      await expect(client.invoke("/where/instance")).rejects.toMatchObject({ reason: "AGENT_UNREACHABLE" });
    });
  });

  it("shows what methods throw, as lever dev does, and reports it", async () => {
    const reported: unknown[] = [];
    const error = new Error("in plain text");
    await using env = await TestEnvironment.start(
      {
        broken: {
          methods: {
            fails() {
              throw error;
            },
          },
        },
      },
      { onError: (thrown, { method }) => reported.push(method, thrown) },
    );
    await expect(env.client.invoke("/broken/fails")).rejects.toThrow("fails threw Error: in plain text");
    expect(reported).toEqual(["fails", error]);
  });

  it.each([
    [{ Hello: { methods: where } }, {}, /"Hello"/],
    [{ where: { methods: where, instances: -1 } }, {}, /instances of where is -1/],
    [{ where: { methods: where, instances: 1.5 } }, {}, /1.5/],
    [{ where: { methods: where, instances: 101 } }, {}, /0 to 100/],
    [{ where: { methods: where } }, { environment: "Test" }, /environment is "Test"/],
    [{ where: { methods: where } }, { drainTimeoutMs: -1 }, /drainTimeoutMs/],
    [{ where: { methods: {} } }, {}, /without a function/],
    [{ where: { methods: () => ({}) } }, {}, /without a function/],
  ])("does not start with %j %j", async (services, options, message) => {
    await expect(TestEnvironment.start(services, options)).rejects.toMatchObject({
      reason: "INVALID_OPTION",
      message: expect.stringMatching(message),
    });
  });

  it("passes on what a factory throws, and leaves nothing of the rest", async () => {
    const before = timers();
    const methods = () => {
      throw new Error("no database");
    };
    await expect(TestEnvironment.start({ where: { methods: where }, broken: { methods } })).rejects.toThrow(
      "no database",
    );
    await until(() => timers() <= before);
  });

  it("knows its services and instances only", async () => {
    await using env = await TestEnvironment.start({ where: { methods: where } });
    expect(() => env.instances("nowhere")).toThrow(expect.objectContaining({ reason: "INVALID_OPTION" }));
    await expect(env.stop("where-2")).rejects.toMatchObject({ reason: "INVALID_OPTION" });
    await env.kill("where-1");
    await expect(env.kill("where-1")).rejects.toMatchObject({ reason: "INVALID_OPTION" });
  });

  it("ends everything at once when it is disposed of, and leaves no timer", async () => {
    const before = timers();
    const ended: string[] = [];
    let entered = false;
    const methods = {
      async waits() {
        const { signal } = context();
        entered = true;
        await new Promise((resolve) => signal.addEventListener("abort", resolve));
        ended.push("call");
      },
      async waitsChan(channel: Channel) {
        await channel.receive().catch(() => ended.push("channel"));
      },
    };
    let call: Promise<unknown> | undefined;
    let channel: Channel | undefined;
    {
      await using env = await TestEnvironment.start({ work: { methods, instances: 2 } });
      call = env.client.invoke("/work/waits").catch((error: unknown) => LeverError.from(error).reason);
      channel = await env.client.openChannel("/work/waitsChan");
      await until(() => entered);
    }
    expect(await call).toBe("CANCELLED");
    await expect(channel.receive()).rejects.toMatchObject({ reason: "CANCELLED" });
    await until(() => ended.length === 2);
    await until(() => timers() <= before);
  });
});
