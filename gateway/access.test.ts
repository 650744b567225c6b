/** What can be reached from outside: what `access.gateway` exposes, and nothing tells of the rest. */

import { Client } from "leveros";
import { expect, test } from "vitest";
import { Probe } from "./probe.fixture.ts";
import { RawConnection, type Rig, startRig } from "./rig.fixture.ts";

const traceparent = "00-5b11e109955a374027c0af8cb984736b-986ee5a0f00392a2-01";

/** The answer, byte for byte but for what differs from one request to the next. */
async function answer(rig: Rig, path: string, type: string, body: string, method = "POST"): Promise<string> {
  const connection = await RawConnection.open(rig.gateway.httpPort);
  connection.write(
    `${method} ${path} HTTP/1.1\r\nHost: gateway\r\ntraceparent: ${traceparent}\r\nContent-Type: ${type}\r\n` +
      `Content-Length: ${Buffer.byteLength(body)}\r\nConnection: close\r\n\r\n${body}`,
  );
  const text = await connection.closed();
  return text.replace(/^Date: .*$/im, "Date").replace(/^traceparent: .*$/im, "traceparent");
}

const requests: [path: string, type: string, body: string, method?: string][] = [
  ["/probe/echo", "application/json", "[1]"],
  ["/probe/nothing", "application/json", "[1]"],
  ["/probe/_private", "application/json", "[]"],
  ["/probe/room-7/echo", "application/json", "[]"],
  ["/probe/echo", "application/json", JSON.stringify(["x".repeat(5000)])],
  ["/probe/echo", "application/json", "no array"],
  ["/probe/echo", "application/octet-stream", "bytes"],
  ["/probe/echo", "application/x-ndjson", "[]\n"],
  ["/probe/echoChan", "application/x-ndjson", "[]\n1\n"],
  ["/probe/echoChan", "application/json", "[]"],
  ["/probe/nothingChan", "application/x-ndjson", "[]\n"],
  ["/probe/echo", "application/json", "", "GET"],
];

test.each([
  ["a service that is not exposed", { gateway: { expose: "None" } }],
  ["a method that is not exposed", { gateway: { expose: "Public", methods: ["fail"] } }],
] as const)("over HTTP %s is answered like one that there is not", async (_, access) => {
  const probe = new Probe();
  const hidden = await startRig({ "dev/probe": probe.methods }, {}, { "dev/probe": access });
  const absent = await startRig({});
  const open = await startRig({ "dev/probe": probe.methods });
  try {
    for (const request of requests) {
      const [found, missing] = await Promise.all([answer(hidden, ...request), answer(absent, ...request)]);
      expect(found).toBe(missing);
    }
    expect(probe.runs).toBe(0);
    const [first = ["", "", ""]] = requests;
    expect(await answer(hidden, ...first)).toMatch(/^HTTP\/1.1 404 .*lever-reason: SERVICE_NOT_FOUND/s);
    // Control: it is not the requests that find nothing.
    expect(await answer(open, ...first)).toMatch(/^HTTP\/1.1 200 /);
    expect(probe.runs).toBe(1);
  } finally {
    probe.release();
    for (const rig of [hidden, absent, open]) await rig.close();
  }
});

test("at the native port too, and a change of the policy is all that it takes", async () => {
  const probe = new Probe();
  const rig = await startRig({ "dev/probe": probe.methods }, {}, { "dev/probe": { gateway: { expose: "None" } } });
  try {
    await using client = new Client({ gateway: `127.0.0.1:${rig.gateway.port}`, environment: "dev" });
    const seen = (call: Promise<unknown>) =>
      call.then(
        () => "ok",
        ({ effect, reason }: { effect: string; reason: string }) => `${effect} ${reason}`,
      );
    const all = async () => [
      await seen(client.invoke("/probe/echo", [1])),
      await seen(client.invoke("/probe/room/echo", [1])),
      await seen(client.openChannel("/probe/echoChan").then((channel) => channel.close())),
      (await fetch(`${rig.url}/probe/echo`, { method: "POST", body: "[1]", headers: json })).status,
    ];
    const until = async (isSo: () => Promise<boolean>) => {
      while (!(await isSo())) await new Promise((resolve) => setTimeout(resolve, 5));
    };
    const notFound = "none SERVICE_NOT_FOUND";
    expect(await all()).toEqual([notFound, notFound, notFound, 404]);
    expect(probe.runs).toBe(0);
    rig.setAccess("dev/probe", { gateway: { expose: "Public" } });
    await until(async () => (await seen(client.invoke("/probe/echo", [1]))) === "ok");
    expect(await all()).toEqual(["ok", "none NO_RESOURCES", "ok", 200]);
    const channel = await client.openChannel<unknown, unknown>("/probe/echoChan");
    rig.setAccess("dev/probe", { gateway: { expose: "Public", methods: ["fail"] } });
    await until(async () => (await seen(client.invoke("/probe/echo", [1]))) === notFound);
    const { runs } = probe;
    expect(await all()).toEqual([notFound, notFound, notFound, 404]);
    expect(probe.runs).toBe(runs);
    // What is open goes on.
    await channel.send("still here");
    for await (const message of channel) {
      expect(message).toBe("still here");
      break;
    }
  } finally {
    probe.release();
    await rig.close();
  }
});

const json = { "content-type": "application/json" };
