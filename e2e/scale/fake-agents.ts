/**
 * Plays the agents of pods that nobody runs, all in this one process: each has a session with the operator, has
 * registered an app, and is subscribed to its own service, as every agent is.
 *
 * A child of the measurement, which tells it by IPC whom to play and hears what the tables say. It takes calls of nobody.
 */

import { DiscoveryClient } from "@leveros/agent/core/discovery-client.ts";
import { OperatorDialer } from "@leveros/agent/host/operator-dialer.ts";
import { runtimeClock } from "@leveros/protocol/clock/runtime-clock.ts";
import type { Identity } from "@leveros/protocol/session/hello.ts";
import { defaultSessionLimits } from "@leveros/protocol/session/limits.ts";
import { Session } from "@leveros/protocol/session/session.ts";

export interface FakeAgent {
  readonly environment: string;
  readonly service: string;
  readonly instance: string;
  readonly address: string;
}

export interface FakeAgentsOrder {
  readonly agents: readonly FakeAgent[];
  /** Of each replica. */
  readonly operatorHosts: readonly string[];
  /** Instances of each service. */
  readonly instancesPerService: number;
}

export interface FakeAgentsReport {
  readonly connected: number;
  /** Agents whose table has all instances of their service, each Serving. */
  readonly whole: number;
  /** Times that an instance was Serving in an agent's table and then was not. */
  readonly lost: number;
}

/** Agents that connect at the same time, at the beginning: pods do not come all at once. */
const lanes = 100;
const reportEveryMs = 100;

const clock = runtimeClock(globalThis);
let connected = 0;
let lost = 0;
const whole = new Set<string>();

function play(
  { environment, service, instance, address }: FakeAgent,
  { instancesPerService, operatorHosts }: FakeAgentsOrder,
): Promise<void> {
  const identity: Identity = { role: "agent", environment, service, instance, library: "scale/0" };
  const resolve = async () => operatorHosts;
  const dialer = new OperatorDialer({ operator: "operator:3837", timeoutMs: 3000, random: Math.random, resolve });
  return new Promise((played) => {
    let isConnected = false;
    const discovery = new DiscoveryClient({
      clock,
      random: Math.random,
      identity: { role: "agent", environment, service, instance, address },
      dial: async () => {
        const transport = await dialer.any();
        return new Session({ transport, clock, side: "dialer", identity, limits: defaultSessionLimits, handler: {} });
      },
      onConnected: () => {
        isConnected = true;
        connected++;
        played();
      },
      onDisconnected: () => {
        if (isConnected) connected--;
        isConnected = false;
      },
    });
    discovery.register({
      methods: [{ name: "whoAmI", kind: "call" }],
      resources: false,
      library: "scale",
      version: "0",
    });
    let before = 0;
    discovery.subscribe(environment, service, ({ instances }) => {
      const serving = instances.filter(({ state }) => state === "Serving").length;
      if (serving < before) lost += before - serving;
      before = serving;
      if (serving === instancesPerService) whole.add(instance);
      else whole.delete(instance);
    });
  });
}

async function playAll(order: FakeAgentsOrder): Promise<void> {
  const waiting = order.agents.values();
  const lane = async () => {
    for (const agent of waiting) await play(agent, order);
  };
  await Promise.all(Array.from({ length: lanes }, lane));
}

process.on("message", (order: FakeAgentsOrder) => void playAll(order));
process.on("disconnect", () => process.exit(0));
setInterval(() => {
  const report: FakeAgentsReport = { connected, whole: whole.size, lost };
  process.send?.(report);
}, reportEveryMs);
