/** The hooks of a resource's class beside its constructor, and how one is run. */

import type { Clock } from "@leveros/protocol/clock/clock.ts";
import { hookTimeoutMs } from "@leveros/protocol/control/lease.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { HookContext, runInContext } from "../context.ts";

/**
 * `[open](state, memory)`: awaited after the constructor and before the first method, with its last two arguments; for
 * what takes time, such as to claim the epoch in a store and to read from there. At most 5 s.
 */
export const open: unique symbol = Symbol.for("leveros.dev/open");

/**
 * `[handOver]()`: gives what the resource's next object is constructed with, when the resource moves as planned: a JSON
 * value, or a `Uint8Array`, of at most 1 MiB; it may be asynchronous, for 5 s. No method runs any more. Then
 * `[Symbol.asyncDispose]` or `[Symbol.dispose]` follows, which is called without it too: when the resource was idle, when
 * the process stops, and when the resource was lost.
 */
export const handOver: unique symbol = Symbol.for("leveros.dev/handOver");

type HookFunction = (...args: unknown[]) => unknown;

/** The object's function under the first of these keys that it has. */
export function hookOf(instance: object, ...keys: readonly symbol[]): HookFunction | undefined {
  for (const key of keys) {
    const hook = (instance as Record<symbol, unknown>)[key];
    if (typeof hook === "function") return (...args) => (hook as HookFunction).apply(instance, args);
  }
  return undefined;
}

/** What a hook came to: at once, or later. */
export type HookRun = { readonly result: unknown } | LateHookRun;

interface LateHookRun {
  /** Rejects with HOOK_FAILED after 5 s. */
  readonly inTime: Promise<unknown>;
  /** Resolves when the hook is really over, however it ended. */
  readonly settled: Promise<void>;
  /** At the rejection of `inTime`: the hook goes on. */
  isLate(): boolean;
}

/** Runs a hook. Throws what it throws at once. */
export function runHook(clock: Clock, context: HookContext, run: () => unknown): HookRun {
  let result: unknown;
  try {
    result = runInContext(context, run);
  } catch (error) {
    HookContext.end(context);
    throw error;
  }
  if (typeof result !== "object" || result === null || typeof (result as { then?: unknown }).then !== "function") {
    HookContext.end(context);
    return { result };
  }
  const running = Promise.resolve(result);
  let isLate = false;
  const inTime = new Promise<unknown>((resolve, reject) => {
    const timer = clock.setTimer(() => {
      const late = new LeverError("HOOK_FAILED", `${context.method} took longer than ${hookTimeoutMs} ms`);
      isLate = true;
      HookContext.end(context, late);
      reject(late);
    }, hookTimeoutMs);
    running.then(
      (value) => {
        clock.clearTimer(timer);
        HookContext.end(context);
        resolve(value);
      },
      (error: unknown) => {
        clock.clearTimer(timer);
        HookContext.end(context);
        reject(error);
      },
    );
  });
  const settled = running.then(
    () => {},
    () => {},
  );
  return { inTime, settled, isLate: () => isLate };
}
