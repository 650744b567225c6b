/** A process that serves, or only calls: started by tests. The argument is its `ServeOptions` as JSON, or `client`. */

import { setTimeout as sleep } from "node:timers/promises";
import { Client, context, serve } from "./index.ts";

interface Other {
  echo(value: string): string;
}

const client = new Client();
const other = client.service<Other>("other");

let running = 0;

const methods = {
  pid() {
    return process.pid;
  },
  running() {
    return running;
  },
  throws() {
    throw new RangeError("the text");
  },
  async slow(ms: number) {
    running++;
    await sleep(ms);
    return "done";
  },
  /** Calls another service when it is about to end. */
  async nests(ms: number) {
    running++;
    await sleep(ms);
    return await other.echo(`nested, draining: ${context().draining.aborted}`);
  },
};

const [, , argument = "{}"] = process.argv;
if (argument === "client") {
  await using own = new Client();
  const [called] = await Promise.allSettled([own.service<Other>("other").echo("called")]);
  process.stdout.write(`${called?.status === "fulfilled" ? called.value : called?.reason.reason}\n`);
  // The module's own client was never used, and has nothing that keeps the process alive.
} else {
  await serve(methods, JSON.parse(argument));
  process.stdout.write("serving\n");
}
