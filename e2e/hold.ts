/**
 * Holds two channels from outside, through the gateway's native port, for many minutes: one that talks and one that is
 * silent until the end.
 *
 *     npm run hold                       10 minutes
 *     npm run hold -- --minutes 60
 */

import { setTimeout as sleep } from "node:timers/promises";
import { parseArgs } from "node:util";
import { LeverError } from "leveros";
import { LeverDev } from "./harness/lever-dev.ts";
import { residentBytes } from "./harness/process-list.ts";

const { values } = parseArgs({ options: { minutes: { type: "string", default: "10" } } });
const minutes = Number(values.minutes);
if (!(minutes > 0 && minutes <= 1440)) {
  console.error(`--minutes is ${JSON.stringify(values.minutes)}, expected a number above 0 and at most 1440`);
  process.exit(2);
}
const pauseMs = 1000;

await using dev = await LeverDev.start({ manifests: ["e2e/fixtures/probe/probe.yaml"], agents: "process" });
await using client = dev.client();
const talking = await client.openChannel("/probe/echoChan", [], { metadata: { id: "talking" } });
const silent = await client.openChannel("/probe/echoChan", [], { metadata: { id: "silent" } });
await Promise.all([talking.receive(), silent.receive()]);

const startedAt = performance.now();
const mebibytes = () => Math.round(residentBytes(dev.pid) / 1024 / 1024);
const before = mebibytes();
let messages = 0;
let latencyMsMax = 0;
try {
  while (performance.now() - startedAt < minutes * 60_000) {
    const sentAt = performance.now();
    await talking.send(messages);
    const answer = await talking.receive();
    if (answer !== messages) throw new Error(`message ${messages} was answered with ${JSON.stringify(answer)}`);
    latencyMsMax = Math.max(latencyMsMax, performance.now() - sentAt);
    messages++;
    await sleep(pauseMs);
  }
  for (const channel of [talking, silent]) {
    await channel.send("last");
    if ((await channel.receive()) !== "last") throw new Error("the last message was not answered");
    channel.closeWrite();
    if ((await channel.receive()) !== undefined) throw new Error("the channel did not end cleanly");
  }
  console.log(
    `held for ${((performance.now() - startedAt) / 60_000).toFixed(1)} min: ${messages} messages on one channel ` +
      `(slowest ${latencyMsMax.toFixed(1)} ms), silence and then one on the other; both ended cleanly. ` +
      `lever dev: ${before} MiB before, ${mebibytes()} MiB after`,
  );
} catch (error) {
  const after = ((performance.now() - startedAt) / 60_000).toFixed(1);
  console.error(`after ${after} min and ${messages} messages: ${LeverError.from(error).message}`);
  process.exitCode = 1;
}
