import { generateKeyPairSync, webcrypto, X509Certificate } from "node:crypto";
import { connect as connectPlain, createServer } from "node:net";
import { connect } from "node:tls";
import { PeerLink } from "@leveros/agent/core/peer-link.ts";
import { Refusals } from "@leveros/agent/host/refusals.ts";
import { dialTcp, type Listener } from "@leveros/agent/host/socket.ts";
import {
  type CredentialSource,
  type Credentials,
  contextOptions,
  dialTls,
  listenTls,
  type TlsListenerOptions,
} from "@leveros/agent/host/tls.ts";
import { runtimeClock } from "@leveros/protocol/clock/runtime-clock.ts";
import { printSpiffeId, type SpiffeId } from "@leveros/protocol/control/spiffe-id.ts";
import type { LeverError } from "@leveros/protocol/error/lever-error.ts";
import type { Identity } from "@leveros/protocol/session/hello.ts";
import { defaultSessionLimits } from "@leveros/protocol/session/limits.ts";
import { Session } from "@leveros/protocol/session/session.ts";
import type { Transport } from "@leveros/protocol/transport/transport.ts";
import { afterEach, beforeAll, describe, expect, test } from "vitest";
import { type AuthorityPem, issue, makeAuthority, readAuthority } from "./authority.ts";
import { eventually } from "./identity.fixture.ts";
import { dayMs } from "./lifetimes.ts";

const clock = runtimeClock(globalThis);
const a: SpiffeId = { kind: "instance", environment: "shop", service: "chat", instance: "chat-1", uid: "1" };
const b: SpiffeId = { ...a, instance: "chat-2", uid: "2" };
const gatewayId: SpiffeId = { kind: "gateway", instance: "gateway-1", uid: "3" };
const operatorId: SpiffeId = { kind: "operator", instance: "operator-1" };
const helloOfA: Identity = { role: "agent", environment: "shop", service: "chat", instance: "chat-1" };
const helloOfB: Identity = { ...helloOfA, instance: "chat-2" };

let ca: AuthorityPem;
let otherCa: AuthorityPem;
beforeAll(async () => {
  ca = await makeAuthority(Date.now());
  otherCa = await makeAuthority(Date.now());
});

interface Order {
  readonly by?: AuthorityPem;
  readonly trusts?: string;
  readonly nowMs?: number;
  /** In place of the id's. */
  readonly uri?: string;
}

async function credentialsFor(id: SpiffeId, { by = ca, trusts = by.certificate, nowMs = Date.now(), uri }: Order = {}) {
  const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const spki = publicKey.export({ type: "spki", format: "der" });
  const key = await webcrypto.subtle.importKey("spki", spki, { name: "ECDSA", namedCurve: "P-256" }, true, ["verify"]);
  const authority = await readAuthority(by, [new X509Certificate(by.certificate)]);
  const { chain, notAfterMs } = await issue(authority, { publicKey: key, id: uri ?? printSpiffeId(id), nowMs });
  const pem = privateKey.export({ type: "pkcs8", format: "pem" }).toString();
  return { certificate: chain, key: pem, bundle: trusts, notAfterMs };
}

class Source implements CredentialSource {
  current: Credentials | undefined;
  readonly #subscribers = new Set<(credentials: Credentials) => void>();

  constructor(current: Credentials) {
    this.current = current;
  }

  subscribe(onChange: (credentials: Credentials) => void): () => void {
    this.#subscribers.add(onChange);
    return () => this.#subscribers.delete(onChange);
  }

  set(credentials: Credentials): void {
    this.current = credentials;
    for (const onChange of this.#subscribers) onChange(credentials);
  }
}

const opened: { close(): void }[] = [];
afterEach(() => {
  for (const each of opened.splice(0)) each.close();
});

type Handshakes = Pick<TlsListenerOptions, "handshakesMax" | "handshakesOfAddressMax">;

class Door {
  readonly logs: string[] = [];
  readonly refusals = new Refusals({ onLog: (text) => void this.logs.push(text) });
  readonly sessions: Session[] = [];
  readonly errors: LeverError[] = [];
  readonly source: Source;
  listener: Listener | undefined;

