/**
 * What keeps the slot tables in the world: an API server with versions. It takes its time, refuses writes to a version
 * that is not the newest, and, when it is unwell, leaves requests without an answer whose writes land at once, later, or
 * never.
 */

import {
  type SlotStore,
  SlotStoreConflict,
  type SlotTableContent,
  type StoredSlotTable,
} from "@leveros/operator/core/ownership/slot-store.ts";
import type { SimProcess } from "../world/sim-process.ts";
import type { World } from "../world/world.ts";

const requestTimeoutMs = 2000;

export class ApiServer {
  readonly #world: World;
  readonly #tables = new Map<string, StoredSlotTable>();
  #writes = 0;
  /** How often a request is not answered, 0 to 1. */
  unansweredRate = 0;
  /** Of writes, the same beside it. */
  unansweredWriteRate = 0;
  extraLatencyMs = 0;
  counts = { writes: 0, conflicts: 0, unanswered: 0, late: 0 };

  constructor(world: World) {
    this.#world = world;
  }

  /** The table as it is stored. */
  table(environment: string, service: string): StoredSlotTable | undefined {
    return this.#tables.get(`${environment}/${service}`);
  }

  /** Somebody has deleted it. */
  lose(environment: string, service: string): void {
    this.#tables.delete(`${environment}/${service}`);
  }

  /** As a process sees it. */
  storeFor(process: SimProcess): SlotStore {
    return {
      read: (environment, service) =>
        this.#request(process, () => {
          const table = this.#tables.get(`${environment}/${service}`);
          return table && structuredClone(table);
        }),
      write: (table, ifVersion) => {
        // As it was when it was sent.
        const content = structuredClone(table);
        return this.#request(process, () => this.#write(content, ifVersion), this.unansweredWriteRate);
      },
      delete: (environment, service, ifVersion) =>
        this.#request(process, () => {
          this.#expect(environment, service, ifVersion);
          this.lose(environment, service);
        }),
    };
  }

  #write(content: SlotTableContent, ifVersion: string | undefined): string {
    const { environment, service } = content;
    this.#expect(environment, service, ifVersion);
    this.counts.writes++;
    const version = `${++this.#writes}`;
    this.#tables.set(`${environment}/${service}`, { ...content, version });
    return version;
  }

  #expect(environment: string, service: string, ifVersion: string | undefined): void {
    const found = this.#tables.get(`${environment}/${service}`)?.version;
    if (found !== ifVersion) {
      this.counts.conflicts++;
      throw new SlotStoreConflict(environment, service, ifVersion, found);
    }
  }

  #request<Result>(process: SimProcess, apply: () => Result, unansweredRate = 0): Promise<Result> {
    const world = this.#world;
    const { random } = world;
    const thereMs = random.between(1, 6) + this.extraLatencyMs;
    const backMs = random.between(1, 6);
    const isAnswered = !random.chance(Math.max(this.unansweredRate, unansweredRate));
    return new Promise((resolve, reject) => {
      const settle = (result: () => Result) => {
        try {
          resolve(result());
        } catch (error) {
          reject(error);
        }
      };
      if (isAnswered) {
        world.after(thereMs, () => {
          let answer: () => Result;
          try {
            const result = apply();
            answer = () => result;
          } catch (error) {
            answer = () => {
              throw error;
            };
          }
          process.post(backMs, () => settle(answer));
        });
        return;
      }
      this.counts.unanswered++;
      const landsAfterMs = random.weighted([
        [2, thereMs],
        [2, random.between(requestTimeoutMs, 8000)],
        [1, undefined],
      ]);
      if (landsAfterMs !== undefined) {
        world.after(landsAfterMs, () => {
          if (landsAfterMs > requestTimeoutMs) this.counts.late++;
          try {
            apply();
          } catch {
            // Nobody hears of it.
          }
        });
      }
      process.post(requestTimeoutMs, () => reject(new Error("the API server did not answer in time")));
    });
  }
}
