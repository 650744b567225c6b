/** Calls one after the other from several callers, for as long as something else happens: none may fail. */

import type { Client } from "leveros";

const callers = 4;

export interface SteadyCalls {
  readonly calls: number;
  /** Of all that failed, their texts. */
  readonly failures: readonly string[];
  /** What came back, each once. */
  readonly results: ReadonlySet<unknown>;
}

export async function steadyCalls(
  client: Client,
  url: string,
  args: readonly unknown[],
  during: () => Promise<unknown>,
): Promise<SteadyCalls> {
  let isOver = false;
  let calls = 0;
  const failures: string[] = [];
  const results = new Set<unknown>();
  const caller = async () => {
    while (!isOver) {
      calls++;
      await client.invoke(url, args).then(
        (result) => results.add(result),
        (error: unknown) => failures.push(String(error)),
      );
    }
  };
  const running = Array.from({ length: callers }, caller);
  try {
    await during();
  } finally {
    isOver = true;
    await Promise.all(running);
  }
  return { calls, failures, results };
}
