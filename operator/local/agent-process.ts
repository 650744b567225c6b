/**
 * An instance's agent as a process of its own, as the sidecar in a pod: started again when it ends, at the same socket,
 * so that its app attaches to it once more.
 *
 * Invariant: it ends with this process, however that ends: its IPC channel breaks then, and it takes that as SIGTERM.
 */

import { type ChildProcess, fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import { agentNodeFlags } from "@leveros/agent/node-flags.ts";
import type { Clock, TimerHandle } from "@leveros/protocol/clock/clock.ts";
import type { InstanceKey } from "../core/service-registry.ts";

const startTimeoutMs = 10_000;
const restartMs = 500;
/** Between SIGTERM and SIGKILL; its app has ended by then. */
const graceMs = 5000;

export interface AgentProcessOptions {
  readonly instance: InstanceKey;
  readonly socketPath: string;
  /** `host:port` of the operator's discovery. */
  readonly operator: string;
  /** What its ports, which are free ones, are bound to. */
  readonly host: string;
  readonly clock: Clock;
  /** A line for people: it ended, and is started again. */
  onMessage(line: string): void;
  /** Nothing is left of its process. */
  onExit(): void;
}

export class AgentProcess {
  readonly #options: AgentProcessOptions;
  #child: ChildProcess | undefined;
  #exited: Promise<void> = Promise.resolve();
  #restart: TimerHandle | undefined;
  #isClosing = false;
  #adminPort: number | undefined;

  constructor(options: AgentProcessOptions) {
    this.#options = options;
  }

  /** While it runs. */
  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /** While it runs: a new one after each start. */
  get adminPort(): number | undefined {
    return this.#adminPort;
  }

  /** Resolves when it listens. Rejects, with nothing left running, if it does not within 10 s. */
  async start(): Promise<void> {
    const child = this.#fork();
    const { clock } = this.#options;
    const listening = Promise.withResolvers<void>();
    child.once("message", (message) => {
      this.#adminPort = (message as { readonly adminPort?: number }).adminPort;
      listening.resolve();
    });
    child.once("error", (error) => listening.reject(new Error(`its agent could not be started: ${error.message}`)));
    child.once("exit", (code, signal) =>
      listening.reject(new Error(`its agent ended at its start (${code === null ? signal : `exit code ${code}`})`)),
    );
    const timer = clock.setTimer(
      () => listening.reject(new Error(`its agent did not start within ${startTimeoutMs} ms`)),
      startTimeoutMs,
    );
    try {
      await listening.promise;
    } catch (error) {
      child.kill("SIGKILL");
      throw error;
    } finally {
      clock.clearTimer(timer);
    }
    child.once("exit", (code, signal) => this.#ended(code === null ? String(signal) : `exit code ${code}`));
  }

  /** SIGTERM, and SIGKILL after 5 s. Resolves when it has ended. */
  async close(): Promise<void> {
    const { clock } = this.#options;
    this.#isClosing = true;
    clock.clearTimer(this.#restart);
    const child = this.#child;
    if (child === undefined) return;
    child.kill("SIGTERM");
    const timer = clock.setTimer(() => child.kill("SIGKILL"), graceMs);
    await this.#exited;
    clock.clearTimer(timer);
  }

  #ended(how: string): void {
    if (this.#isClosing) return;
    const { instance, onMessage } = this.#options;
    onMessage(`${instance.service}: the agent of ${instance.instance} ended (${how}) and is started again.`);
    this.#startAgain();
  }

  #startAgain(): void {
    const { instance, clock, onMessage } = this.#options;
    this.#restart = clock.setTimer(() => {
      this.#restart = undefined;
      this.start().catch((error: Error) => {
        if (this.#isClosing) return;
        onMessage(`${instance.service}: ${instance.instance}: ${error.message}; tried again.`);
        this.#startAgain();
      });
    }, restartMs);
  }

  #fork(): ChildProcess {
    const { instance, socketPath, operator, host } = this.#options;
    const child = fork(fileURLToPath(import.meta.resolve("@leveros/agent/main.ts")), {
      execArgv: [...process.execArgv, ...agentNodeFlags],
      stdio: ["ignore", "inherit", "inherit", "ipc"],
      // Ctrl-C is for this process, which ends the agents after their apps.
      detached: true,
      env: {
        ...process.env,
        LEVER_AGENT: `unix://${socketPath}`,
        LEVER_ENVIRONMENT: instance.environment,
        LEVER_SERVICE: instance.service,
        LEVER_INSTANCE: instance.instance,
        LEVER_OPERATOR: operator,
        LEVER_HOST: host,
        LEVER_PORT: "0",
        LEVER_ADMIN_PORT: "0",
      },
    });
    this.#child = child;
    this.#exited = new Promise((resolve) => {
      const onEnd = () => {
        if (this.#child === child) this.#child = undefined;
        this.#options.onExit();
        resolve();
      };
      child.once("exit", onEnd);
      // One that could not be started does not exit.
      child.once("error", () => {
        if (child.pid === undefined) onEnd();
      });
    });
    return child;
  }
}
