import { runtimeClock } from "@leveros/protocol/clock/runtime-clock.ts";
import { afterEach, expect, test } from "vitest";
import { ApiServer } from "../kube/api-server.fixture.ts";
import { KubeClient } from "../kube/kube-client.ts";
import { certificatesIn, eventually, foreignAuthority } from "./identity.fixture.ts";
import { IdentitySecret, type SecretObject, secrets } from "./identity-secret.ts";
import { authorityLifeMs, hourMs } from "./lifetimes.ts";
import { announceMs } from "./rotation.ts";
import { secretData } from "./secret-content.ts";

const clock = runtimeClock(globalThis);
const namespace = "lever-system";
const name = "lever-identity";
const open: IdentitySecret[] = [];

afterEach(async () => {
  await Promise.all(open.splice(0).map((secret) => secret.close()));
});

class World {
  readonly api = new ApiServer(clock);
  readonly logs: string[] = [];
  nowMs = Date.parse("2030-01-01T00:00:00Z");

  put(data?: Record<string, string>, annotations?: Record<string, string>): void {
    const encoded = Object.fromEntries(
      Object.entries(data ?? {}).map(([key, text]) => [key, Buffer.from(text).toString("base64")]),
    );
    const found = this.object();
    this.api.put(secrets, {
      ...found,
      metadata: { ...found?.metadata, namespace, name, ...(annotations && { annotations }) },
      ...(data !== undefined && { data: encoded }),
    } as SecretObject);
  }

  object(): SecretObject | undefined {
    return this.api.object<SecretObject>(secrets, namespace, name);
  }

  get data(): Readonly<Record<string, string>> {
    return secretData(this.object()?.data);
  }

  replica(): IdentitySecret {
    const secret = new IdentitySecret({
      client: new KubeClient({ transport: this.api.transport(), clock }),
      clock,
      random: Math.random,
      wallMs: () => this.nowMs,
      namespace,
      name,
      onLog: (level, text) => void this.logs.push(`${level} ${text}`),
    });
    open.push(secret);
    secret.start();
    return secret;
  }

  get writes(): number {
    return this.api.requests.filter(({ method }) => method !== "GET").length;
  }
}

test("an empty Secret is filled once, however many replicas find it", async () => {
  const world = new World();
  world.put();
  // An object without fields to wait for: all begin at the very same version.
  const replicas = [world.replica(), world.replica(), world.replica()];
  expect(await Promise.all(replicas.map((replica) => replica.whenUsable()))).toEqual([true, true, true]);
  const [first, ...others] = replicas.map(({ identity }) => identity);
  for (const identity of others) {
    expect(identity?.bundle).toBe(first?.bundle);
    expect(identity?.drainKey).toBe(first?.drainKey);
    expect(identity?.authority.certificate.rawData).toEqual(first?.authority.certificate.rawData);
  }
  expect(world.logs.filter((text) => text.includes("has a new CA"))).toHaveLength(1);
  expect(world.data["drain-key"]?.length).toBeGreaterThanOrEqual(16);
});

test("one that is emptied gets back what it had, and all anew when that is asked for", async () => {
  const world = new World();
  world.put();
  const [leader, other] = [world.replica(), world.replica()];
  await Promise.all([leader.whenUsable(), other.whenUsable()]);
  leader.leads(true);
  world.put(undefined, { "leveros.dev/rotate": "now" });
  await eventually(() => expect(certificatesIn(other.identity?.bundle)).toHaveLength(2));
  const { data } = world;
  world.put({}, {});
  await eventually(() => expect(world.data).toEqual(data));
  expect(world.logs.filter((text) => /^warn .*was emptied.*leveros\.dev\/replace-ca=now/.test(text))).toHaveLength(1);
  leader.leads(false);
  world.put(undefined, { "leveros.dev/replace-ca": "now", kept: "yes" });
  await eventually(() => expect(certificatesIn(leader.identity?.bundle)).toHaveLength(1));
  expect(world.object()?.metadata.annotations).toEqual({ kept: "yes" });
  expect(world.data["tls.crt"]).not.toBe(data["tls.crt"]);
  expect(world.data["drain-key"]).not.toBe(data["drain-key"]);
  await eventually(() => expect(other.identity?.bundle).toBe(leader.identity?.bundle));
  expect(world.logs.filter((text) => text.includes("has a new CA"))).toHaveLength(2);
});

test("cert-manager's CA, written over what was in the middle of a rotation, is left to it", async () => {
  const world = new World();
  world.put();
  const replica = world.replica();
  await replica.whenUsable();
  replica.leads(true);
  world.put(undefined, { "leveros.dev/rotate": "now" });
  await eventually(() => expect(certificatesIn(world.data["ca.crt"])).toHaveLength(2));
  const root = await foreignAuthority({ nowMs: world.nowMs, name: "root" });
  const own = await foreignAuthority({ nowMs: world.nowMs, name: "intermediate", signer: root });
  const data = { "tls.crt": own.certificate, "tls.key": own.key, "ca.crt": root.certificate };
  world.put({ ...world.data, ...data });
  await eventually(() => expect(replica.identity?.bundle.trim()).toBe(root.certificate.trim()));
  const { writes } = world;
  world.nowMs += 2 * announceMs;
  world.put(undefined, { "leveros.dev/rotate": "again" });
  await eventually(() => expect(replica.reflector.get(namespace, name)?.metadata.annotations).toBeDefined());
  replica.leads(true);
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect([world.writes, world.data]).toMatchObject([writes, data]);
});

