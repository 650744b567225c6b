/** Notes everything that an observer hears in a world's trace. */

import type { World } from "../world/world.ts";
import type { Observer } from "./history.ts";

export function traced(world: World, observer: Observer): Observer {
  return new Proxy(observer, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name);
      if (typeof value !== "function") return value;
      return (...args: unknown[]) => {
        world.note(`${String(name)} ${args.map(textOf).join(" ")}`);
        return value.apply(target, args);
      };
    },
  });
}

function textOf(argument: unknown): string {
  if (typeof argument !== "object" || argument === null) return String(argument);
  return Object.entries(argument)
    .filter(([key, value]) => key !== "atMs" && value !== undefined)
    .map(([key, value]) => `${key}=${typeof value === "object" ? textOf(value) : value}`)
    .join(" ");
}
