/**
 * Silence. A link on which nothing comes: because nothing was sent, and then a channel has to live on; or because it is
 * cut, and then both ends have to learn it. An app that is stopped while it holds rooms: they serve elsewhere when its
 * lease has ended, and nothing that it says after it woke is heard. The tests wait for the most part, and do so side by
 * side.
 */

import { setTimeout as sleep } from "node:timers/promises";
import { LeverError } from "leveros";
import { describe, expect, test } from "vitest";
import { AgentLinks, linkedAgents } from "../harness/agent-links.ts";
import { LeverDev } from "../harness/lever-dev.ts";
import { stateOf } from "../harness/process-list.ts";
import type { SourcePatch } from "../harness/source-patch.ts";
import { stopApp, stoppedAppServices } from "../harness/stopped-app.ts";
import { until } from "../harness/until.ts";

const manifests = ["e2e/fixtures/probe/probe.yaml"];
/** The longest that any end waits for a sign of life: the gateway, of a client outside. */
const silenceMsMax = 15_000;
const limits = "protocol/session/limits.ts";
const noPings: SourcePatch = {
  file: "protocol/session/session.ts",
  find: "this.#control(FrameType.Ping, 0, 0, new Uint8Array(8));",
  replace: "",
};
const noSilence: SourcePatch = { file: limits, find: "silenceMs: 3500", replace: "silenceMs: 0" };

/** Opens a channel from outside, lets it idle, and sends one message. */
async function idle(dev: LeverDev, idleMs: number): Promise<{ answer: unknown } | { reason: string; afterMs: number }> {
  await using client = dev.client();
  const channel = await client.openChannel("/probe/echoChan");
  await channel.receive();
  const startedAt = performance.now();
  const broken = new Promise<{ reason: string; afterMs: number }>((resolve) => {
    channel.signal.addEventListener("abort", () => {
      const { reason } = LeverError.from(channel.signal.reason);
      resolve({ reason, afterMs: Math.round(performance.now() - startedAt) });
    });
  });
  const early = await Promise.race([broken, sleep(idleMs)]);
  if (early !== undefined) return early;
  await channel.send("after the silence");
  return { answer: await channel.receive() };
}

interface CutChannel {
  /** Ms from the cut until the end knew, and what it was told; undefined where it was not told in time. */
  readonly caller: { readonly afterMs: number; readonly how: unknown } | undefined;
  readonly callee: { readonly afterMs: number; readonly how: unknown } | undefined;
}

/** A channel from one app to another through both their agents; `cut` is done to the link between the agents. */
async function cutLink(dev: LeverDev, id: string, cut: () => void, waitMs: number): Promise<CutChannel> {
  await using client = dev.client();
  const pids = dev.apps().map(({ pid }) => pid);
  await client.invoke("/probe/holdChannelTo", ["fragile"], { metadata: { id } });
  const cutAt = Date.now();
  cut();
  const end = async (of: string) => {
    const ended = await until("its end", () => dev.log.find({ event: "ended", id: of }), waitMs).catch(() => undefined);
    return ended === undefined ? undefined : { afterMs: (ended.at as number) - cutAt, how: ended.how };
  };
  const [caller, callee] = await Promise.all([end(id), end(`${id}-callee`)]);
  // Both apps were alive all the time.
  expect(dev.apps().map(({ pid }) => pid)).toEqual(pids);
  return { caller, callee };
}

/** Neither the holder's agent nor its app ends anything by the lease, and callers believe who was the holder. */
const noEnd: SourcePatch[] = [
  {
    file: "agent/core/relay.ts",
    find: "if (this.#epoch > 0 && this.#epoch < row.fence) this.#fenced(row);",
    replace: "",
  },
  {
    file: "agent/core/ownership/lease.ts",
    find: "this.#hasLapsed = elapsedMs(this.#begunAt, this.#clock.read()) >= this.times.admitMs;",
    replace: "",
  },
  {
    file: "agent/core/ownership/lease.ts",
    find: "if (elapsedMs(this.#begunAt, this.#clock.read()) >= this.times.gateMs) this.end();",
    replace: "",
  },
  {
    file: "agent/core/ownership/leader-link.ts",
    find: 'if (error.reason === "LEASE_LAPSED") options.onOver();',
    replace: "",
  },
  {
    file: "clients/node/resources/lease.ts",
    find: "this.#lease.passedMs(term) < term.gateMs) return true;",
    replace: "term.gateMs > 0) return true;",
  },
  {
    file: "clients/node/resources/resource-host.ts",
    find: "if (!this.#keepsLease || this.#lease.term === undefined) return;\n    if (this.#lease.admitLeftMs > 0)",
    replace: "return;\n    if (this.#lease.admitLeftMs > 0)",
  },
];

