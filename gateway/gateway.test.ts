/** The gateway as a whole: its ports, its end, and what it shows of itself. */

import { readFile } from "node:fs/promises";
import { createServer } from "node:net";
import { AgentMetrics } from "@leveros/agent/host/agent-metrics.ts";
import { addIdentityMetrics } from "@leveros/agent/host/identity-metrics.ts";
import { Refusals } from "@leveros/agent/host/refusals.ts";
import { Client, type LeverError } from "leveros";
import { Registry } from "prom-client";
import { describe, expect, test } from "vitest";
import { Gateway } from "./gateway.ts";
import { Probe } from "./probe.fixture.ts";
import { RawConnection, type Rig, startRig } from "./rig.fixture.ts";

async function withRig(use: (rig: Rig, probe: Probe) => Promise<void>): Promise<void> {
  const probe = new Probe();
  const rig = await startRig({ "dev/probe": probe.methods });
  try {
    await use(rig, probe);
  } finally {
    probe.release();
    await rig.close();
  }
}

async function admin(rig: Rig, path: string): Promise<{ status: number; text: string }> {
  const response = await fetch(`http://127.0.0.1:${rig.gateway.adminPort}${path}`);
  return { status: response.status, text: await response.text() };
}

describe("a port that is in use", () => {
  test.each(["httpPort", "port", "adminPort"] as const)(
    "%s: the error names the setting, and nothing stays open",
    async (which) => {
      const server = createServer();
      await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
      const taken = (server.address() as { port: number }).port;
      const names = { httpPort: "--http-port", port: "--port", adminPort: "--admin-port" };
      const start = (portNames?: { http: string; native: string; admin: string }) =>
        Gateway.start({
          operator: "127.0.0.1:1",
          host: "127.0.0.1",
          httpPort: 0,
          port: 0,
          adminPort: 0,
          [which]: taken,
          allowForceEnv: false,
          corsOrigins: [],
          ...(portNames && { portNames }),
        }).then(
          () => expect.unreachable(),
          (error: unknown) => error as LeverError,
        );
      try {
        const error = await start();
        expect(error).toMatchObject({ reason: "INVALID_OPTION" });
        expect(error.rawMessage).toContain(`127.0.0.1:${taken}`);
        expect(error.rawMessage).toContain(`${names[which]}`);
        const named = { http: "HTTP_NAME", native: "NATIVE_NAME", admin: "ADMIN_NAME" };
        expect((await start(named)).rawMessage).toMatch(/[A-Z]+_NAME/);
      } finally {
        server.close();
      }
    },
  );
});

