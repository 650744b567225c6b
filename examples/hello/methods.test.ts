import { MethodError } from "leveros";
import { TestEnvironment } from "leveros/testing";
import { expect, test } from "vitest";
import { type Hello, hello } from "./methods.ts";

test("methods are functions", () => {
  expect(hello.sayHello("Ada")).toBe("Hello, Ada!");
  expect(() => hello.divide(1, 0)).toThrow(MethodError);
});

test("values, bytes and errors arrive as they are", async () => {
  await using env = await TestEnvironment.start({ hello: { methods: hello, instances: 2 } });
  const remote = env.client.service<Hello>("hello");
  expect(await remote.sayHello("Ada")).toBe("Hello, Ada!");
  expect(await remote.reverse("stressed")).toBe("desserts");
  expect(await remote.reverse(Uint8Array.of(1, 2, 3))).toEqual(Uint8Array.of(3, 2, 1));
  expect(await remote.checksum(new TextEncoder().encode("abc"))).toBe(
    "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
  );
  await expect(remote.divide(1, 0)).rejects.toMatchObject({ value: { error: "DIVISION_BY_ZERO", dividend: 1 } });
});

test("what is no bytes is refused", async () => {
  await using env = await TestEnvironment.start({ hello: { methods: hello } });
  await expect(env.client.invoke("/hello/checksum", ["abc"])).rejects.toMatchObject({
    value: { error: "BYTES_WANTED", got: "string" },
  });
  await expect(env.client.invoke("/hello/reverse", [7])).rejects.toMatchObject({
    value: { error: "TEXT_OR_BYTES_WANTED", got: "number" },
  });
});
