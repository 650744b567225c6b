#!/usr/bin/env node
/** The operator of a cluster as a process; settings.ts has its flags. */

import { hostname } from "node:os";
import { type AdminServer, startAdminServer } from "@leveros/agent/host/admin-server.ts";
import { hostLeaseClock } from "@leveros/agent/host/host-lease-clock.ts";
import { listenProblem } from "@leveros/agent/host/hosted-agent.ts";
import { addIdentityMetrics } from "@leveros/agent/host/identity-metrics.ts";
import { logLine } from "@leveros/agent/host/log-line.ts";
import { dialOperator } from "@leveros/agent/host/operator-sessions.ts";
import { Refusals } from "@leveros/agent/host/refusals.ts";
import { hostPort, type Listener, listenTcp } from "@leveros/agent/host/socket.ts";
import { runtimeClock } from "@leveros/protocol/clock/runtime-clock.ts";
import { operatorEnvironment, operatorService } from "@leveros/protocol/control/discovery.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import type { Identity } from "./identity/identity-secret.ts";
import { addIssuerMetrics } from "./identity/issuer-metrics.ts";
import { dialReplica, listenForAgents } from "./identity/operator-door.ts";
import { OperatorIdentity } from "./identity/operator-identity.ts";
import { HttpsTransport } from "./kube/https-transport.ts";
import { KubeClient } from "./kube/kube-client.ts";
import { loadKubeConfig, namespaceOf } from "./kube/kube-config.ts";
import { KubeOperator } from "./kube/kube-operator.ts";
import { OperatorMetrics } from "./kube/operator-metrics.ts";
import { type OperatorSettings, operatorSettings, usage } from "./settings.ts";
import { operatorVersion } from "./version.ts";

function log(level: "info" | "warn", text: string): void {
  console.error(logLine(level, text));
}

function fail(error: unknown): never {
  console.error(
    `lever-operator: ${LeverError.is(error) ? error.rawMessage : error instanceof Error ? error.message : error}`,
  );
  process.exit(2);
}

async function run(settings: OperatorSettings): Promise<void> {
  const config = loadKubeConfig({ file: settings.kubeconfig, context: settings.context });
  const namespace = settings.namespace ?? namespaceOf(config) ?? "lever-system";
  const name = settings.name ?? hostname();
  const clock = runtimeClock(globalThis);
  const library = `lever-operator/${operatorVersion}`;
  let operator: KubeOperator | undefined;
  const metrics = new OperatorMetrics(operatorVersion, () => operator);
  const client = new KubeClient({
    transport: new HttpsTransport(config),
    clock,
    userAgent: library,
    onAnswer: metrics.onAnswer,
  });

  const admin: AdminServer = await startAdminServer({
    host: settings.host,
    port: settings.adminPort,
    registry: metrics.registry,
    whyNotReady: () => operator?.whyNotReady(),
  }).catch((error) => {
    throw listenProblem(error, `port ${settings.adminPort}`, "--admin-port");
  });
  const wallMs = Date.now;
  const identity = new OperatorIdentity({
    client,
    clock,
    random: Math.random,
    wallMs,
    namespace,
    name,
    secretName: settings.identitySecret,
    gatewayServiceAccount: settings.gatewayServiceAccount,
    audience: settings.agent.tokenAudience,
    onLog: log,
  });
  const refusals = new Refusals({ onLog: (text) => log("warn", text) });
  addIdentityMetrics({
    registry: metrics.registry,
    prefix: "lever_operator",
    refusals,
    notAfterMs: () => identity.current?.notAfterMs,
  });
  addIssuerMetrics(metrics.registry, identity);
  // Bound at once, so that a port that cannot be had is known; nobody is served before all is known.
  let listener: Listener | undefined = await listenForAgents({
    host: settings.host,
    port: settings.port,
    credentials: identity,
    refusals,
    operator: () => (operator?.isReady === true ? operator : undefined),
  }).catch((error) => {
    throw listenProblem(error, `port ${settings.port}`, "--port");
  });

  // Whoever reaches the loopback address of a pod was given the right to: its own processes, and port-forwards.
  const people = await listenTcp("127.0.0.1", settings.forwardPort, (transport) => {
    if (operator?.isReady === true) operator.people.accept(transport);
    else transport.destroy();
  }).catch((error) => {
    throw listenProblem(error, `port ${settings.forwardPort} of 127.0.0.1`, "--forward-port");
  });

  const { advertisedHost } = settings;
  const address = advertisedHost === undefined ? undefined : hostPort(advertisedHost, listener.port);
  const self = { role: "operator" as const, environment: operatorEnvironment, service: operatorService, library };
  operator = new KubeOperator({
    client,
    clock,
    leaseClock: hostLeaseClock(),
    random: Math.random,
    wallMs,
    namespace,
    name,
    ...(address !== undefined && { address }),
    leaseName: settings.leaseName,
    identity,
    agent: () => ({
      ...settings.agent,
      operator: settings.agent.operator || `lever-operator.${namespace}.svc:3837`,
      drainKey: (identity.secret.identity as Identity).drainKey,
    }),
    ...(settings.replicaSelector !== undefined && { replicaSelector: settings.replicaSelector }),
    replicaPort: listener.port,
    dial: (to) =>
      dialOperator(to, { ...self, instance: name }, (replica, timeoutMs) =>
        dialReplica(replica, timeoutMs, identity, refusals),
      ),
    library,
    observer: {
      onLog: log,
      onReconciled: (controller, done) => metrics.onReconciled(controller, done),
      onTableSent: (lagMs) => metrics.onTableSent(lagMs),
      onMoved: (slots) => metrics.onMoved(slots),
    },
  });
  const started = operator;

  let isStopping = false;
  const stop = () => {
    // A second signal does not wait.
    if (isStopping) process.exit(1);
    isStopping = true;
    log("info", "stopping");
    listener?.close();
    listener = undefined;
    people.close();
    started.close().then(
      () => {
        client.close();
        admin.close();
        process.exit(0);
      },
      (error) => fail(error),
    );
  };
  process.on("SIGTERM", stop);
  process.on("SIGINT", stop);

  log(
    "info",
    `${library} ${name}: frames on ${listener.port}, metrics on ${admin.port}, people on ${people.port}, its Lease in ${namespace}`,
  );
  const sinceMs = clock.now();
  if (await started.start()) log("info", `ready after ${Math.round(clock.now() - sinceMs)} ms`);
}

try {
  const settings = operatorSettings(process.argv.slice(2), process.env);
  if (settings === undefined) console.log(usage());
  else await run(settings);
} catch (error) {
  fail(error);
}
