import fc from "fast-check";
import { expect, test } from "vitest";
import { helloOf, parseSpiffeId, printSpiffeId, type SpiffeId } from "./spiffe-id.ts";

const uid = "0c2b5a3e-8d6f-4b0e-9a53-0d9a5a6f5a11";
const instance: SpiffeId = { kind: "instance", environment: "shop", service: "chat", instance: "chat-7d9f-x", uid };

test.each<[SpiffeId, string]>([
  [instance, `spiffe://leveros.dev/environment/shop/service/chat/instance/chat-7d9f-x/uid/${uid}`],
  [{ kind: "gateway", instance: "lever-gateway-1", uid }, `spiffe://leveros.dev/gateway/lever-gateway-1/uid/${uid}`],
  [{ kind: "operator", instance: "op.1" }, "spiffe://leveros.dev/operator/op.1"],
])("%j is printed and parsed", (id, text) => {
  expect(printSpiffeId(id)).toBe(text);
  expect(parseSpiffeId(text)).toEqual(id);
});

test.each([
  "",
  "spiffe://leveros.dev",
  "spiffe://leveros.dev/operator/",
  "spiffe://leveros.dev/operator/a/b",
  "spiffe://leveros.dev/operator/a\n",
  "spiffe://leveros.dev/operator/a?x",
  "spiffe://leverosxdev/operator/a",
  "spiffe://example.org/operator/a",
  "https://leveros.dev/operator/a",
  "xspiffe://leveros.dev/operator/a",
  "spiffe://leveros.dev/gateway/a",
  "spiffe://leveros.dev/gateway/a/uid/",
  "spiffe://leveros.dev/gateway/A/uid/1",
  `spiffe://leveros.dev/environment/shop/service/chat/instance/x`,
  `spiffe://leveros.dev/environment/sh.op/service/chat/instance/x/uid/1`,
  `spiffe://leveros.dev/environment/shop/service/../instance/x/uid/1`,
  `spiffe://leveros.dev/environment/shop/service/chat/instance/x/uid/1/operator/a`,
])("%j is none", (text) => {
  expect(parseSpiffeId(text)).toBeUndefined();
});

test("no text is taken for an id that prints otherwise", () => {
  const part = fc.constantFrom(
    "spiffe://leveros.dev",
    "/operator/",
    "/gateway/",
    "/uid/",
    "/environment/",
    "a",
    "-",
    "b1",
    ".",
  );
  fc.assert(
    fc.property(fc.array(part, { maxLength: 9 }), (parts) => {
      const text = parts.join("");
      const id = parseSpiffeId(text);
      if (id !== undefined) expect(printSpiffeId(id)).toBe(text);
    }),
  );
});

test("what HELLO has to say", () => {
  expect(helloOf(instance)).toEqual({ role: "agent", environment: "shop", service: "chat", instance: "chat-7d9f-x" });
  expect(helloOf({ kind: "gateway", instance: "g", uid })).toEqual({ role: "gateway", instance: "g" });
  const operator = helloOf({ kind: "operator", instance: "o" });
  expect(operator).toEqual({ role: "operator", environment: "lever-system", service: "operator" });
});
