/** What an agent or a gateway shows at `/metrics`. Names as Prometheus users expect them; never a resource as a label. */

import { Counter, Gauge, Registry } from "prom-client";
import type { Agent } from "../core/agent.ts";
import type { AgentObserver } from "../core/observer.ts";
import { DurationHistogram, type DurationSeries } from "./duration-histogram.ts";
import { collectProcessMetrics } from "./process-metrics.ts";

/** Services that get labels of their own; the rest are counted as `other`, so that callers cannot grow the page. */
const labelledServicesMax = 200;
const buckets = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30];

export class AgentMetrics implements AgentObserver {
  readonly registry = new Registry();
  readonly #callDurations: DurationHistogram;
  readonly #opened: Counter<"environment" | "service" | "code">;
  readonly #closed: Counter<"environment" | "service" | "code">;
  readonly #retries: Counter<"reason">;
  readonly #moved: Counter;
  readonly #fenced: Counter;
  /** Only where there is an app. */
  readonly #servedDurations: DurationSeries | undefined;
  /** By environment, then service: found for each call without making a key. */
  readonly #services = new Map<string, Map<string, ServiceCounts>>();
  #serviceCount = 0;
  readonly #other: ServiceCounts;
  /** Counted in plain numbers, and told to prom-client at each scrape. */
  readonly #served = new Map<string, Tally>();