describe("drain", () => {
  test("finishes what runs, over HTTP and at the native port, and takes nothing new", async () => {
    await withRig(async (rig, probe) => {
      await using client = new Client({ gateway: `127.0.0.1:${rig.gateway.port}`, environment: "dev" });
      const idle = await RawConnection.open(rig.gateway.httpPort);
      idle.write("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
      await idle.response();
      const http = fetch(`${rig.url}/probe/waits`, { method: "POST" });
      const native = client.invoke("/probe/waits");
      const channel = await client.openChannel("/probe/echoChan");
      await probe.whenRuns(3);
      expect(await admin(rig, "/readyz")).toMatchObject({ status: 200 });
      const drained = rig.gateway.drain(20_000);
      expect(await admin(rig, "/readyz")).toEqual({ status: 503, text: "draining\n" });
      await idle.closed();
      await expect(RawConnection.open(rig.gateway.httpPort)).rejects.toMatchObject({ code: "ECONNREFUSED" });
      const next = await client.invoke("/probe/echo", [1], { timeoutMs: 300 }).catch((error: unknown) => error);
      expect(next).toMatchObject({ effect: "none" });
      await channel.send("still");
      expect(await channel.receive()).toBe("still");
      probe.release();
      const response = await http;
      expect(response.status).toBe(200);
      expect(response.headers.get("connection")).toBe("close");
      expect(await response.text()).toBe('"released"');
      expect(await native).toBe("released");
      channel.closeWrite();
      expect(await channel.receive()).toBeUndefined();
      await drained;
      await expect(admin(rig, "/readyz")).rejects.toThrow();
    });
  });

  test("a request that comes on an open connection meanwhile is answered, and the connection ends", async () => {
    await withRig(async (rig, probe) => {
      const connected = await RawConnection.open(rig.gateway.httpPort);
      const running = fetch(`${rig.url}/probe/waits`, { method: "POST" });
      await probe.whenRuns(1);
      // Half a request: the connection is not idle.
      connected.write("POST /probe/echo HTTP/1.1\r\nHost: x\r\n");
      await new Promise((resolve) => setTimeout(resolve, 50));
      const drained = rig.gateway.drain(20_000);
      connected.write("content-length: 3\r\n\r\n[1]");
      const response = await connected.response();
      expect(response?.body).toBe("1");
      expect(response?.headers.connection).toBe("close");
      await connected.closed();
      probe.release();
      expect((await running).status).toBe(200);
      await drained;
    });
  });

  test("is bounded: what still runs gets an error that says that it may have run", async () => {
    await withRig(async (rig, probe) => {
      const call = fetch(`${rig.url}/probe/waits`, { method: "POST" });
      const exchange = fetch(`${rig.url}/probe/stallChan`, {
        method: "POST",
        headers: { "content-type": "application/x-ndjson" },
        body: "[]\n",
      });
      await probe.whenRuns(2);
      await rig.gateway.drain(50);
      const response = await call;
      expect(response.status).toBe(502);
      expect(await response.json()).toMatchObject({ reason: "CONNECTION_LOST", effect: "unknown" });
      const line = JSON.parse(await (await exchange).text()) as { error: object };
      expect(line.error).toMatchObject({ kind: "network", effect: "ran" });
    });
  });

  test("with nothing running is over at once", async () => {
    await withRig(async (rig) => {
      await rig.gateway.drain(600_000);
    });
  });
});

describe("metrics", () => {
  /** Name to type, of what a page of Prometheus' text format has. */
  function typesOf(page: string): Map<string, string> {
    return new Map(
      [...page.matchAll(/^# TYPE (\S+) (\S+)$/gm)].map(([, name, type]) => [name as string, type as string]),
    );
  }

  /** `| name | type | labels | meaning |` rows of docs/metrics.md. */
  async function documented(): Promise<Map<string, { type: string; labels: string[] }>> {
    const page = await readFile(new URL("../docs/metrics.md", import.meta.url), "utf8");
    // The operator's are its own test's.
    const rows = [...page.matchAll(/^\| `(lever_(?!operator_)[a-z_]+)` \| (\w+) \|([^|]*)\| [^|]+ \|$/gm)];
    return new Map(
      rows.map(([, name, type, labels]) => [
        name as string,
        {
          type: type as string,
          labels: [...(labels as string).matchAll(/`(\w+)`/g)].map((match) => match[1] as string),
        },
      ]),
    );
  }

  test("docs/metrics.md has every metric of agent and gateway with its type and labels, and no other", async () => {
    await withRig(async (rig, probe) => {
      // Something of each, so that the labels can be seen.
      await fetch(`${rig.url}/probe/echo`, { method: "POST" });
      await fetch(`${rig.url}/nosuch/echo`, { method: "POST" });
      await fetch(`${rig.url}/probe/firstChan`, {
        method: "POST",
        headers: { "content-type": "application/x-ndjson" },
        body: "[]\n1\n",
      });
      await probe.when(() => probe.ends.length > 0);
      const gatewayPage = (await admin(rig, "/metrics")).text;
      const agentPage = await new AgentMetrics("lever_agent", "0.0.0", () => rig.gateway.agent).registry.metrics();
      // In a cluster there are these too.
      const identities = new Registry();
      for (const prefix of ["lever_agent", "lever_gateway"] as const) {
        addIdentityMetrics({ registry: identities, prefix, refusals: new Refusals(), notAfterMs: () => undefined });
      }
      const identityPage = await identities.metrics();
      const shown = new Map(
        [...typesOf(agentPage), ...typesOf(gatewayPage), ...typesOf(identityPage)].filter(([name]) =>
          name.startsWith("lever_"),
        ),
      );
      const written = await documented();
      expect([...written.keys()].sort()).toEqual([...shown.keys()].sort());
      for (const [name, type] of shown) expect([name, written.get(name)?.type]).toEqual([name, type]);
      for (const [, name, labels] of `${gatewayPage}\n${identityPage}`.matchAll(/^(lever_\w+)\{([^}]*)\}/gm)) {
        const base = (name as string).replace(/_(bucket|sum|count)$/, "");
        const found = [...(labels as string).matchAll(/(\w+)="/g)]
          .map((match) => match[1])
          .filter((label) => label !== "le");
        const { labels: expected } = written.get(base) ?? (written.get(name as string) as { labels: string[] });
        expect([name, found.sort()]).toEqual([name, [...expected].sort()]);
      }
    });
  });

  test("names and units are as Prometheus wants them", async () => {
    await withRig(async (rig) => {
      const types = typesOf((await admin(rig, "/metrics")).text);
      for (const [name, type] of types) {
        if (!name.startsWith("lever_")) continue;
        expect(name).toMatch(/^lever_(gateway_[a-z_]+|build_info)$/);
        expect(name).not.toMatch(/_(ms|milliseconds|kb|mb|minutes)(_|$)/);
        expect([name, name.endsWith("_total")]).toEqual([name, type === "counter"]);
        if (type === "histogram") expect(name).toMatch(/_(seconds|bytes)$/);
      }
    });
  });

  test("count what happened", async () => {
    await withRig(async (rig, probe) => {
      await fetch(`${rig.url}/probe/echo`, { method: "POST" });
      await fetch(`${rig.url}/probe/failJson`, {
        method: "POST",
        body: "[1]",
        headers: { "content-type": "application/json" },
      });
      for (let i = 0; i < 5; i++) await fetch(`${rig.url}/nosuch${i}/echo`, { method: "POST" });
      const raw = await RawConnection.open(rig.gateway.httpPort);
      raw.write("nonsense\r\n\r\n");
      await raw.response();
      const gone = new AbortController();
      const call = fetch(`${rig.url}/probe/waits`, { method: "POST", signal: gone.signal }).catch(() => {});
      await probe.whenRuns(3);
      const during = (await admin(rig, "/metrics")).text;
      expect(during).toMatch(/^lever_gateway_http_requests_running 1$/m);
      expect(during).not.toMatch(/^lever_gateway_http_connections 0$/m);
      gone.abort();
      await call;
      await probe.when(() => probe.aborts.length > 0);
      const { text } = await admin(rig, "/metrics");
      for (const line of [
        'lever_gateway_http_requests_total{status="200"} 1',
        'lever_gateway_http_requests_total{status="422"} 1',
        'lever_gateway_http_requests_total{status="404"} 5',
        'lever_gateway_http_requests_total{status="400"} 1',
        'lever_gateway_http_requests_total{status="aborted"} 1',
        "lever_gateway_http_request_duration_seconds_count 8",
        "lever_gateway_http_requests_running 0",
        "lever_gateway_http_held_bytes 0",
        'lever_gateway_invocations_total{environment="dev",service="probe",code="OK"} 1',
        'lever_gateway_invocations_total{environment="dev",service="probe",code="UNKNOWN"} 1',
        'lever_gateway_invocations_total{environment="other",service="other",code="NOT_FOUND"} 5',
      ]) {
        expect(text.split("\n")).toContain(line);
      }
      expect(text).not.toContain("nosuch");
    });
  });
});
