/** A link that can be cut: forwards TCP until told otherwise. */

import { connect, createServer, type Server, type Socket } from "node:net";

/** `forward` all passes; `hold` nothing passes, in neither direction, and nothing is closed: a cable that was pulled. */
export type ProxyMode = "forward" | "hold" | "hold requests" | "hold replies";

export class TcpProxy {
  readonly #server: Server;
  readonly #pairs = new Set<readonly [Socket, Socket]>();
  #mode: ProxyMode = "forward";

  private constructor(server: Server) {
    this.#server = server;
  }

  static start(listen: { host: string; port: number }, target: { host: string; port: number }): Promise<TcpProxy> {
    const server = createServer({ noDelay: true });
    const proxy = new TcpProxy(server);
    server.on("connection", (caller) => {
      const callee = connect({ ...target, noDelay: true });
      const pair = [caller, callee] as const;
      proxy.#pairs.add(pair);
      const close = () => {
        // While the link is held, the end of a connection does not pass either.
        if (proxy.#mode !== "forward") return;
        caller.destroy();
        callee.destroy();
        proxy.#pairs.delete(pair);
      };
      for (const socket of pair) socket.on("error", () => {}).on("close", close);
      caller.on("data", (chunk) => {
        if (proxy.#mode === "hold" || proxy.#mode === "hold requests") return;
        if (!callee.write(chunk)) caller.pause();
      });
      callee.on("drain", () => caller.resume());
      callee.on("data", (chunk) => {
        if (proxy.#mode === "hold" || proxy.#mode === "hold replies") return;
        if (!caller.write(chunk)) callee.pause();
      });
      caller.on("drain", () => callee.resume());
    });
    return new Promise((resolve, reject) => {
      server.once("error", reject);
      server.listen(listen, () => resolve(proxy));
    });
  }

  /** What is held is lost: connections that were open go on only if nothing came meanwhile. `cut` them to heal. */
  set mode(mode: ProxyMode) {
    this.#mode = mode;
  }

  get connections(): number {
    return this.#pairs.size;
  }

  /** Ends all connections, as a broken link does that tells both ends. New ones are made in the mode of then. */
  cut(): void {
    for (const pair of this.#pairs) for (const socket of pair) socket.resetAndDestroy();
    this.#pairs.clear();
  }

  /** New connections are refused too. */
  close(): void {
    this.#server.close();
    this.cut();
  }
}
