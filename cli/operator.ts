/** The operator as commands ask it, wherever it is; and the one of `lever dev`. */

import type { EvictReport, ScaleReport, ServicesReport } from "@leveros/operator/admin/admin-report.ts";
import { operatorEnvironment, operatorService } from "@leveros/protocol/control/discovery.ts";
import type { Channel, Client } from "leveros";
import { environmentDefault } from "./call-options.ts";

/** An answer of the operator takes milliseconds, unless it waits for an instance. */
const timeoutMsDefault = 10_000;
/** A little more than a local operator waits for the replacement. */
const evictTimeoutMs = 75_000;

export function operatorUrl(method: string): string {
  return `lever://${operatorEnvironment}/${operatorService}/${method}`;
}

/** The operator's methods, as `operator/admin/admin-report.ts` says what they answer. */
export interface Operator {
  /** The environment that is meant where none is named. Undefined: on this machine, where lists are of all. */
  readonly home: string | undefined;
  ask<Report>(method: string, args?: readonly unknown[], timeoutMs?: number): Promise<Report>;
  /** Of the environment, or of all. */
  services(environment?: string): Promise<ServicesReport>;
  evict(instance: string, environment?: string): Promise<EvictReport>;
  scale(service: string, replicas: number, environment?: string): Promise<ScaleReport>;
}

/** The one of `lever dev`. */
export class LocalOperator implements Operator {
  readonly home = undefined;
  readonly #client: Client;
  readonly #signal: AbortSignal;

  constructor(client: Client, signal: AbortSignal) {
    this.#client = client;
    this.#signal = signal;
  }

  ask<Report>(method: string, args: readonly unknown[] = [], timeoutMs = timeoutMsDefault): Promise<Report> {
    return this.#client.invoke<Report>(operatorUrl(method), args, { timeoutMs, signal: this.#signal });
  }

  open<Receives, Sends>(method: string, args: readonly unknown[]): Promise<Channel<Receives, Sends>> {
    const options = { timeoutMs: timeoutMsDefault, signal: this.#signal };
    return this.#client.openChannel<Receives, Sends>(operatorUrl(method), args, options);
  }

  services(): Promise<ServicesReport> {
    return this.ask<ServicesReport>("listServices");
  }

  evict(instance: string, environment?: string): Promise<EvictReport> {
    return this.ask<EvictReport>("evict", [instance, environment ?? null], evictTimeoutMs);
  }

  scale(service: string, replicas: number, environment = environmentDefault): Promise<ScaleReport> {
    return this.ask<ScaleReport>("scale", [environment, service, replicas]);
  }
}