  /** `prefix` is `lever_agent` or `lever_gateway`. `agent` is asked at each scrape. */
  constructor(prefix: "lever_agent" | "lever_gateway", version: string, agent: () => Agent | undefined) {
    const registers = [this.registry];
    collectProcessMetrics(this.registry, prefix === "lever_agent" ? "agent" : "gateway", version);
    const serviceCounts = () => this.#allServices();
    new Counter({
      name: `${prefix}_invocations_total`,
      help: "Calls that went out from here, by their end: OK, or the error's code (UNKNOWN: the method's own error).",
      labelNames: ["environment", "service", "code"],
      registers,
      collect() {
        for (const { environment, service, calls } of serviceCounts()) {
          for (const [code, tally] of calls) this.inc({ environment, service, code }, take(tally));
        }
      },
    });
    this.#callDurations = new DurationHistogram({
      name: `${prefix}_invocation_duration_seconds`,
      help: "Time from a call's arrival here to its end, retries included.",
      buckets,
      registry: this.registry,
    });
    this.#other = this.#newCounts("other", "other");
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
    this.#moved = new Counter({
      name: `${prefix}_moved_total`,
      help: "Calls for resources that were refused by an instance which does not hold them (any more), and sent again.",
      registers,
    });
    this.#fenced = new Counter({
      name: `${prefix}_fenced_total`,
      help: "Calls and channels ended because their instance may have lost the resource; its replies are dropped.",
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
    gauge(
      "calls_held",
      "Calls that wait here for a table, a connection or a resource.",
      (current) => current.counts.held,
    );
    gauge(
      "resource_calls_held",
      "Of these, the calls that wait for the holder of a resource.",
      (current) => current.counts.heldForResources,
    );
    gauge("retained_bytes", "Arguments kept for a possible retry.", (current) => current.counts.retainedBytes);
    gauge("sessions", "Open sessions: with the app, with peers, with clients.", (current) => current.counts.sessions);
    gauge("services_subscribed", "Services whose tables are kept up to date here.", (current) => current.counts.views);
    // A gateway is an agent without an app.
    if (prefix === "lever_agent") {
      const served = this.#served;
      new Counter({
        name: `${prefix}_served_total`,
        help: "Calls and channels that peers sent to the app here, by their end.",
        labelNames: ["code"],
        registers,
        collect() {
          for (const [code, tally] of served) this.inc({ code }, take(tally));
        },
      });
      this.#servedDurations = new DurationHistogram({
        name: `${prefix}_served_duration_seconds`,
        help: "Time that calls and channels spent at this agent and its app.",
        buckets,
        registry: this.registry,
      }).series({});
      gauge("calls_running", "Calls of peers that run in the app here.", (current) => current.counts.calls);
      gauge(
        "channels_open",
        "Channels of peers that are open with the app here.",
        (current) => current.counts.channels,
      );
      gauge(
        "slots_held",
        "Slots of the service's resources that the app here holds.",
        ({ ownership }) => ownership.held,
      );
      const total = (name: string, help: string, read: (agent: Agent) => number) => {
        let told = 0;
        new Counter({
          name: `${prefix}_${name}_total`,
          help,
          registers,
          collect() {
            const current = agent();
            if (current === undefined) return;
            const counted = read(current);
            this.inc(counted - told);
            told = counted;
          },
        });
      };
      total(
        "misrouted",
        "Calls for resources that were refused because their slot is not held here, or under another epoch.",
        ({ ownership }) => ownership.misrouted,
      );
      total("slots_moved", "Slots that were given up in good order.", ({ ownership }) => ownership.moved);
      total("lease_lapses", "Leases that ended without being renewed.", ({ ownership }) => ownership.lapses);
      gauge("ready", "1 while an app is registered and takes calls.", (current) => (current.isReady ? 1 : 0));
    }
  }

  #counts(environment: string, service: string, code: string): ServiceCounts {
    const known = this.#services.get(environment)?.get(service);
    if (known !== undefined) return known;
    // What does not exist must not take the labels of what does.
    if (code === "NOT_FOUND" || this.#serviceCount >= labelledServicesMax) return this.#other;
    const counts = this.#newCounts(environment, service);
    let services = this.#services.get(environment);
    if (services === undefined) {
      services = new Map();
      this.#services.set(environment, services);
    }
    services.set(service, counts);
    this.#serviceCount++;
    return counts;
  }

  #newCounts(environment: string, service: string): ServiceCounts {
    // Without a call the histogram has no series of it: `other` appears when something is counted there.
    let durations: DurationSeries | undefined;
    const histogram = this.#callDurations;
    return {
      environment,
      service,
      calls: new Map(),
      get durations() {
        durations ??= histogram.series({ environment, service });
        return durations;
      },
    };
  }

  *#allServices(): Generator<ServiceCounts> {
    for (const services of this.#services.values()) yield* services.values();
    yield this.#other;
  }

  callEnded(environment: string, service: string, code: string, durationMs: number): void {
    const counts = this.#counts(environment, service, code);
    add(counts.calls, code);
    counts.durations.observe(durationMs);
  }

  channelOpened(environment: string, service: string, code: string, _durationMs: number): void {
    const counts = this.#counts(environment, service, code);
    this.#opened.inc({ environment: counts.environment, service: counts.service, code });
  }

  channelClosed(environment: string, service: string, code: string): void {
    const counts = this.#counts(environment, service, code);
    this.#closed.inc({ environment: counts.environment, service: counts.service, code });
  }

  retried(reason: string): void {
    this.#retries.inc({ reason });
  }

  moved(): void {
    this.#moved.inc();
  }

  fenced(): void {
    this.#fenced.inc();
  }

  served(code: string, durationMs: number): void {
    if (this.#servedDurations === undefined) return;
    add(this.#served, code);
    this.#servedDurations.observe(durationMs);
  }
}

/** What was counted since the last scrape. */
interface Tally {
  count: number;
}

interface ServiceCounts {
  readonly environment: string;
  readonly service: string;
  /** By the code of their end. */
  readonly calls: Map<string, Tally>;
  readonly durations: DurationSeries;
}

function add(tallies: Map<string, Tally>, code: string): void {
  const tally = tallies.get(code);
  if (tally === undefined) tallies.set(code, { count: 1 });
  else tally.count++;
}

function take(tally: Tally): number {
  const { count } = tally;
  tally.count = 0;
  return count;
}
