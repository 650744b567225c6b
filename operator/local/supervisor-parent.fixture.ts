/**
 * A process that supervises, to be killed by tests. Its arguments: how many instances, and their grace period. Their
 * command is a variable, so that the list of processes shows it for them only. It prints `ready` before it starts them
 * and `up` when all run. SIGTERM stops all, a second one kills.
 */

import { runtimeClock } from "@leveros/protocol/clock/runtime-clock.ts";
import { ProcessSupervisor } from "./process-supervisor.ts";

const [, , count, gracePeriodMs] = process.argv;
const command = process.env["SUPERVISED_COMMAND"] ?? "";
const supervisor = new ProcessSupervisor({ clock: runtimeClock(globalThis) });
process.stdout.write("ready\n");
let started = 0;
for (let index = 1; index <= Number(count); index++) {
  supervisor.start(
    {
      id: `hello-${index}-test`,
      service: "hello",
      environment: "dev",
      command,
      directory: import.meta.dirname,
      env: {},
      gracePeriodMs: Number(gracePeriodMs),
    },
    {
      onStart: () => {
        if (++started === Number(count)) process.stdout.write("up\n");
      },
    },
  );
}

let signals = 0;
process.on("SIGTERM", () => {
  void (++signals === 1 ? supervisor.stopAll() : supervisor.killAll());
});
