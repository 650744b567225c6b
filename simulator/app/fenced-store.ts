/**
 * A database outside of Lever, with a fence: who claims a resource with an epoch shuts out all lower ones. Requests and
 * answers take their time, and a request that its sender has given up may still land.
 */

import type { AppName, Observer } from "../check/history.ts";
import type { SimProcess } from "../world/sim-process.ts";
import type { World } from "../world/world.ts";

export class FencedStore {
  readonly #world: World;
  readonly #observer: Observer;
  readonly #epochs = new Map<string, number>();

  constructor(world: World, observer: Observer) {
    this.#world = world;
    this.#observer = observer;
  }

  /** Resolves with whether the store has taken it. */
  claim(process: SimProcess, app: AppName, resource: string, epoch: number): Promise<boolean> {
    return this.#request(process, () => {
      const known = this.#epochs.get(resource) ?? 0;
      if (epoch < known) {
        this.#observer.claimRefused(resource, app, epoch, known, this.#world.now());
        return false;
      }
      this.#epochs.set(resource, epoch);
      return true;
    });
  }

  /** Resolves with whether the store has taken it. */
  write(process: SimProcess, resource: string, epoch: number): Promise<boolean> {
    return this.#request(process, () => epoch >= (this.#epochs.get(resource) ?? 0));
  }

  #request(process: SimProcess, apply: () => boolean): Promise<boolean> {
    const { random } = this.#world;
    const thereMs = random.chance(0.02) ? random.between(10, 3000) : random.between(0.5, 3);
    return new Promise((resolve) => {
      this.#world.after(thereMs, () => {
        const isTaken = apply();
        process.post(random.between(0.5, 3), () => resolve(isTaken));
      });
    });
  }
}
