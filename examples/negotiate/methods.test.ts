import { TestEnvironment } from "leveros/testing";
import { expect, test } from "vitest";
import { type Negotiate, negotiate } from "./methods.ts";

async function haggle(env: TestEnvironment) {
  return await env.client.service<Negotiate>("negotiate").haggleChan("a carpet", 100);
}

test("offers go back and forth until they meet", async () => {
  await using env = await TestEnvironment.start({ negotiate: { methods: negotiate } });
  await using channel = await haggle(env);
  expect(await channel.receive()).toEqual({ price: 100 });
  await channel.send({ price: 60 });
  expect(await channel.receive()).toEqual({ price: 80 });
  await channel.send({ price: 80 });
  expect(await channel.receive()).toEqual({ price: 80 });
  expect(await channel.receive()).toBeUndefined();
});

test("the buyer half-closes first: its last offer is taken, or is too little", async () => {
  await using env = await TestEnvironment.start({ negotiate: { methods: negotiate } });
  for (const [price, answer] of [
    [76, { price: 76 }],
    [60, undefined],
  ] as const) {
    await using channel = await haggle(env);
    await channel.send({ price });
    channel.closeWrite();
    await channel.receive();
    await channel.receive();
    const last = channel.receive();
    if (answer !== undefined) expect(await last).toEqual(answer);
    else await expect(last).rejects.toMatchObject({ value: { error: "TOO_LITTLE", lowest: 75 } });
  }
});

test("the seller half-closes first, and still reads the answer", async () => {
  await using env = await TestEnvironment.start({ negotiate: { methods: negotiate } });
  await using channel = await haggle(env);
  await channel.send({ price: 50 });
  const prices: number[] = [];
  for await (const { price } of channel) prices.push(price);
  expect(prices).toEqual([100, 75]);
  expect(channel.isEnded).toBe(false);
  await channel.send({ price: 75 });
});

test("an offer that insults ends both directions with the seller's error", async () => {
  await using env = await TestEnvironment.start({ negotiate: { methods: negotiate } });
  await using channel = await haggle(env);
  await channel.send({ price: 1 });
  await channel.receive();
  await expect(channel.receive()).rejects.toMatchObject({ value: { error: "INSULTED", item: "a carpet", offered: 1 } });
});