  constructor(credentials: Credentials) {
    this.source = new Source(credentials);
  }

  /** Instance `b`'s port for its peers. */
  async open(identity = helloOfB, acceptsAnonymous = false, handshakes: Handshakes = {}): Promise<this> {
    this.listener = await listenTls({
      host: "127.0.0.1",
      port: 0,
      credentials: this.source,
      accepts: ({ kind }) => kind !== "operator",
      acceptsAnonymous,
      ...handshakes,
      refusals: this.refusals,
      onTransport: (transport) => {
        this.sessions.push(sessionOf(transport, identity, "acceptor", (error) => this.errors.push(error)));
      },
    });
    opened.push(this.listener);
    return this;
  }

  get address(): string {
    return this.listener?.address ?? "";
  }

  get refused(): Record<string, number> {
    return Object.fromEntries(Object.entries(this.refusals.counts).filter(([, count]) => count > 0));
  }
}

function sessionOf(
  transport: Transport,
  identity: Identity,
  side: "dialer" | "acceptor" = "dialer",
  onClose: (error: LeverError) => void = () => {},
): Session {
  const session = new Session({ transport, clock, side, identity, limits: defaultSessionLimits, handler: { onClose } });
  opened.push({ close: () => transport.destroy() });
  return session;
}

const dial = (address: string, credentials: Pick<Credentials, "bundle"> & Partial<Credentials>) =>
  dialTls(address, {
    timeoutMs: 3000,
    credentials,
    accepts: ({ kind }) => kind === "instance",
    expected: "an instance",
  });

/** Whether the peer takes a session with these credentials and this HELLO. */
async function isServed(door: Door, credentials: Credentials, hello = helloOfA): Promise<boolean> {
  const session = sessionOf(await dial(door.address, credentials), hello);
  return await session.roundTrip().then(
    () => session.hello?.instance === "chat-2",
    () => false,
  );
}

describe("at an agent's port", () => {
  test.each<[string, SpiffeId, Identity]>([
    ["another agent", a, helloOfA],
    ["a gateway", gatewayId, { role: "gateway", instance: "gateway-1" }],
  ])("%s is served", async (_, id, hello) => {
    const door = await new Door(await credentialsFor(b)).open();
    expect(await isServed(door, await credentialsFor(id), hello)).toBe(true);
    expect(door.sessions[0]?.provenIdentity).toEqual(hello);
    expect(door.refused).toEqual({});
    expect(door.logs).toEqual([]);
  });

  const rows: readonly [string, string, () => Promise<Credentials>, Identity?][] = [
    ["one whose certificate has ended", "expired", () => credentialsFor(a, { nowMs: Date.now() - 2 * dayMs })],
    ["one whose certificate has not begun", "expired", () => credentialsFor(a, { nowMs: Date.now() + dayMs })],
    ["one of another CA", "untrusted", () => credentialsFor(a, { by: otherCa, trusts: ca.certificate })],
    ["the operator", "identity", () => credentialsFor(operatorId)],
    ["one with another name", "identity", () => credentialsFor(a, { uri: "spiffe://example.org/shop" })],
    ["one that says it is another instance", "identity", () => credentialsFor(a), { ...helloOfA, instance: "chat-3" }],
    [
      "one that says it is of another environment",
      "identity",
      () => credentialsFor(a),
      { ...helloOfA, environment: "bank" },
    ],
    ["one that says it is a gateway", "identity", () => credentialsFor(a), { role: "gateway", instance: "chat-1" }],
    [
      "a gateway of some environment",
      "identity",
      () => credentialsFor(gatewayId),
      { role: "gateway", instance: "gateway-1", environment: "shop" },
    ],
  ];

  test.each(rows)("%s is refused, told once and counted", async (_, reason, credentials, hello) => {
    const door = await new Door(await credentialsFor(b)).open();
    const given = await credentials();
    expect(await isServed(door, given, hello)).toBe(false);
    expect(await isServed(door, given, hello)).toBe(false);
    await eventually(() => expect(door.refused).toEqual({ [reason]: 2 }));
    expect(door.logs).toHaveLength(1);
    expect(door.logs[0]).toMatch(/^refused a connection from 127\.0\.0\.1 /);
    // The same with nothing wrong.
    expect(await isServed(door, await credentialsFor(a))).toBe(true);
  });

  test("one without a certificate is refused", async () => {
    const door = await new Door(await credentialsFor(b)).open();
    const session = sessionOf(await dial(door.address, { bundle: ca.certificate }), helloOfA);
    await expect(session.roundTrip()).rejects.toThrow();
    await eventually(() => expect(door.refused).toEqual({ "no-certificate": 1 }));
  });

  test("where one may come without a certificate nothing is proven of it, and a wrong one is refused all the same", async () => {
    const door = await new Door(await credentialsFor(b)).open(helloOfB, true);
    const session = sessionOf(await dial(door.address, { bundle: ca.certificate }), helloOfA);
    await session.roundTrip();
    expect(door.sessions[0]?.provenIdentity).toBeUndefined();
    expect(await isServed(door, await credentialsFor(a, { by: otherCa, trusts: ca.certificate }))).toBe(false);
    expect(door.refused).toEqual({ untrusted: 1 });
  });

  test.each([
    ["a plain session", async (address: string) => void sessionOf(await dialTcp(address, 1000), helloOfA)],
    [
      "HTTP",
      async (address: string) => {
        const [host, port] = address.split(":") as [string, string];
        const socket = connectPlain({ host, port: Number(port) }, () => socket.write("GET / HTTP/1.1\r\n\r\n"));
        opened.push({ close: () => socket.destroy() });
        await new Promise((resolve) => socket.on("close", resolve));
      },
    ],
  ])("%s over plain TCP is refused at once", async (_, speak) => {
    const door = await new Door(await credentialsFor(b)).open();
    await speak(door.address);
    await speak(door.address);
    await eventually(() => expect(door.refused).toEqual({ plain: 2 }));
    expect(door.logs).toEqual(["refused a connection from 127.0.0.1 (plain): it does not speak TLS"]);
    expect(door.sessions).toEqual([]);
  });

  test("older TLS, and other protocols over it, are refused", async () => {
    const door = await new Door(await credentialsFor(b)).open();
    const [host, port] = door.address.split(":") as [string, string];
    const credentials = await credentialsFor(a);
    const tried = (further: object) =>
      new Promise<void>((resolve) => {
        const context = { ...contextOptions(credentials), minVersion: undefined };
        const socket = connect({
          host,
          port: Number(port),
          ...context,
          checkServerIdentity: () => undefined,
          ...further,
        });
        socket.on("error", () => {});
        socket.on("close", () => resolve());
        opened.push({ close: () => socket.destroy() });
      });
    await tried({ maxVersion: "TLSv1.2", ALPNProtocols: ["lever/1"] });
    await tried({ ALPNProtocols: ["h2"] });
    await tried({});
    await eventually(() => expect(door.refused).toEqual({ handshake: 3 }));
    expect(door.sessions).toEqual([]);
  });

  test("no session of TLS is resumed: that would not show its certificate again", async () => {
    const door = await new Door(await credentialsFor(b)).open();
    const [host, port] = door.address.split(":") as [string, string];
    const context = { ...contextOptions(await credentialsFor(a)), ALPNProtocols: ["lever/1"] };
    const tickets: Buffer[] = [];
    const connected = (session?: Buffer) =>
      new Promise<boolean>((resolve, reject) => {
        const given = session === undefined ? {} : { session };
        const socket = connect({
          host,
          port: Number(port),
          ...context,
          ...given,
          checkServerIdentity: () => undefined,
        });
        socket.on("session", (ticket) => tickets.push(ticket));
        socket.on("error", reject);
        socket.once("data", () => {
          resolve(socket.isSessionReused());
          socket.destroy();
        });
      });
    expect(await connected()).toBe(false);
    if (tickets[0] !== undefined) expect(await connected(tickets[0])).toBe(false);
  });

  test("who floods it is counted, and told of up to a limit", () => {
    const logs: string[] = [];
    let nowMs = 0;
    const refusals = new Refusals({ onLog: (text) => logs.push(text), now: () => nowMs });
    for (let i = 0; i < 5000; i++) refusals.refused("plain", `10.0.${i >> 8}.${i & 255}`, "x");
    expect(refusals.counts.plain).toBe(5000);
    expect(logs).toHaveLength(1001);
    expect(logs.at(-1)).toMatch(/there are more of this kind than the 1000 that are told in an hour/);
    refusals.refused("untrusted", "10.0.0.1", "x");
    expect(logs).toHaveLength(1002);
    nowMs = 3_600_000;
    refusals.refused("plain", "10.0.0.1", "x");
    expect(logs).toHaveLength(1003);
  });

  test("who is proven and refused is told of by its identity: one address may be that of many", async () => {
    const logs: string[] = [];
    const refusals = new Refusals({ onLog: (text) => logs.push(text) });
    for (const id of ["one", "one", "two"]) refusals.refused("identity", "10.0.0.1", `it is ${id}`, id);
    expect(logs).toHaveLength(2);
  });
});

describe("who dials", () => {
  test.each<[string, () => Promise<Credentials>, RegExp]>([
    [
      "one of another CA",
      () => credentialsFor(b, { by: otherCa, trusts: ca.certificate }),
      /unable to verify|self-signed|issuer/i,
    ],
    ["one whose certificate has ended", () => credentialsFor(b, { nowMs: Date.now() - 2 * dayMs }), /expired/],
    ["the operator", () => credentialsFor(operatorId), /has spiffe:.*operator-1, expected an instance/],
    [
      "one with another name",
      () => credentialsFor(b, { uri: "https://example.org" }),
      /none of Lever's, expected an instance/,
    ],
  ])("does not take %s for an instance", async (_, credentials, message) => {
    const door = await new Door(await credentials()).open();
    await expect(dial(door.address, await credentialsFor(a))).rejects.toThrow(message);
    door.source.set(await credentialsFor(b));
    await expect(dial(door.address, await credentialsFor(a))).resolves.toBeDefined();
  });

  test.each([
    ["the very instance", { environment: "shop", service: "chat", instance: "chat-2" }, true],
    ["any of the service", { environment: "shop", service: "chat" }, true],
    ["another instance", { environment: "shop", service: "chat", instance: "chat-3" }, false],
    ["another service", { environment: "shop", service: "cart" }, false],
    ["another environment", { environment: "bank", service: "chat", instance: "chat-2" }, false],
  ])("and means %s", async (_, peer, isOpen) => {
    const door = await new Door(await credentialsFor(b)).open();
    const credentials = await credentialsFor(a);
    const link = new PeerLink(
      {
        clock,
        limits: { dialTimeoutMs: 3000, dialBackoffMs: 1000 },
        dial: (address) => dial(address, credentials),
        openLink: (transport, onHello, onClose) =>
          new Session({
            transport,
            clock,
            side: "dialer",
            identity: helloOfA,
            limits: defaultSessionLimits,
            handler: { onHello, onClose },
          }),
      },
      door.address,
      peer,
    );
    opened.push(link);
    const found = await new Promise<string>((resolve) => {
      link.dial({ onLink: (session, error) => resolve(session === undefined ? (error?.rawMessage ?? "") : "open") });
    });
    if (isOpen) expect(found).toBe("open");
    else expect(found).toMatch(/agent shop\/chat\/chat-2 answers there, expected (shop|bank)\/(chat|cart)\//);
  });

  test("does not take for the instance what says it is another one in HELLO", async () => {
    const door = await new Door(await credentialsFor(b)).open({ ...helloOfB, service: "bank" });
    const session = sessionOf(await dial(door.address, await credentialsFor(a)), helloOfA);
    await expect(session.roundTrip()).rejects.toMatchObject({ reason: "IDENTITY_DENIED" });
  });

  test("a port that takes connections and does nothing is given up in time", async () => {
    const blackhole = await new Promise<Listener>((resolve) => {
      const server = createServer((socket) => socket.on("error", () => {}).resume());
      server.listen(0, "127.0.0.1", () => {
        const { port } = server.address() as { port: number };
        resolve({ address: `127.0.0.1:${port}`, port, close: () => server.close() });
      });
    });
    opened.push(blackhole);
    const options = { timeoutMs: 100, credentials: await credentialsFor(a), accepts: () => true, expected: "" };
    await expect(dialTls(blackhole.address, options)).rejects.toThrow(/within 100 ms/);
    await expect(dialTls("nonsense", options)).rejects.toThrow(/is no host:port/);
  });
});

test("a renewal and a rotation of the CA drop no session, and are for new ones alone", async () => {
  const next = await makeAuthority(Date.now());
  const both = ca.certificate + next.certificate;
  const door = await new Door(await credentialsFor(b, { trusts: both })).open();
  const old = sessionOf(await dial(door.address, await credentialsFor(a, { trusts: both })), helloOfA);
  await old.roundTrip();
  // It signs now.
  door.source.set(await credentialsFor(b, { by: next, trusts: both }));
  await old.roundTrip();
  expect(await isServed(door, await credentialsFor(a, { trusts: both }))).toBe(true);
  expect(await isServed(door, await credentialsFor(a, { by: next, trusts: both }))).toBe(true);
  // The old one is retired.
  door.source.set(await credentialsFor(b, { by: next }));
  await old.roundTrip();
  expect(door.errors).toEqual([]);
  expect(await isServed(door, await credentialsFor(a, { by: next }))).toBe(true);
  expect(await isServed(door, await credentialsFor(a, { trusts: both }))).toBe(false);
  expect(door.refused).toEqual({ untrusted: 1 });
  await expect(dial(door.address, await credentialsFor(a))).rejects.toThrow();
  await old.roundTrip();
});

describe("of more handshakes than may be under way", () => {
  const silent = (address: string, localAddress = "127.0.0.1") => {
    const socket = connectPlain({ host: "127.0.0.1", port: Number(address.split(":")[1]), localAddress });
    opened.push({ close: () => socket.destroy() });
    return new Promise<typeof socket>((resolve) => socket.once("connect", () => resolve(socket)));
  };

  test("one more is refused at once, is counted, and finds room when one has ended", async () => {
    const door = await new Door(await credentialsFor(b)).open(helloOfB, false, { handshakesMax: 2 });
    const [first] = [await silent(door.address), await silent(door.address)];
    await expect(dial(door.address, await credentialsFor(a))).rejects.toThrow();
    expect(door.refused).toEqual({ overloaded: 1 });
    first.destroy();
    const credentials = await credentialsFor(a);
    await eventually(async () => expect(await isServed(door, credentials)).toBe(true));
  });

  test("who is silent for long makes room; those that are proven do not count", async () => {
    const door = await new Door(await credentialsFor(b)).open(helloOfB, false, { handshakesMax: 1 });
    const credentials = await credentialsFor(a);
    for (let count = 0; count < 3; count++) expect(await isServed(door, credentials)).toBe(true);
    const first = await silent(door.address);
    const closed = new Promise((resolve) => first.once("close", resolve));
    first.on("error", () => {});
    await eventually(async () => expect(await isServed(door, credentials)).toBe(true));
    await closed;
  });

  test("one address takes its own part alone", async () => {
    const limits = { handshakesMax: 8, handshakesOfAddressMax: 2 };
    const door = await new Door(await credentialsFor(b)).open(helloOfB, false, limits);
    const credentials = await credentialsFor(a);
    const held = [await silent(door.address, "127.0.0.2"), await silent(door.address, "127.0.0.2")];
    const further = await silent(door.address, "127.0.0.2");
    await new Promise((resolve) => further.once("close", resolve));
    expect(door.refused).toEqual({ overloaded: 1 });
    expect(door.logs[0]).toMatch(/from 127\.0\.0\.2 \(overloaded\): 2 handshakes from this address are under way/);
    expect(held.map(({ closed }) => closed)).toEqual([false, false]);
    expect(await isServed(door, credentials)).toBe(true);
  });
});
