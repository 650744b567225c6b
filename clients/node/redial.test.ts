/** What a client does with calls when its connection breaks: it repeats what nobody can have seen, and nothing else. */

import { DeadlineWheel } from "@leveros/protocol/deadline/deadline-wheel.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { AssemblyBudget, assemblyBytesMax } from "@leveros/protocol/invocation/assembly.ts";
import { InvocationServer } from "@leveros/protocol/invocation/invocation-server.ts";
import { defaultSessionLimits } from "@leveros/protocol/session/limits.ts";
import { Session } from "@leveros/protocol/session/session.ts";
import { memoryTransportPair } from "@leveros/protocol/transport/memory-transport.ts";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { Client, type OwnConnection, ownConnection } from "./client.ts";
import { Connection, clock } from "./connection.ts";

const limits = { ...defaultSessionLimits, pingIntervalMs: 0, silenceMs: 0 };

/** In the place of an agent: answers every call itself, and counts them. */
class Peer {
  readonly sessions: Session[] = [];
  entered = 0;
  onEntered: () => void = () => {};
  isAway = false;
  readonly client: Client;
  readonly connection: Connection;
  readonly #server = new InvocationServer({
    host: {
      prepare: () => () => {
        this.entered++;
        this.onEntered();
        return new Promise((resolve) => setImmediate(() => resolve("answered")));
      },
      prepareChannel: () => () => {
        this.entered++;
        return new Promise(() => {});
      },
      describeThrown: String,
    },
    wheel: new DeadlineWheel(clock),
    budget: new AssemblyBudget(assemblyBytesMax),
    now: () => clock.now(),
  });

  constructor() {
    this.connection = new Connection({
      identity: { role: "app" },
      name: "the peer",
      limits,
      dial: async () => {
        if (this.isAway) throw new Error("away");
        const [near, far] = memoryTransportPair(clock);
        const session: Session = new Session({
          transport: far,
          clock,
          side: "acceptor",
          identity: { role: "agent" },
          limits,
          handler: { onOpen: (stream, open) => this.#server.onOpen(stream, open) },
        });
        this.sessions.push(session);
        return near;
      },
    });
    const own: OwnConnection = { [ownConnection]: this.connection };
    this.client = new Client(own);
  }

  get session(): Session {
    return this.sessions.at(-1) as Session;
  }
}

let peer: Peer;
beforeEach(async () => {
  peer = new Peer();
  expect(await peer.client.invoke("/hello/first")).toBe("answered");
  peer.entered = 0;
});
afterEach(async () => {
  await peer.client.close();
});

function call(timeoutMs?: number): Promise<unknown> {
  return peer.client.invoke("/hello/again", [], timeoutMs === undefined ? {} : { timeoutMs });
}

describe("a call", () => {
  it("that the peer's GOAWAY excludes is made again on a new connection", async () => {
    peer.session.goAway(new LeverError("DRAINING", "a restart", { effect: "none" }));
    // The GOAWAY is still on its way, and so is the call then.
    const calls = [call(), call(), peer.client.openChannel("/hello/againChan")];
    expect(peer.connection.current).toBeDefined();
    expect(await Promise.all(calls)).toEqual(["answered", "answered", expect.anything()]);
    expect(peer.entered).toBe(3);
    expect(peer.sessions).toHaveLength(2);
  });

  it("that has left is not, whatever may have become of it", async () => {
    peer.onEntered = () => peer.session.destroy(new LeverError("CONNECTION_LOST", "the peer has crashed"));
    await expect(call()).rejects.toMatchObject({ reason: "CONNECTION_LOST", effect: "unknown" });
    expect(peer.entered).toBe(1);
    peer.onEntered = () => {};
    expect(await call()).toBe("answered");
    expect([peer.entered, peer.sessions.length]).toEqual([2, 2]);
  });

  it("that was lost on the way is not either: nobody can know", async () => {
    const lost = call();
    peer.session.destroy(new LeverError("CONNECTION_LOST", "the peer has crashed"));
    await expect(lost).rejects.toMatchObject({ reason: "CONNECTION_LOST", effect: "unknown" });
    expect(peer.entered).toBe(0);
  });

  it("that begins while there is no connection waits for one", async () => {
    peer.isAway = true;
    peer.session.close(new LeverError("CONNECTION_LOST", "a restart"));
    await new Promise((resolve) => setTimeout(resolve, 10));
    const waiting = [call(), call(5000), peer.client.openChannel("/hello/againChan")];
    await new Promise((resolve) => setTimeout(resolve, 30));
    peer.isAway = false;
    expect(await Promise.all(waiting)).toEqual(["answered", "answered", expect.anything()]);
    expect(peer.entered).toBe(3);
  });

  it("waits no longer than it may take", async () => {
    peer.isAway = true;
    peer.session.close(new LeverError("CONNECTION_LOST", "a restart"));
    await new Promise((resolve) => setTimeout(resolve, 10));
    const startedAt = clock.now();
    await expect(call(60)).rejects.toMatchObject({ reason: "AGENT_UNREACHABLE", effect: "none" });
    expect(clock.now() - startedAt).toBeGreaterThanOrEqual(60);
    const controller = new AbortController();
    const cancelled = peer.client.invoke("/hello/again", [], { signal: controller.signal });
    controller.abort();
    await expect(cancelled).rejects.toMatchObject({ reason: "CANCELLED", effect: "none" });
    const closed = call();
    await peer.client.close();
    await expect(closed).rejects.toMatchObject({ reason: "CANCELLED", effect: "none" });
    expect(peer.entered).toBe(0);
  });

  it("is not repeated for ever with a peer that takes connections only to end them", async () => {
    peer.session.close(new LeverError("CONNECTION_LOST", "a restart"));
    const before = peer.sessions.length;
    Object.defineProperty(peer.sessions, "push", {
      value: (session: Session) => {
        Array.prototype.push.call(peer.sessions, session);
        session.goAway(new LeverError("DRAINING", "not now", { effect: "none" }));
      },
    });
    await expect(call(500)).rejects.toMatchObject({ kind: "network", effect: "none" });
    // Pauses grow: 25 to 50 ms, 50 to 100, 100 to 200, 200 to 400.
    expect(peer.sessions.length - before).toBeLessThan(8);
    expect(peer.entered).toBe(0);
  });
});