test("a CA that has ended, or has not begun, is told; what is signed by it nobody trusts", async () => {
  const world = new World();
  world.put();
  const replica = world.replica();
  await replica.whenUsable();
  expect(replica.whyNotReady()).toBeUndefined();
  world.nowMs -= hourMs;
  expect(replica.whyNotReady()).toMatch(
    /lever-system\/lever-identity begins at 2029-12-31T23:55:00.000Z, and here it is/,
  );
  world.nowMs += hourMs + authorityLifeMs;
  expect(replica.whyNotReady()).toMatch(/lever-system\/lever-identity ended at 2031-01-01T00:00:00.000Z$/);
});

test("only the leader goes on with the rotation; all sign by the next CA then", async () => {
  const world = new World();
  world.put();
  const [leader, other] = [world.replica(), world.replica()];
  await Promise.all([leader.whenUsable(), other.whenUsable()]);
  const before = world.data["tls.crt"];
  world.put(undefined, { "leveros.dev/rotate": "now", kept: "yes" });
  leader.leads(true);
  await eventually(() => expect(certificatesIn(world.data["ca.crt"])).toHaveLength(2));
  expect(world.object()?.metadata.annotations).toEqual({ kept: "yes" });
  await eventually(() => expect(certificatesIn(other.identity?.bundle)).toHaveLength(2));
  const bundle = other.identity?.bundle;
  leader.leads(false);
  world.nowMs += announceMs;
  world.put(undefined, { kept: "still" });
  await eventually(() => expect(other.reflector.get(namespace, name)?.metadata.annotations).toEqual({ kept: "still" }));
  expect(world.data["tls.crt"]).toBe(before);
  leader.leads(true);
  await eventually(() => expect(world.data["tls.crt"]).not.toBe(before));
  await eventually(() => {
    expect(other.identity?.authority.certificate.toString("pem").trim()).toBe(world.data["tls.crt"]?.trim());
  });
  expect(other.identity?.bundle).toBe(bundle);
});

test("what cannot be used is told and never written over, and what was usable stays in use", async () => {
  const world = new World();
  world.put({ "tls.crt": "nonsense", "tls.key": "nonsense" });
  const replica = world.replica();
  replica.leads(true);
  await eventually(() => expect(replica.isBroken).toBe(true));
  expect(replica.whyNotReady()).toMatch(/lever-system\/lever-identity cannot be used.*tls\.crt has no certificate/);
  expect(world.writes).toBe(0);
  expect(world.logs.filter((text) => text.startsWith("warn"))).toHaveLength(1);
  world.put({});
  expect(await replica.whenUsable()).toBe(true);
  await eventually(() => expect(replica.isBroken).toBe(false));
  const { identity } = replica;
  const writes = world.writes;
  world.put({ ...world.data, "tls.key": "" });
  await eventually(() => expect(replica.isBroken).toBe(true));
  expect(replica.identity).toBe(identity);
  expect(replica.whyNotReady()).toBeUndefined();
  expect(world.writes).toBe(writes);
});

test("a Secret that is missing is told; it is used as soon as it is there", async () => {
  const world = new World();
  const replica = world.replica();
  await eventually(() => expect(replica.whyNotReady()).toMatch(/is missing: the chart makes it/));
  world.put();
  expect(await replica.whenUsable()).toBe(true);
});

test("somebody else's CA is used as it is: only a drain key is added to it", async () => {
  const world = new World();
  const root = await foreignAuthority({ nowMs: world.nowMs, name: "root" });
  const own = await foreignAuthority({ nowMs: world.nowMs, name: "intermediate", signer: root });
  const data = { "tls.crt": own.certificate, "tls.key": own.key, "ca.crt": root.certificate };
  world.put(data, { "leveros.dev/rotate": "now" });
  const replica = world.replica();
  replica.leads(true);
  expect(await replica.whenUsable()).toBe(true);
  expect(world.data).toMatchObject(data);
  expect(Object.keys(world.data).sort()).toEqual(["ca.crt", "drain-key", "tls.crt", "tls.key"]);
  expect(world.writes).toBe(1);
  expect(certificatesIn(replica.identity?.authority.chain)).toEqual(certificatesIn(own.certificate));
  // Its rotation is its maker's.
  world.nowMs += authorityLifeMs;
  const later = await foreignAuthority({ nowMs: world.nowMs, name: "later", signer: root });
  world.put({ ...world.data, "tls.crt": later.certificate, "tls.key": later.key });
  await eventually(() => {
    expect(certificatesIn(replica.identity?.authority.chain)).toEqual(certificatesIn(later.certificate));
  });
  expect(world.writes).toBe(1);
});