describe.concurrent("silence", () => {
  test("idle for three times every timer, then a message passes", async () => {
    await using dev = await LeverDev.start({ manifests, agents: "process" });
    const idleMs = 3 * silenceMsMax + 1000;
    const found = await idle(dev, idleMs);
    console.log(`idle for ${idleMs} ms: ${JSON.stringify(found)}`);
    expect(found).toEqual({ answer: "after the silence" });
  });

  test("the control: without PING, an idle channel is taken for dead", async () => {
    await using dev = await LeverDev.start({ manifests, agents: "process", patches: [noPings] });
    const found = await idle(dev, silenceMsMax);
    console.log(`idle, the control: ${JSON.stringify(found)}`);
    expect(found).toMatchObject({ reason: "CONNECTION_LOST" });
  });

  test("cut between two agents: both ends see a network error, and calls pass again once it is healed", async () => {
    await using dev = await LeverDev.start({ ...linkedAgents, manifests });
    using links = await AgentLinks.start(dev);
    const setMode = (mode: "hold" | "forward") => {
      for (const link of links.to("fragile")) link.mode = mode;
    };
    const found = await cutLink(dev, "cut", () => setMode("hold"), 20_000);
    console.log(`a cut link: ${JSON.stringify(found)}`);
    for (const end of [found.caller, found.callee]) {
      expect(end?.how).toBe("CONNECTION_LOST");
      // 3.5 s of silence, and what it takes to look, tell and write it down; three times that for a busy machine.
      expect(end?.afterMs).toBeLessThan(15_000);
    }
    setMode("forward");
    for (const link of links.to("fragile")) link.cut();
    await using client = dev.client();
    await until("calls pass again", () =>
      client
        .invoke("/fragile/ping")
        .then(() => true)
        .catch(() => false),
    );
  });

  test("an agent that is stopped: its peer sees a network error, its own app when it goes on", async () => {
    await using dev = await LeverDev.start({ manifests, agents: "process" });
    const agent = dev.agents().find(({ service }) => service === "fragile")?.pid as number;
    let resumedAt = 0;
    const found = await cutLink(
      dev,
      "stopped",
      () => {
        process.kill(agent, "SIGSTOP");
        setTimeout(() => {
          expect(stateOf(agent)).toBe("T");
          resumedAt = Date.now();
          process.kill(agent, "SIGCONT");
        }, 8000);
      },
      20_000,
    );
    console.log(`a stopped agent, which goes on after 8 s: ${JSON.stringify(found)}`);
    expect(found.caller?.how).toBe("CONNECTION_LOST");
    expect(found.caller?.afterMs).toBeLessThan(8000);
    expect(resumedAt).toBeGreaterThan(0);
    expect(found.callee?.how).toBe("CONNECTION_LOST");
  });

  test("the control: without a limit of silence, a cut goes unseen", async () => {
    await using dev = await LeverDev.start({ ...linkedAgents, manifests, patches: [noSilence] });
    using links = await AgentLinks.start(dev);
    const found = await cutLink(
      dev,
      "cut",
      () => {
        for (const link of links.to("fragile")) link.mode = "hold";
      },
      15_000,
    );
    console.log(`a cut link, the control: ${JSON.stringify(found)}`);
    expect(found).toEqual({ caller: undefined, callee: undefined });
  });

  test("an app that is stopped for 30 s is not heard any more, and its rooms serve elsewhere", async () => {
    await using dev = await LeverDev.start(stoppedAppServices);
    const found = await stopApp(dev);
    console.log(`an app that is stopped: ${JSON.stringify(found)}`);
    expect(found.rooms).toBeGreaterThan(10);
    expect(found).toMatchObject({ heardByWitness: 0, heardOnChannel: 0, answered: 0, violations: [] });
    // It has tried.
    expect(found.tried).toBeGreaterThan(0);
    expect(found.callEnd).toMatch(/ unknown$/);
    expect(found.channelEnd).not.toBe("cleanly");
    // Not before the lease has ended, which had begun up to 3 s before, and soon after.
    expect(found.firstMs).toBeGreaterThan(11_000);
    expect(found.lastMs).toBeLessThan(16_500 + 3000);
  });

  test("the control: where nothing ends with the lease, what it says after waking is heard", async () => {
    await using dev = await LeverDev.start({ ...stoppedAppServices, patches: noEnd });
    const found = await stopApp(dev);
    // Who believes in a lease for ever does not come to a good end.
    dev.killAll();
    console.log(`an app that is stopped, the control: ${JSON.stringify(found)}`);
    // At the least by the caller whose call was under way.
    expect(found.callEnd).toMatch(/^rooms-/);
  });
});
