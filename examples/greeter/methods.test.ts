import { TestEnvironment } from "leveros/testing";
import { expect, test } from "vitest";
import { hello } from "../hello/methods.ts";
import { type Greeter, greeter } from "./methods.ts";

test("each is greeted, by the other service", async () => {
  await using env = await TestEnvironment.start({ hello: { methods: hello }, greeter: { methods: greeter } });
  const remote = env.client.service<Greeter>("greeter");
  expect(await remote.greetAll(["Ada", "Grace"])).toEqual(["Hello, Ada!", "Hello, Grace!"]);
});

test("without the other service the call fails, and says why", async () => {
  await using env = await TestEnvironment.start({ greeter: { methods: greeter } }, { onError: () => {} });
  const remote = env.client.service<Greeter>("greeter");
  await expect(remote.greetAll(["Ada"])).rejects.toThrow(/SERVICE_NOT_FOUND/);
});
