import { webcrypto, X509Certificate } from "node:crypto";
import { runtimeClock } from "@leveros/protocol/clock/runtime-clock.ts";
import { afterEach, expect, test, vi } from "vitest";
import { ApiServer } from "../kube/api-server.fixture.ts";
import { KubeClient } from "../kube/kube-client.ts";
import type { AuthorityPem } from "./authority.ts";
import { certificatesIn, eventually, foreignAuthority } from "./identity.fixture.ts";
import { type SecretObject, secrets } from "./identity-secret.ts";
import { dayMs } from "./lifetimes.ts";
import { OperatorIdentity } from "./operator-identity.ts";

const clock = runtimeClock(globalThis);
const namespace = "lever-system";
const t0 = Date.parse("2030-01-01T00:00:00Z");
let open: OperatorIdentity | undefined;

afterEach(async () => {
  await open?.close();
});

/** A replica with a CA from elsewhere. */
class World {
  readonly api = new ApiServer(clock);
  readonly logs: string[] = [];
  nowMs = t0;
  readonly identity: OperatorIdentity;

  constructor() {
    this.identity = new OperatorIdentity({
      client: new KubeClient({ transport: this.api.transport(), clock }),
      clock,
      random: Math.random,
      wallMs: () => this.nowMs,
      namespace,
      name: "operator-1",
      secretName: "lever-identity",
      gatewayServiceAccount: "lever-gateway",
      audience: "lever-operator",
      lookMs: 20,
      onLog: (level, text) => void this.logs.push(`${level} ${text}`),
    });
    open = this.identity;
  }

  put({ certificate, key }: AuthorityPem): void {
    const data = { "tls.crt": certificate, "tls.key": key, "ca.crt": certificate, "drain-key": "0123456789abcdef" };
    this.api.put(secrets, {
      metadata: { namespace, name: "lever-identity" },
      data: Object.fromEntries(
        Object.entries(data).map(([field, text]) => [field, Buffer.from(text).toString("base64")]),
      ),
    } as SecretObject);
  }

  async start(days: number): Promise<this> {
    this.put(await foreignAuthority({ nowMs: t0, days }));
    this.identity.start();
    await eventually(() => expect(this.identity.whyNotReady()).toBeUndefined());
    return this;
  }

  /** The certificate that is used. */
  get used(): string | undefined {
    return certificatesIn(this.identity.current?.certificate)[0];
  }
}

test("the own certificate is made anew in good time, and when the clock was set back before its beginning", async () => {
  const world = new World();
  await world.start(90);
  const first = world.used;
  world.nowMs += 0.7 * dayMs;
  await eventually(() => expect(world.used).not.toBe(first));
  const second = world.used;
  world.nowMs -= 0.7 * dayMs;
  expect(world.identity.whyNotReady()).toMatch(/its own certificate is not valid/);
  await eventually(() => expect(world.used).not.toBe(second));
  expect(world.identity.whyNotReady()).toBeUndefined();
});

test("a CA that lapses is told a day before, and then the replica is not ready until there is another one", async () => {
  const world = new World();
  await world.start(3);
  const told = () => world.logs.filter((text) => /^warn the CA of .* at 2030-01-04T00:00:00.000Z/.test(text));
  world.nowMs += 1.9 * dayMs;
  await eventually(() =>
    expect(new X509Certificate(world.identity.current?.certificate ?? "").validTo).toMatch(/Jan {2}3/),
  );
  expect(told()).toEqual([]);
  world.nowMs += 0.2 * dayMs;
  await eventually(() => expect(told()).toHaveLength(1));
  expect(world.identity.whyNotReady()).toBeUndefined();
  world.nowMs += dayMs;
  expect(world.identity.whyNotReady()).toMatch(/^the CA of the Secret lever-system\/lever-identity ended at/);
  const last = world.used;
  await new Promise((resolve) => setTimeout(resolve, 100));
  expect([told().length, world.used]).toEqual([1, last]);
  world.put(await foreignAuthority({ nowMs: world.nowMs }));
  await eventually(() => expect(world.identity.whyNotReady()).toBeUndefined());
  expect(world.used).not.toBe(last);
});

test("if the first certificate cannot be made it is tried again", async () => {
  const world = new World();
  world.put(await foreignAuthority({ nowMs: t0 }));
  // Nothing that is real fails there once.
  const { importKey } = webcrypto.subtle;
  const spy = vi
    .spyOn(webcrypto.subtle, "importKey")
    .mockImplementation(((...args: Parameters<typeof importKey>) =>
      (args[0] as string) === "spki"
        ? Promise.reject(new Error("made up"))
        : importKey.apply(webcrypto.subtle, args)) as typeof importKey);
  world.identity.start();
  await eventually(() => expect(world.identity.whyNotReady()).toBe("no certificate of its own: not made: made up"));
  spy.mockRestore();
  await eventually(() => expect(world.identity.whyNotReady()).toBeUndefined());
});
