import type { Channel } from "@leveros/protocol/channel/channel.ts";
import { describe, expect, it } from "vitest";
import { z } from "zod";
import {
  checkArguments,
  type StandardResult,
  type StandardSchema,
  validated,
  validatedChannel,
  validatedMethod,
} from "./validated.ts";

/** A schema by hand: the specification's interface and nothing else. */
function schema<Output>(validate: (value: unknown) => StandardResult<Output> | Promise<StandardResult<Output>>) {
  return { "~standard": { version: 1, vendor: "test", validate } } as StandardSchema<unknown, Output>;
}

const text = schema((value) =>
  typeof value === "string" ? { value } : { issues: [{ message: `expected text, got ${typeof value}` }] },
);
const later = schema(async (value) => {
  await null;
  return typeof value === "number" ? { value: value * 2 } : { issues: [{ message: "expected a number" }] };
});
const whole = z.object({ user: z.object({ name: z.string(), "e-mail": z.email() }), tags: z.array(z.string()) });

function refusal(run: () => unknown): unknown {
  try {
    run();
  } catch (error) {
    return error;
  }
  return undefined;
}

describe("checkArguments", () => {
  it("gives outputs, at once where all validators do", () => {
    expect(checkArguments([text, z.coerce.number()], ["a", "5"], "method")).toEqual(["a", 5]);
    expect(checkArguments([], [], "method")).toEqual([]);
  });

  it("gives a promise where one validator does", async () => {
    const values = checkArguments([text, later], ["a", 21], "method");
    expect(values).toBeInstanceOf(Promise);
    expect(await values).toEqual(["a", 42]);
    await expect(checkArguments([text, later], ["a", "b"], "method")).rejects.toMatchObject({
      reason: "INVALID_ARGUMENTS",
      details: { issues: [{ path: "args[1]", message: "expected a number" }] },
    });
    await expect(checkArguments([later, later], [1, "b"], "method")).rejects.toMatchObject({ effect: "none" });
  });

  it("names the method, the argument and the path within it", () => {
    const found = refusal(() =>
      checkArguments([text, whole], ["a", { user: { "e-mail": "x" }, tags: ["a", 5] }], "add"),
    );
    expect(found).toMatchObject({
      kind: "arguments",
      reason: "INVALID_ARGUMENTS",
      effect: "none",
      details: {
        method: "add",
        issues: [{ path: "args[1].user.name" }, { path: 'args[1].user["e-mail"]' }, { path: "args[1].tags[1]" }],
      },
    });
    expect((found as Error).message).toMatch(/^INVALID_ARGUMENTS: add: args\[1\]\.user\.name: /);
  });

  it("takes paths of segments with a key, as the specification allows", () => {
    const keyed = schema(() => ({ issues: [{ message: "no", path: [{ key: "a" }, 0, { key: Symbol("b") }] }] }));
    expect(refusal(() => checkArguments([keyed], [1], "m"))).toMatchObject({
      details: { issues: [{ path: 'args[0].a[0]["Symbol(b)"]' }] },
    });
  });

  it("asks the schemas for arguments that were left out, and refuses more than there are schemas", () => {
    expect(checkArguments([text, z.string().optional(), z.number().default(7)], ["a"], "m")).toEqual([
      "a",
      undefined,
      7,
    ]);
    expect(refusal(() => checkArguments([text], [], "m"))).toMatchObject({ reason: "INVALID_ARGUMENTS" });
    expect(refusal(() => checkArguments([text], ["a", "b"], "m"))).toMatchObject({
      reason: "INVALID_ARGUMENTS",
      details: { count: 2, countMax: 1 },
    });
  });

  it("bounds what it says", () => {
    const many = schema(() => ({ issues: Array.from({ length: 500 }, () => ({ message: "x".repeat(5000) })) }));
    const error = refusal(() => checkArguments([many], [1], "m")) as Error & { details: { issues: unknown[] } };
    expect(error.details.issues).toHaveLength(20);
    expect(error.message.length).toBeLessThan(6000);
    expect(error.message).toContain("and 480 more");
  });
});

describe("validated", () => {
  const shop = {
    discount: 3,
    price: validated([z.coerce.number().min(0)], function (this: { discount: number } | undefined, price) {
      return price - (this?.discount ?? 0);
    } as (price: number) => number),
    slow: validated([later], (value) => value + 1),
  };

  it("checks when it is called directly too, on its object", async () => {
    expect(shop.price("10")).toBe(7);
    expect(refusal(() => shop.price(-1))).toMatchObject({ reason: "INVALID_ARGUMENTS" });
    expect(await shop.slow(4)).toBe(9);
    await expect(shop.slow("x") as unknown as Promise<number>).rejects.toMatchObject({ reason: "INVALID_ARGUMENTS" });
  });

  it("leaves a streaming method's channel alone", async () => {
    const channel = { name: "the channel" } as unknown as Channel<never, string>;
    const joinChan = validatedChannel([text, later], (given: Channel<never, string>, user, count) => [
      given,
      user,
      count,
    ]);
    expect(await joinChan(channel, "Ada", 4)).toEqual([channel, "Ada", 8]);
    const sync = validatedChannel([text], (given: Channel<never, string>, user) => [given, user]);
    expect(sync(channel, "Ada")).toEqual([channel, "Ada"]);
    expect(refusal(() => sync(channel, 5))).toMatchObject({
      details: { issues: [{ path: "args[0]", message: "expected text, got number" }] },
    });
  });

  it("lets a server check first and call the method afterwards", () => {
    const made = validatedMethod(shop.price);
    expect(made?.schemas).toHaveLength(1);
    expect(made?.method.call({ discount: 1 }, 5)).toBe(4);
    expect(validatedMethod(() => {})).toBeUndefined();
  });
});
