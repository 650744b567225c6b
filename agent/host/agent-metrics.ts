/** What an agent or a gateway shows at `/metrics`. Names as Prometheus users expect them; never a resource as a label. */

import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from "prom-client";
import type { Agent } from "../core/agent.ts";
import type { AgentObserver } from "../core/observer.ts";

/** Services that get labels of their own; the rest are counted as `other`, so that callers cannot grow the page. */
const labelledServicesMax = 200;
const otherService = { environment: "other", service: "other" };
const buckets = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];

export class AgentMetrics implements AgentObserver {
  readonly registry = new Registry();
  readonly #calls: Counter<"environment" | "service" | "code">;
  readonly #callDuration: Histogram<"environment" | "service">;
  readonly #opened: Counter<"environment" | "service" | "code">;
  readonly #closed: Counter<"environment" | "service" | "code">;
  readonly #retries: Counter<"reason">;
  /** Only where there is an app. */
  readonly #served: Counter<"code"> | undefined;
  readonly #servedDuration: Histogram | undefined;
  /** Label children, found once per service and code: making them per call costs more than the call's routing. */
  readonly #services = new Map<string, { environment: string; service: string }>();
  readonly #callCounters = new Map<string, Counter.Internal>();
  readonly #callTimers = new Map<string, Histogram.Internal<"environment" | "service">>();
  readonly #servedCounters = new Map<string, Counter.Internal>();

  /** `prefix` is `lever_agent` or `lever_gateway`. `agent` is asked at each scrape. */
  constructor(prefix: "lever_agent" | "lever_gateway", version: string, agent: () => Agent | undefined) {
    const registers = [this.registry];
    collectDefaultMetrics({ register: this.registry });
    this.#calls = new Counter({
      name: `${prefix}_invocations_total`,
      help: "Calls that went out from here, by their end: OK, or the error's code (UNKNOWN: the method's own error).",
      labelNames: ["environment", "service", "code"],
      registers,
    });
    this.#callDuration = new Histogram({
      name: `${prefix}_invocation_duration_seconds`,
      help: "Time from a call's arrival here to its end, retries included.",
      labelNames: ["environment", "service"],
      buckets,
      registers,
    });
    this.#opened = new Counter({
      name: `${prefix}_channels_opened_total`,
      help: "Openings of channels that went out from here, by their end.",
      labelNames: ["environment", "service", "code"],
      registers,
    });
    this.#closed = new Counter({
      name: `${prefix}_channels_closed_total`,
      help: "Channels that were open from here, by their end: OK (clean), or the error's code.",
      labelNames: ["environment", "service", "code"],
      registers,
    });
    this.#retries = new Counter({
      name: `${prefix}_retries_total`,
      help: "Further attempts of calls, by the reason why the attempt before failed.",
      labelNames: ["reason"],
      registers,
    });
    const gauge = (name: string, help: string, read: (agent: Agent) => number) => {
      const made = new Gauge({
        name: `${prefix}_${name}`,
        help,
        registers,
        collect() {
          const current = agent();
          if (current !== undefined) this.set(read(current));
        },
      });
      return made;
    };
    gauge("calls_held", "Calls that wait here for a table or a connection.", (current) => current.counts.held);
    gauge("retained_bytes", "Arguments kept for a possible retry.", (current) => current.counts.retainedBytes);
    gauge("sessions", "Open sessions: with the app, with peers, with clients.", (current) => current.counts.sessions);
    gauge("services_subscribed", "Services whose tables are kept up to date here.", (current) => current.counts.views);
    // A gateway is an agent without an app.
    if (prefix === "lever_agent") {
      this.#served = new Counter({
        name: `${prefix}_served_total`,
        help: "Calls and channels that peers sent to the app here, by their end.",
        labelNames: ["code"],
        registers,
      });
      this.#servedDuration = new Histogram({
        name: `${prefix}_served_duration_seconds`,
        help: "Time that calls and channels spent at this agent and its app.",
        buckets,
        registers,
      });
      gauge("calls_running", "Calls of peers that run in the app here.", (current) => current.counts.calls);
      gauge(
        "channels_open",
        "Channels of peers that are open with the app here.",
        (current) => current.counts.channels,
      );
      gauge("ready", "1 while an app is registered and takes calls.", (current) => (current.isReady ? 1 : 0));
    }
    new Gauge({
      name: "lever_build_info",
      help: "Always 1; the labels say which build this is.",
      labelNames: ["component", "version"],
      registers,
    }).set({ component: prefix === "lever_agent" ? "agent" : "gateway", version }, 1);
  }

  #labels(environment: string, service: string, code: string): { environment: string; service: string } {
    const key = `${environment}/${service}`;
    let labels = this.#services.get(key);
    if (labels === undefined) {
      // What does not exist must not take the labels of what does.
      if (code === "NOT_FOUND" || this.#services.size >= labelledServicesMax) return otherService;
      labels = { environment, service };
      this.#services.set(key, labels);
    }
    return labels;
  }

  callEnded(environment: string, service: string, code: string, durationMs: number): void {
    const { environment: env, service: name } = this.#labels(environment, service, code);
    const key = `${env}/${name}`;
    const counterKey = `${key} ${code}`;
    let counter = this.#callCounters.get(counterKey);
    if (counter === undefined) {
      counter = this.#calls.labels({ environment: env, service: name, code });
      this.#callCounters.set(counterKey, counter);
    }
    counter.inc();
    let timer = this.#callTimers.get(key);
    if (timer === undefined) {
      timer = this.#callDuration.labels({ environment: env, service: name });
      this.#callTimers.set(key, timer);
    }
    timer.observe(durationMs / 1000);
  }

  channelOpened(environment: string, service: string, code: string, _durationMs: number): void {
    this.#opened.inc({ ...this.#labels(environment, service, code), code });
  }

  channelClosed(environment: string, service: string, code: string): void {
    this.#closed.inc({ ...this.#labels(environment, service, code), code });
  }

  retried(reason: string): void {
    this.#retries.inc({ reason });
  }

  served(code: string, durationMs: number): void {
    let counter = this.#servedCounters.get(code);
    if (counter === undefined) {
      if (this.#served === undefined) return;
      counter = this.#served.labels({ code });
      this.#servedCounters.set(code, counter);
    }
    counter.inc();
    this.#servedDuration?.observe(durationMs / 1000);
  }
}
