/**
 * Plays the agents of pods that nobody runs, all in this one process: each has a session with the operator, has
 * registered an app, and is subscribed to its own service, as every agent is. Each has a certificate of its own, signed
 * here by the operator's CA: what it takes to get one from the operator is not measured by this.
 *
 * A child of the measurement, which tells it by IPC whom to play and hears what the tables say. It takes calls of nobody.
 */

import { webcrypto, X509Certificate } from "node:crypto";
import { DiscoveryClient } from "@leveros/agent/core/discovery-client.ts";
import { OperatorDialer } from "@leveros/agent/host/operator-dialer.ts";
import { operatorDialTimeoutMs, startOperatorSession } from "@leveros/agent/host/operator-sessions.ts";
import { type Credentials, dialTls } from "@leveros/agent/host/tls.ts";
import { type Authority, issue, readAuthority } from "@leveros/operator/identity/authority.ts";
import { runtimeClock } from "@leveros/protocol/clock/runtime-clock.ts";
import { printSpiffeId } from "@leveros/protocol/control/spiffe-id.ts";
import type { Identity } from "@leveros/protocol/session/hello.ts";
import { operatorLinkTimes } from "@leveros/protocol/session/limits.ts";

export interface FakeAgent {
  readonly environment: string;
  readonly service: string;
  readonly instance: string;
  readonly address: string;
  /** Of its pod. */
  readonly uid: string;
}

/** Once whom to play, then where the operator is whenever that changes. */
export type FakeAgentsMessage = FakeAgentsOrder | { readonly operatorHosts: readonly string[] };

export interface FakeAgentsOrder {
  /** The CA, as PEM. */
  readonly authority: { readonly certificate: string; readonly key: string };
  readonly agents: readonly FakeAgent[];
  /** Of each replica. */
  readonly operatorHosts: readonly string[];
  /** Instances of each service. */
  readonly instancesPerService: number;
}

export interface FakeAgentsReport {
  /** Agents that have a certificate. */
  readonly certified: number;
  readonly connected: number;
  /** Agents whose table has all instances of their service, each Serving. */
  readonly whole: number;
  /** Times that an instance was Serving in an agent's table and then was not. */
  readonly lost: number;
}

/** Agents that connect at the same time, at the beginning: pods do not come all at once. */
const lanes = 16;
const reportEveryMs = 100;
/**
 * Dials at a time; who would be one more tries again later. Agents have processors of their own; all of them in this process
 * would spend its time on handshakes that are given up before they are over, and again.
 */
const dialsMax = 32;

const clock = runtimeClock(globalThis);
let operatorHosts: readonly string[] = [];
let certified = 0;
let connected = 0;
let lost = 0;
const whole = new Set<string>();

async function certify(order: FakeAgentsOrder): Promise<Credentials[]> {
  const bundle = order.authority.certificate;
  const authority: Authority = await readAuthority(order.authority, [new X509Certificate(bundle)]);
  // One key for all: it is not what is measured.
  const algorithm = { name: "ECDSA", namedCurve: "P-256" };
  const keys = await webcrypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
  const key = Buffer.from(await webcrypto.subtle.exportKey("pkcs8", keys.privateKey)).toString("base64");
  const keyPem = `-----BEGIN PRIVATE KEY-----\n${key}\n-----END PRIVATE KEY-----\n`;
  const credentials: Credentials[] = [];
  for (const { environment, service, instance, uid } of order.agents) {
    const id = printSpiffeId({ kind: "instance", environment, service, instance, uid });
    const { chain, notAfterMs } = await issue(authority, { publicKey: keys.publicKey, id, nowMs: Date.now() });
    credentials.push({ certificate: chain, key: keyPem, bundle, notAfterMs });
    certified++;
  }
  return credentials;
}

let dials = 0;

async function ifNotBusy<Result>(dial: () => Promise<Result>): Promise<Result> {
  if (dials >= dialsMax) throw new Error("this process has enough to do");
  dials++;
  try {
    return await dial();
  } finally {
    dials--;
  }
}

/** Resolves when it has connected for the first time. */
function play(agent: FakeAgent, credentials: Credentials, order: FakeAgentsOrder): Promise<void> {
  const { environment, service, instance, address } = agent;
  const identity: Identity = { role: "agent", environment, service, instance, library: "scale/0" };
  const dialer = new OperatorDialer({
    operator: "operator:3837",
    timeoutMs: operatorDialTimeoutMs,
    random: Math.random,
    resolve: async () => operatorHosts,
    dial: (to, timeoutMs) =>
      dialTls(to, { timeoutMs, credentials, accepts: ({ kind }) => kind === "operator", expected: "the operator" }),
  });
  return new Promise((played) => {
    let isConnected = false;
    const discovery = new DiscoveryClient({
      clock,
      random: Math.random,
      identity: { role: "agent", environment, service, instance, address },
      dial: async () => startOperatorSession(await ifNotBusy(() => dialer.any()), identity, operatorLinkTimes),
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
      if (serving === order.instancesPerService) whole.add(instance);
      else whole.delete(instance);
    });
  });
}

async function playAll(order: FakeAgentsOrder): Promise<void> {
  const credentials = await certify(order);
  const waiting = order.agents.entries();
  const lane = async () => {
    for (const [index, agent] of waiting) await play(agent, credentials[index] as Credentials, order);
  };
  await Promise.all(Array.from({ length: lanes }, lane));
}

process.on("message", (message: FakeAgentsMessage) => {
  ({ operatorHosts } = message);
  if ("agents" in message) void playAll(message);
});
process.on("disconnect", () => process.exit(0));
setInterval(() => {
  const report: FakeAgentsReport = { certified, connected, whole: whole.size, lost };
  process.send?.(report);
}, reportEveryMs);
