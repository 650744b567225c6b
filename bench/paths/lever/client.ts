/** The client of `lever`, driven by the load generator; it runs as an instance of its own, beside its agent. */

import { Client } from "leveros";
import type { Connection } from "../../load/generator.ts";

export const form = "value";

const url = "lever://bench/echo/echo";

export async function connect(): Promise<Connection> {
  const client = new Client();
  // The first call fetches the table, and waits for the server should it not serve yet.
  for (let tries = 0; ; tries++) {
    try {
      await client.invoke(url, [null]);
      break;
    } catch (error) {
      if (tries === 100) throw error;
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }
  return { call: (value) => client.invoke(url, [value]), close: () => client.close() };
}
