/** What the operator shows at `/metrics`; `docs/metrics.md` has the list. Numbers that are kept elsewhere are read at each scrape. */

import { collectProcessMetrics } from "@leveros/agent/host/process-metrics.ts";
import { addReadCounter } from "@leveros/agent/host/read-counter.ts";
import { Counter, Gauge, Histogram, Registry } from "prom-client";
import type { AnsweredRequest } from "./kube-client.ts";
import type { KubeOperator, OperatorObserver } from "./kube-operator.ts";
import type { WorkDone } from "./work-queue.ts";

const buckets = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];
const states = ["Starting", "Serving", "Draining", "Unreachable"] as const;

export class OperatorMetrics implements OperatorObserver {
  readonly registry = new Registry();
  readonly #reconcileTime: Histogram<"controller">;
  readonly #queueTime: Histogram<"controller">;
  readonly #reconcileErrors: Counter<"controller">;
  readonly #requests: Counter<"verb" | "resource" | "code">;
  readonly #requestTime: Histogram<"verb">;
  readonly #endpointLag: Histogram;
  readonly #moves: Counter;

  /** `operator` is asked at each scrape. */
  constructor(version: string, operator: () => KubeOperator | undefined) {
    const registers = [this.registry];
    collectProcessMetrics(this.registry, "operator", version);
    this.#reconcileTime = new Histogram({
      name: "lever_operator_reconcile_time_seconds",
      help: "How long looking at one service took, requests included.",
      labelNames: ["controller"],
      buckets,
      registers,
    });
    this.#reconcileErrors = new Counter({
      name: "lever_operator_reconcile_errors_total",
      help: "Looks at a service that failed; each is tried again, later and later.",
      labelNames: ["controller"],
      registers,
    });
    this.#queueTime = new Histogram({
      name: "lever_operator_queue_time_seconds",
      help: "How long services waited in the queue for a worker.",
      labelNames: ["controller"],
      buckets,
      registers,
    });
    for (const controller of ["service", "table"]) {
      this.#reconcileErrors.inc({ controller }, 0);
      this.#reconcileTime.zero({ controller });
      this.#queueTime.zero({ controller });
    }
    const gauge = (name: string, help: string, read: (operator: KubeOperator) => number) => {
      new Gauge({
        name: `lever_operator_${name}`,
        help,
        registers,
        collect() {
          const current = operator();
          if (current !== undefined) this.set(read(current));
        },
      });
    };
    new Gauge({
      name: "lever_operator_queue_depth",
      help: "Services that could be looked at, and wait for a worker.",
      labelNames: ["controller"],
      registers,
      collect() {
        const current = operator();
        if (current === undefined) return;
        this.set({ controller: "service" }, current.services.queue.depth);
        this.set({ controller: "table" }, current.writer.queue.depth);
      },
    });
    const total = <Label extends string>(
      name: string,
      help: string,
      labelNames: readonly Label[],
      read: (operator: KubeOperator) => Iterable<readonly [Record<Label, string>, number]>,
    ) => {
      addReadCounter({
        registry: this.registry,
        name: `lever_operator_${name}_total`,
        help,
        labelNames,
        read: () => {
          const current = operator();
          return current === undefined ? [] : read(current);
        },
      });
    };
    total(
      "watch_restarts",
      "Watches that ended, by why; `closed`: their time was over.",
      ["resource", "reason"],
      function* (current) {
        for (const [resource, { counts }] of Object.entries(current.reflectors)) {
          for (const [reason, count] of Object.entries(counts.watchEnds)) yield [{ resource, reason }, count] as const;
        }
      },
    );
    total(
      "lists",
      "Complete lists of a kind, by why everything was listed.",
      ["resource", "reason"],
      function* (current) {
        for (const [resource, { counts }] of Object.entries(current.reflectors)) {
          for (const [reason, count] of Object.entries(counts.lists)) yield [{ resource, reason }, count] as const;
        }
      },
    );
    total("events", "Events of objects, by what became of them.", ["outcome"], function* ({ recorder: { counts } }) {
      for (const [outcome, count] of Object.entries(counts)) yield [{ outcome }, count] as const;
    });
    this.#requests = new Counter({
      name: "lever_operator_kube_requests_total",
      help: "Requests to the API server, by HTTP status; 0: there was no answer.",
      labelNames: ["verb", "resource", "code"],
      registers,
    });
    this.#requestTime = new Histogram({
      name: "lever_operator_kube_request_duration_seconds",
      help: "Time until the API server began to answer.",
      labelNames: ["verb"],
      buckets,
      registers,
    });
    this.#endpointLag = new Histogram({
      name: "lever_operator_endpoint_lag_seconds",
      help: "From a change of a service's table in this replica until it has been sent to an agent that is subscribed.",
      buckets,
      registers,
    });
    this.#moves = new Counter({
      name: "lever_operator_slot_moves_total",
      help: "Slots of resources that have come to a holder, at this replica while it led.",
      registers,
    });
    gauge("leader", "1 while this replica leads, else 0.", ({ election }) => (election.isLeader ? 1 : 0));
    gauge("ready", "1 when all is known that agents are told from, else 0.", ({ isReady }) => (isReady ? 1 : 0));
    gauge("agents", "Agents and gateways that are connected to this replica.", ({ server }) => server.connectionCount);
    gauge(
      "holders",
      "Holders of slots that are connected to this replica.",
      ({ leadership }) => leadership.holderCount,
    );
    gauge("replicas", "Other replicas that are known.", ({ replicaCount }) => replicaCount);
    gauge("services", "Services that agents are told of.", ({ tables }) => tables.tables().length);
    new Gauge({
      name: "lever_operator_instances",
      help: "Instances of all services, by their state.",
      labelNames: ["state"],
      registers,
      collect() {
        const current = operator();
        if (current === undefined) return;
        const counts = new Map<string, number>(states.map((state) => [state, 0]));
        for (const { instances } of current.tables.tables()) {
          for (const { state } of instances) counts.set(state, (counts.get(state) ?? 0) + 1);
        }
        for (const [state, count] of counts) this.set({ state }, count);
      },
    });
  }

  readonly onAnswer = ({ verb, kind, status, tookMs }: AnsweredRequest): void => {
    this.#requests.inc({ verb, resource: kind.plural, code: String(status) });
    this.#requestTime.observe({ verb }, tookMs / 1000);
  };

  onReconciled(controller: "service" | "table", { queuedMs, tookMs, error }: WorkDone): void {
    this.#reconcileTime.observe({ controller }, tookMs / 1000);
    this.#queueTime.observe({ controller }, queuedMs / 1000);
    if (error !== undefined) this.#reconcileErrors.inc({ controller });
  }

  onTableSent(lagMs: number): void {
    this.#endpointLag.observe(lagMs / 1000);
  }

  onMoved(slots: number): void {
    this.#moves.inc(slots);
  }
}
