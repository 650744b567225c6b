/**
 * Three instances, one of which becomes slow, is told to end, or is killed, under load: where the calls go, which of
 * them fail, and whether those that fail say truly what has run.
 */

import { setTimeout as sleep } from "node:timers/promises";
import type { Client, LeverError } from "leveros";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type InstanceProcess, LeverDev, type LeverDevOptions } from "../harness/lever-dev.ts";
import { type LoadResult, load, tally } from "../harness/load.ts";
import type { SourcePatch } from "../harness/source-patch.ts";
import { until } from "../harness/until.ts";

const trio: LeverDevOptions = { manifests: ["e2e/fixtures/probe/trio.yaml"], agents: "process" };
const balancer = "agent/core/balancer/balancer.ts";
const alwaysTheFirst: SourcePatch = {
  file: balancer,
  find: "if (count < 2) return candidates[0];",
  replace: "if (count > 0) return candidates[0];",
};
const blindly: SourcePatch = {
  file: balancer,
  find: "return coin * (costOfA * costOfA + costOfB * costOfB) < costOfB * costOfB ? a : b;",
  replace: "return coin * (costOfA + costOfB) < (costOfA + costOfB) / 2 ? a : b;",
};
const neverIdempotent: SourcePatch = {
  file: "agent/core/retry/retry-policy.ts",
  find: 'const mayGoElsewhere = effect === "none" || (failed.isIdempotent && !failed.hasToken);',
  replace: 'const mayGoElsewhere = effect === "none";',
};

interface Answer {
  readonly instance: string;
}

/** Shares of the calls that went to each instance, in %. */
function shares({ results }: LoadResult): Record<string, number> {
  const counts = tally([...results.values()].map((result) => (result as Answer).instance));
  return Object.fromEntries(
    Object.entries(counts).map(([instance, count]) => [instance, (100 * count) / results.size]),
  );
}

async function thousand(client: Client): Promise<LoadResult> {
  const found = await load({
    prefix: "even",
    perSecond: 400,
    durationMs: 2500,
    call: (id, n) => client.invoke("/trio/look", [n], { metadata: { id } }),
  });
  expect({ sent: found.sent, answered: found.results.size }).toEqual({ sent: 1000, answered: 1000 });
  return found;
}

async function slowOne(dev: LeverDev, client: Client): Promise<{ all: Record<string, number>; slow: number }> {
  const { pid, instance } = dev.apps()[0] as InstanceProcess;
  process.kill(pid, "SIGUSR2");
  try {
    const all = shares(await thousand(client));
    return { all, slow: all[instance] ?? 0 };
  } finally {
    process.kill(pid, "SIGUSR2");
  }
}

interface Hit {
  readonly load: LoadResult;
  readonly retries: number;
  /** Errors of the method that is declared idempotent, and of the other. */
  readonly lookErrors: number;
  readonly addErrors: readonly (readonly [id: string, error: LeverError])[];
  /** Calls whose result or error does not agree with how often the method was entered. */
  readonly lies: readonly string[];
}

/** Long enough that some calls are under way in an instance whenever it is hit. */
const workMs = 80;

/** 600 calls/s, half of them idempotent; in the midst, for as long before as after, one instance gets the signal. */
async function hitOne(dev: LeverDev, client: Client, signal: "SIGKILL" | "SIGTERM", durationMs: number): Promise<Hit> {
  const prefix = signal.toLowerCase();
  const app = (await dev.serving("trio", 3))[0] as InstanceProcess;
  const retriesBefore = await dev.gatewayMetric("lever_gateway_retries_total");
  const running = load({
    prefix,
    perSecond: 600,
    durationMs,
    call: (id, n) => client.invoke(n % 2 === 0 ? "/trio/look" : "/trio/add", [n, workMs], { metadata: { id } }),
  });
  await sleep(durationMs / 2);
  process.kill(app.pid, signal);
  const found = await running;
  await until("the instance is gone", () => !dev.apps().some(({ pid }) => pid === app.pid));
  const entered = dev.log.entered();
  const isLook = (id: string) => Number(id.slice(prefix.length + 1)) % 2 === 0;
  const lies: string[] = [];
  for (const [id] of found.results) {
    const runs = entered.get(id) ?? 0;
    if (isLook(id) ? runs < 1 : runs !== 1) lies.push(`${id} succeeded and ran ${runs} times`);
  }
  for (const [id, { effect, reason }] of found.errors) {
    const runs = entered.get(id) ?? 0;
    if ((effect === "none" && runs > 0) || (effect === "ran" && runs === 0) || (!isLook(id) && runs > 1)) {
      lies.push(`${id} failed (${reason}, ${effect}) and ran ${runs} times`);
    }
  }
  return {
    load: found,
    retries: (await dev.gatewayMetric("lever_gateway_retries_total")) - retriesBefore,
    lookErrors: [...found.errors.keys()].filter(isLook).length,
    addErrors: [...found.errors].filter(([id]) => !isLook(id)) as [string, LeverError][],
    lies,
  };
}

