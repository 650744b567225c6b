/**
 * All of Lever in the test's own process: the real cores of operator and agents, joined over memory. Nothing listens,
 * nothing is written, and time is real.
 */

import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { isDnsLabel } from "@leveros/protocol/target/lever-url.ts";
import { Client, type OwnConnection, ownConnection } from "../client.ts";
import { clock } from "../connection.ts";
import { runAsInstance } from "../context.ts";
import { type ErrorReporter, MethodServer } from "../method-server.ts";
import { checkDrainTimeout, drainTimeoutMsDefault } from "../serve.ts";
import { type ClusterInstance, TestCluster } from "./test-cluster.ts";
import { checkResource, checkServices, labelRule, servicePolicy, type TestService } from "./test-service.ts";

export interface TestEnvironmentOptions {
  /** `test` unless given. */
  readonly environment?: string;
  /** Gets what methods throw that is no MethodError; `console.error` unless given. */
  readonly onError?: ErrorReporter;
  /** How long `stop` waits for what runs, ms; 25,000 unless given. */
  readonly drainTimeoutMs?: number;
}

const startTimeoutMs = 10_000;
/** How long `holderOf` waits: for longer than any lease. */
const holderTimeoutMs = 20_000;

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
    for (const [name, service] of Object.entries(services)) {
      this.#cluster.declareService(name, servicePolicy(service));
    }
    const own: OwnConnection = { [ownConnection]: this.#cluster.addCaller("client").connection };
    this.client = new Client(own);
  }

  /** Resolves when all instances serve. Rejects with INVALID_OPTION, or with what a factory of methods threw. */
  static async start(
    services: Readonly<Record<string, TestService>>,
    options: TestEnvironmentOptions = {},
  ): Promise<TestEnvironment> {
    checkServices(services);
    checkOptions(options);
    const environment = new TestEnvironment(services, options);
    try {
      const starting: Promise<void>[] = [];
      for (const [name, service] of Object.entries(services)) {
        for (let number = 1; number <= (service.instances ?? 1); number++) {
          starting.push(environment.#startInstance(name, `${name}-${number}`, service));
        }
      }
      await Promise.all(starting);
      return environment;
    } catch (error) {
      await environment[Symbol.asyncDispose]();
      throw error;
    }
  }

  async #startInstance(service: string, instance: string, { methods = {}, resource }: TestService): Promise<void> {
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
      // They share a process, and each ends by itself.
      process: instance,
      ...(resource === undefined ? {} : { resource }),
    });
    this.#instances.set(instance, { place, server });
    await Promise.all([server.start(startTimeoutMs), place.whenServing]);
  }

  /** The ids of a service's instances that were neither stopped nor killed. Throws INVALID_OPTION. */
  instances(service: string): string[] {
    this.#checkService(service);
    const places = [...this.#instances.values()].map(({ place }) => place);
    return places.filter((place) => place.service === service).map((place) => place.instance);
  }

  /**
   * The instance that holds a resource; if nobody does, the first one that will. Rejects with INVALID_OPTION,
   * NO_RESOURCES, and RESOURCE_UNAVAILABLE if nobody does for 20 s.
   */
  async holderOf(service: string, resource: string): Promise<string> {
    this.#checkService(service);
    checkResource(resource);
    return this.#cluster.holderOf(service, resource, holderTimeoutMs);
  }

  /**
   * Ends an instance as a rollout does: it takes no new calls, those that run end, its resources move to others with
   * what they hand over, then it is gone. Resolves when it is. Throws INVALID_OPTION.
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
   * Ends an instance as a crash of its machine does: all connections are cut. It is known to have ended, and others hold
   * its resources at once, without what was in them. Its methods cannot be stopped, as they run in this process: their
   * `context().signal` is aborted, and what they do reaches nobody. Throws INVALID_OPTION.
   */
  async kill(instance: string): Promise<void> {
    const { place } = this.#take(instance);
    place.agent.cut();
    this.#cluster.removeInstance(place);
    this.#cluster.processEnded(place);
  }

  #checkService(service: string): void {
    if (this.#services.has(service)) return;
    throw new LeverError(
      "INVALID_OPTION",
      `the test environment has no service ${JSON.stringify(service)}; it has ${[...this.#services].join(", ")}`,
    );
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

function checkOptions({ drainTimeoutMs = drainTimeoutMsDefault, environment }: TestEnvironmentOptions): void {
  checkDrainTimeout(drainTimeoutMs);
  if (environment !== undefined && !isDnsLabel(environment)) {
    throw new LeverError("INVALID_OPTION", `environment is ${JSON.stringify(environment)}, ${labelRule}`);
  }
}
