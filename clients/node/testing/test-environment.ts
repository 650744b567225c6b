/**
 * All of Lever in the test's own process: the real cores of operator and agents, joined over memory. Nothing listens,
 * nothing is written, and time is real.
 */

import { defaultServicePolicy, type ServicePolicy } from "@leveros/protocol/control/discovery.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { Client, type OwnConnection, ownConnection } from "../client.ts";
import { clock } from "../connection.ts";
import { runAsInstance } from "../context.ts";
import { type ErrorReporter, MethodServer } from "../method-server.ts";
import { checkDrainTimeout, drainTimeoutMsDefault } from "../serve.ts";
import { type ClusterInstance, TestCluster } from "./test-cluster.ts";

/** A service under test. */
export interface TestService {
  /** What `serve` would get; given as a function, each instance makes methods of its own. */
  readonly methods: object | (() => object | Promise<object>);
  /** 0 to 100; 1 unless given. */
  readonly instances?: number;
  /** What the manifest declares of methods, by name; `*` is for all others. */
  readonly policies?: Readonly<Record<string, TestPolicy>>;
}

export interface TestPolicy {
  /** 30,000 unless given. */
  readonly timeoutMs?: number;
  /** Calls may be repeated though they may have run. */
  readonly idempotent?: boolean;
}

export interface TestEnvironmentOptions {
  /** `test` unless given. */
  readonly environment?: string;
  /** Gets what methods throw that is no MethodError; `console.error` unless given. */
  readonly onError?: ErrorReporter;
  /** How long `stop` waits for what runs, ms; 25,000 unless given. */
  readonly drainTimeoutMs?: number;
}

const instancesMax = 100;
const startTimeoutMs = 10_000;

interface TestInstance {
  readonly place: ClusterInstance;
  readonly server: MethodServer;
}

/**
 *     await using env = await TestEnvironment.start({ hello: { methods: hello, instances: 3 } });
 *     expect(await env.client.service<Hello>("hello").sayHello("Ada")).toBe("Hello, Ada!");
 *
 * In methods, `new Client()` goes through the agent of the instance that runs them, wherever the client was made;
 * outside of methods use `env.client`. As in `lever dev`, callers see the text of what methods throw.
 */
export class TestEnvironment implements AsyncDisposable {
  readonly environment: string;
  /** Calls through an agent of its own, as an app of the environment that serves nothing. */
  readonly client: Client;
  readonly #options: TestEnvironmentOptions;
  readonly #cluster: TestCluster;
  readonly #services: ReadonlySet<string>;
  readonly #instances = new Map<string, TestInstance>();