function summary({ load: { planned, sent, sentPerSecond, errors }, retries, lookErrors, lies }: Hit): string {
  const reasons = tally([...errors.values()].map(({ reason, effect }) => `${reason} (${effect})`));
  return (
    `${sent} of ${planned} calls sent (${Math.round(sentPerSecond)}/s), ${retries} retries, ` +
    `${errors.size} errors ${JSON.stringify(reasons)}, ${lookErrors} of them idempotent, ${lies.length} lies`
  );
}

describe("with every protection", () => {
  let dev: LeverDev;
  let client: Client;

  beforeAll(async () => {
    dev = await LeverDev.start(trio);
    client = dev.client();
    await dev.serving("trio", 3);
  });

  afterAll(async () => {
    await client?.close();
    await dev?.stop();
  });

  test("1,000 calls spread evenly", async () => {
    const found = shares(await thousand(client));
    console.log(`1,000 calls over three instances: ${JSON.stringify(found)} %`);
    const percentages = Object.values(found);
    expect(percentages).toHaveLength(3);
    for (const share of percentages) {
      expect(share).toBeGreaterThanOrEqual(25);
      expect(share).toBeLessThanOrEqual(42);
    }
  });

  test("one that is slower by 200 ms gets a small part", async () => {
    const { slow } = await slowOne(dev, client);
    console.log(`one slower by 200 ms: ${slow} % of the calls`);
    expect(slow).toBeLessThan(10);
  });

  test("one that is told to end under load fails no call", async () => {
    const found = await hitOne(dev, client, "SIGTERM", 5000);
    console.log(`SIGTERM under load: ${summary(found)}`);
    expect(found.load.sent).toBe(found.load.planned);
    expect({ errors: [...found.load.errors.values()].map(String), lies: found.lies }).toEqual({ errors: [], lies: [] });
  });

  test("one that is killed under load: idempotent calls see no error, the others say what has run", async () => {
    const found = await hitOne(dev, client, "SIGKILL", 5000);
    console.log(`SIGKILL under load: ${summary(found)}`);
    expect(found.load.sent).toBe(found.load.planned);
    expect(found.lookErrors).toBe(0);
    expect(found.lies).toEqual([]);
    // Else nothing was under way in the instance, and the test has shown nothing.
    expect(found.addErrors.length).toBeGreaterThan(0);
    expect(found.retries).toBeGreaterThan(0);
    for (const [, { reason, effect }] of found.addErrors) {
      expect(["APP_GONE", "CONNECTION_LOST"]).toContain(reason);
      expect(effect).toBe("unknown");
    }
  });
});

describe("the controls", () => {
  test("a balancer that takes the first: one gets all", async () => {
    await using dev = await LeverDev.start({ ...trio, patches: [alwaysTheFirst] });
    await dev.serving("trio", 3);
    await using client = dev.client();
    const found = shares(await thousand(client));
    console.log(`spread, the control: ${JSON.stringify(found)} %`);
    expect(Object.values(found)).toEqual([100]);
  });

  test("a balancer that looks at no cost: the slow one gets a third", async () => {
    await using dev = await LeverDev.start({ ...trio, patches: [blindly] });
    await dev.serving("trio", 3);
    await using client = dev.client();
    const { slow } = await slowOne(dev, client);
    console.log(`one slower by 200 ms, the control: ${slow} % of the calls`);
    expect(slow).toBeGreaterThan(10);
  });

  test("an app that does not heed SIGTERM: calls fail", async () => {
    await using dev = await LeverDev.start({ ...trio, appEnv: { E2E_DEAF: "1" } });
    await using client = dev.client();
    const found = await hitOne(dev, client, "SIGTERM", 3000);
    console.log(`SIGTERM under load, the control: ${summary(found)}`);
    expect(found.load.errors.size).toBeGreaterThan(0);
  });

  test("no retries of what may have run: idempotent calls fail too", async () => {
    await using dev = await LeverDev.start({ ...trio, patches: [neverIdempotent] });
    await using client = dev.client();
    const found = await hitOne(dev, client, "SIGKILL", 3000);
    console.log(`SIGKILL under load, the control: ${summary(found)}`);
    expect(found.lookErrors).toBeGreaterThan(0);
  });
});
