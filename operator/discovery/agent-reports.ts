/**
 * What the agents that are connected to this replica of the operator say of their instances: what the other replicas
 * cannot know by themselves.
 *
 * Invariant: of each instance the newest connection's latest word, and nothing of one that is over.
 */

import type { Registration } from "@leveros/protocol/control/registration.ts";
import type { AgentReport } from "../core/service-registry.ts";

/** `nothing`: it has connected, and not said anything yet. */
export type AgentWord =
  | { readonly says: "nothing" | "unregister" | "draining" }
  | { readonly says: "register"; readonly registration: Registration };

export interface HeardAgent {
  readonly report: AgentReport;
  readonly word: AgentWord;
}

/** One connection of an agent. */
export interface ReportLine {
  say(word: AgentWord): void;
  end(): void;
}

export class AgentReports {
  readonly #heard = new Map<string, HeardAgent & { line: ReportLine }>();
  readonly #listeners = new Set<(key: string) => void>();

  /** An agent has connected: what was said on an earlier connection of its instance does not count any more. */
  open(report: AgentReport): ReportLine {
    const { environment, service, instance } = report;
    const key = `${environment}/${service}/${instance}`;
    const line: ReportLine = {
      say: (word) => {
        if (this.#heard.get(key)?.line !== line) return;
        this.#heard.set(key, { report, word, line });
        this.#tell(key);
      },
      end: () => {
        if (this.#heard.get(key)?.line !== line) return;
        this.#heard.delete(key);
        this.#tell(key);
      },
    };
    this.#heard.set(key, { report, word: { says: "nothing" }, line });
    this.#tell(key);
    return line;
  }

  /** `environment/service/instance` of each. */
  keys(): IterableIterator<string> {
    return this.#heard.keys();
  }

  get(key: string): HeardAgent | undefined {
    return this.#heard.get(key);
  }

  /** Calls `listener` with the key of what has changed; returns how to stop that. Listeners do not throw. */
  watch(listener: (key: string) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  #tell(key: string): void {
    for (const listener of this.#listeners) listener(key);
  }
}
