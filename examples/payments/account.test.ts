import { mintToken } from "leveros";
import { TestEnvironment } from "leveros/testing";
import { expect, test } from "vitest";
import { Account } from "./account.ts";
import { Ledger } from "./ledger.ts";

function start() {
  const ledger = new Ledger(":memory:");
  class LedgerAccount extends Account {
    constructor(name: string) {
      super(name, ledger);
    }
  }
  return TestEnvironment.start({ payments: { resource: LedgerAccount, instances: 3 } });
}

function accountOf(env: TestEnvironment) {
  return env.client.resource<Account>("payments", "account-7");
}

test("a token pays once, however often it comes", async () => {
  await using env = await start();
  const account = accountOf(env);
  const order = account.with({ token: "order-1" });
  const receipts = await Promise.all(Array.from({ length: 10 }, () => order.charge(1250)));
  expect(new Set(receipts.map(({ payment }) => payment))).toEqual(new Set([1]));
  expect((await account.with({ token: "order-2" }).charge(50)).payment).toBe(2);
  expect(await account.total()).toBe(1300);
});

test("also through a planned move; after a crash the ledger knows what memory does not", async () => {
  await using env = await start();
  const account = accountOf(env);
  const order = account.with({ token: mintToken() });
  const receipt = await order.charge(1250);
  await env.stop(await env.holderOf("payments", "account-7"));
  expect(await order.charge(1250)).toEqual(receipt);
  const lost = account.with({ token: "order-2" });
  await lost.charge(50);
  await env.kill(await env.holderOf("payments", "account-7"));
  await expect(order.charge(1250)).rejects.toMatchObject({ reason: "TOKEN_MEMORY_LOST", effect: "unknown" });
  expect(await account.receipt("order-2")).toEqual({ payment: 2, cents: 50 });
  expect(await account.receipt("order-3")).toBeNull();
  expect(await account.total()).toBe(1300);
});

test("a payment needs a token, and an amount", async () => {
  await using env = await start();
  const account = accountOf(env);
  await expect(account.charge(1250)).rejects.toMatchObject({ value: { error: "NO_TOKEN" } });
  const order = account.with({ token: "order-1" });
  await expect(order.charge(-1)).rejects.toMatchObject({ value: { error: "NO_AMOUNT", found: -1 } });
  expect(await account.total()).toBe(0);
});
