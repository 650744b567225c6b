/**
 * The bench's side of the line to every measured process (the other side is probe.ts): a Unix socket, one JSON value
 * a line. Owns who is connected, and questions with their answers; every question has a time limit and fails at once
 * when its process ends. Starting and ending processes is left to stage.ts.
 */

import { createServer, type Server, type Socket } from "node:net";

/** A process said nothing within the time it had. */
export class NoAnswer extends Error {}

/** One measured process, as it announced itself. */
export class Peer {
  readonly path: string;
  readonly role: string;
  readonly pid: number;
  /** What the program said when it could be used; `undefined` until then. */
  readyData: unknown;
  #socket: Socket;
  #pending = new Map<number, PromiseWithResolvers<unknown>>();
  #nextId = 1;

  constructor(socket: Socket, hello: { path: string; role: string; pid: number }) {
    this.path = hello.path;
    this.role = hello.role;
    this.pid = hello.pid;
    this.#socket = socket;
  }

  /** The answer to a question, a JSON value. Throws what the process threw, or that it ended or kept silent. */
  async ask(name: string, data: unknown, timeoutMs: number): Promise<unknown> {
    const id = this.#nextId++;
    const pending = Promise.withResolvers<unknown>();
    this.#pending.set(id, pending);
    const timer = setTimeout(() => {
      pending.reject(new NoAnswer(`${this.role} (pid ${this.pid}) gave no answer to "${name}" within ${timeoutMs} ms`));
    }, timeoutMs);
    this.#socket.write(`${JSON.stringify({ id, ask: name, data })}\n`);
    try {
      return await pending.promise;
    } finally {
      clearTimeout(timer);
      this.#pending.delete(id);
    }
  }

  receive(message: { id?: number; answer?: unknown; error?: string; ready?: unknown }): void {
    if (message.ready !== undefined) this.readyData = message.ready;
    const pending = message.id === undefined ? undefined : this.#pending.get(message.id);
    if (message.error !== undefined) pending?.reject(new Error(`${this.role}: ${message.error}`));
    else pending?.resolve(message.answer);
  }

  ended(): void {
    for (const { reject } of this.#pending.values()) reject(new Error(`${this.role} (pid ${this.pid}) ended`));
  }
}

export class Control {
  /** The processes that are connected now. */
  readonly peers = new Set<Peer>();
  /** Called after a process came, became ready or went. */
  onChange: () => void = () => {};
  #server: Server;
  #sockets = new Set<Socket>();

  private constructor() {
    this.#server = createServer((socket) => this.#accept(socket));
  }

  static async listen(socketPath: string): Promise<Control> {
    const control = new Control();
    await new Promise<void>((resolve, reject) => {
      control.#server.once("error", reject);
      control.#server.listen(socketPath, resolve);
    });
    return control;
  }

  /** Cuts every line, which ends every process that is still there. */
  close(): void {
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
  }

  #accept(socket: Socket): void {
    this.#sockets.add(socket);
    socket.setEncoding("utf8");
    let peer: Peer | undefined;
    let rest = "";
    socket.on("data", (text: string) => {
      const lines = (rest + text).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) {
        const message = JSON.parse(line);
        if (peer === undefined) {
          peer = new Peer(socket, message);
          this.peers.add(peer);
        } else {
          peer.receive(message);
        }
        this.onChange();
      }
    });
    socket.on("error", () => {});
    socket.on("close", () => {
      this.#sockets.delete(socket);
      if (peer === undefined) return;
      this.peers.delete(peer);
      peer.ended();
      this.onChange();
    });
  }
}
