/** 300 channels from one client outside, all open at once through the gateway's native port, all of them talking. */

import { type Channel, type Client, LeverError } from "leveros";
import { expect, test } from "vitest";
import { LeverDev } from "../harness/lever-dev.ts";
import { tally } from "../harness/load.ts";

const channels = 300;
const rounds = 20;
const manifests = ["e2e/fixtures/probe/probe.yaml"];

interface Talked {
  readonly open: number;
  /** Messages that came back right, of channels × rounds. */
  readonly answered: number;
  readonly errors: Record<string, number>;
  readonly ms: number;
}

async function talk(client: Client): Promise<Talked> {
  const startedAt = performance.now();
  const errors: string[] = [];
  const failed = (error: unknown) => void errors.push(LeverError.from(error).reason);
  const open = (
    await Promise.all(
      Array.from({ length: channels }, (_, i) =>
        client.openChannel<unknown, unknown>("/probe/echoChan", [i]).catch(failed),
      ),
    )
  ).filter((channel): channel is Channel => channel !== undefined);
  // All are open before the first one talks.
  for (const channel of open) await channel.receive();
  let answered = 0;
  await Promise.all(
    open.map(async (channel, i) => {
      for (let round = 0; round < rounds; round++) {
        const message = { i, round, padding: "x".repeat((i * 37) % 2000) };
        await channel.send(message);
        const answer = (await channel.receive()) as typeof message;
        if (answer.i === i && answer.round === round && answer.padding === message.padding) answered++;
      }
      channel.closeWrite();
      if ((await channel.receive()) !== undefined) throw new Error("something came after the last answer");
    }),
  ).catch(failed);
  return { open: open.length, answered, errors: tally(errors), ms: Math.round(performance.now() - startedAt) };
}

test("300 channels at once, each with its own messages in order", async () => {
  await using dev = await LeverDev.start({ manifests, agents: "process" });
  await using client = dev.client();
  const found = await talk(client);
  console.log(`${channels} channels: ${JSON.stringify(found)}`);
  expect(found).toMatchObject({ open: channels, answered: channels * rounds, errors: {} });
  // Ended ones are counted no more.
  const again = await talk(client);
  expect(again).toMatchObject({ open: channels, answered: channels * rounds, errors: {} });
  const agent = dev.agents().find(({ service }) => service === "probe");
  if (agent === undefined) throw new Error("probe has no agent");
  expect(await dev.agentMetric(agent, "lever_agent_channels_open")).toBe(0);
});

test("the control: above the limit of a client they are refused, and say so", async () => {
  await using dev = await LeverDev.start({
    manifests,
    agents: "process",
    patches: [{ file: "agent/core/agent.ts", find: "streamsMax: 1000", replace: "streamsMax: 100" }],
  });
  await using client = dev.client();
  const found = await talk(client);
  console.log(`${channels} channels, the control with a limit of 100: ${JSON.stringify(found)}`);
  expect(found).toMatchObject({ open: 100, errors: { OVERLOADED: channels - 100 } });
});