  private constructor(services: Readonly<Record<string, TestService>>, options: TestEnvironmentOptions) {
    this.environment = options.environment ?? "test";
    this.#options = options;
    this.#services = new Set(Object.keys(services));
    this.#cluster = new TestCluster(this.environment);
    for (const [name, { policies }] of Object.entries(services)) {
      this.#cluster.declareService(name, servicePolicy(policies));
    }
    const own: OwnConnection = { [ownConnection]: this.#cluster.addCaller("client").connection };
    this.client = new Client(own);
  }

  /** Resolves when all instances serve. Rejects with INVALID_OPTION, or with what a factory of methods threw. */
  static async start(
    services: Readonly<Record<string, TestService>>,
    options: TestEnvironmentOptions = {},
  ): Promise<TestEnvironment> {
    checkServices(services, options);
    const environment = new TestEnvironment(services, options);
    try {
      const starting: Promise<void>[] = [];
      for (const [name, { methods, instances = 1 }] of Object.entries(services)) {
        for (let number = 1; number <= instances; number++) {
          starting.push(environment.#startInstance(name, `${name}-${number}`, methods));
        }
      }
      await Promise.all(starting);
      return environment;
    } catch (error) {
      await environment[Symbol.asyncDispose]();
      throw error;
    }
  }

  async #startInstance(service: string, instance: string, methods: TestService["methods"]): Promise<void> {
    const place = this.#cluster.addInstance(service, instance);
    const { connection } = place.agent;
    const { onError, drainTimeoutMs = drainTimeoutMsDefault } = this.#options;
    const made = typeof methods === "function" ? await runAsInstance(connection, methods as () => object) : methods;
    const server = new MethodServer(connection.retain(), made, {
      drainTimeoutMs,
      onError,
      instance,
      showsErrors: true,
      isHome: true,
    });
    this.#instances.set(instance, { place, server });
    await Promise.all([server.start(startTimeoutMs), place.whenServing]);
  }

  /** The ids of a service's instances that were neither stopped nor killed. Throws INVALID_OPTION. */
  instances(service: string): string[] {
    if (!this.#services.has(service)) {
      throw new LeverError(
        "INVALID_OPTION",
        `the test environment has no service ${JSON.stringify(service)}; it has ${[...this.#services].join(", ")}`,
      );
    }
    const places = [...this.#instances.values()].map(({ place }) => place);
    return places.filter((place) => place.service === service).map((place) => place.instance);
  }

  /**
   * Ends an instance as a rollout does: it takes no new calls, those that run end, then it is gone. Resolves when it
   * is. Throws INVALID_OPTION.
   */
  async stop(instance: string): Promise<void> {
    const { place, server } = this.#take(instance);
    const { drainTimeoutMs = drainTimeoutMsDefault } = this.#options;
    await server.end();
    // Answers that are read slowly still have to leave the agent.
    const late = clock.setTimer(() => place.agent.close(), drainTimeoutMs);
    await place.agent.agent.drain();
    clock.clearTimer(late);
    this.#cluster.removeInstance(place);
    place.agent.close();
  }

  /**
   * Ends an instance as a crash of its machine does: all connections are cut. Its methods cannot be stopped, as they
   * run in this process: their `context().signal` is aborted, and what they do reaches nobody. Throws INVALID_OPTION.
   */
  async kill(instance: string): Promise<void> {
    const { place } = this.#take(instance);
    place.agent.cut();
    this.#cluster.removeInstance(place);
  }

  #take(instance: string): TestInstance {
    const found = this.#instances.get(instance);
    if (found === undefined) {
      throw new LeverError(
        "INVALID_OPTION",
        `the test environment has no instance ${JSON.stringify(instance)}; it has ${[...this.#instances.keys()].join(", ")}`,
      );
    }
    this.#instances.delete(instance);
    return found;
  }

  /** Ends everything at once; what runs is not waited for. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.client.close();
    this.#cluster.close();
    this.#instances.clear();
  }
}

function servicePolicy(policies: TestService["policies"]): ServicePolicy {
  const given = Object.entries<TestPolicy>({ "*": {}, ...policies });
  return {
    ...defaultServicePolicy,
    methods: given.map(([name, { timeoutMs = 30_000, idempotent = false }]) => ({ name, timeoutMs, idempotent })),
  };
}

function checkServices(services: Readonly<Record<string, TestService>>, options: TestEnvironmentOptions): void {
  checkDrainTimeout(options.drainTimeoutMs ?? drainTimeoutMsDefault);
  const label = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;
  if (options.environment !== undefined && !label.test(options.environment)) {
    throw new LeverError("INVALID_OPTION", `environment is ${JSON.stringify(options.environment)}, ${labelRule}`);
  }
  for (const [name, { instances = 1 }] of Object.entries(services)) {
    if (!label.test(name)) {
      throw new LeverError("INVALID_OPTION", `a service is named ${JSON.stringify(name)}, ${labelRule}`);
    }
    if (!Number.isInteger(instances) || instances < 0 || instances > instancesMax) {
      throw new LeverError(
        "INVALID_OPTION",
        `instances of ${name} is ${String(instances)}, expected a whole number from 0 to ${instancesMax}`,
      );
    }
  }
}

const labelRule = "expected 1 to 63 of a-z, 0-9 and -, not beginning or ending with -";
