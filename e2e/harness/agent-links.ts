/**
 * The links to agents, each through a proxy that can be cut. The agents listen on 127.0.0.1 and are told to advertise
 * 127.0.0.2, where, on the same port, their proxies are.
 */

import type { LeverDev } from "./lever-dev.ts";
import { listeningPorts } from "./process-list.ts";
import { TcpProxy } from "./tcp-proxy.ts";

/** For `LeverDev.start`, with agents as processes. */
export const linkedAgents = { agents: "process", env: { LEVER_ADVERTISED_HOST: "127.0.0.2" } } as const;

export class AgentLinks implements Disposable {
  readonly #dev: LeverDev;
  /** By instance and port: an agent has two, for peers and for admin, and both are forwarded. */
  readonly #proxies = new Map<string, Map<number, TcpProxy>>();

  private constructor(dev: LeverDev) {
    this.#dev = dev;
  }

  static async start(dev: LeverDev): Promise<AgentLinks> {
    const links = new AgentLinks(dev);
    await links.update();
    return links;
  }

  /** Makes the links of agents that are new. To be called before the first call to them. */
  async update(): Promise<void> {
    for (const { pid, instance } of this.#dev.agents()) {
      const proxies = this.#proxies.get(instance) ?? new Map<number, TcpProxy>();
      this.#proxies.set(instance, proxies);
      for (const port of listeningPorts(pid)) {
        if (proxies.has(port)) continue;
        proxies.set(port, await TcpProxy.start({ host: "127.0.0.2", port }, { host: "127.0.0.1", port }));
      }
    }
  }

  /** All links to the instances of a service, or to one of them. */
  to(name: string): TcpProxy[] {
    const found: TcpProxy[] = [];
    for (const [instance, proxies] of this.#proxies) {
      if (instance === name || instance.startsWith(`${name}-`)) found.push(...proxies.values());
    }
    if (found.length === 0) throw new Error(`no agent of ${name} has a link`);
    return found;
  }

  /** Refuses connections to the service from now on, and ends those that are open, until `update`. */
  refuse(service: string): void {
    for (const [instance, proxies] of this.#proxies) {
      if (!instance.startsWith(`${service}-`)) continue;
      for (const proxy of proxies.values()) proxy.close();
      this.#proxies.delete(instance);
    }
  }

  [Symbol.dispose](): void {
    for (const proxies of this.#proxies.values()) for (const proxy of proxies.values()) proxy.close();
  }
}
