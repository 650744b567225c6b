import { expect, test } from "vitest";
import {
  appContainerOf,
  type LeverService,
  leverServiceSchema,
  methodPolicies,
  servicePolicy,
} from "./lever-service.ts";

function service(spec: object, containers: object[] = [{ name: "app" }]): LeverService {
  return leverServiceSchema.parse({
    apiVersion: "leveros.dev/v1alpha1",
    kind: "LeverService",
    metadata: { name: "chat", namespace: "dev" },
    spec: { template: { spec: { containers } }, ...spec },
  });
}

test("without entries every method has 30 s and is not idempotent", () => {
  expect(methodPolicies(service({}))).toEqual([{ name: "*", timeoutMs: 30_000, idempotent: false }]);
});

test('what an entry leaves out comes from "*", wherever that stands', () => {
  const methods = [
    { name: "history", idempotent: true },
    { name: "say", timeoutMilliseconds: 500 },
    { name: "*", timeoutMilliseconds: 5000 },
    { name: "clear", idempotent: false },
  ];
  expect(methodPolicies(service({ methods }))).toEqual([
    { name: "*", timeoutMs: 5000, idempotent: false },
    { name: "history", timeoutMs: 5000, idempotent: true },
    { name: "say", timeoutMs: 500, idempotent: false },
    { name: "clear", timeoutMs: 5000, idempotent: false },
  ]);
  const idempotent = [{ name: "*", idempotent: true }, { name: "say" }, { name: "buy", idempotent: false }];
  expect(methodPolicies(service({ methods: idempotent })).map((policy) => policy.idempotent)).toEqual([
    true,
    true,
    false,
  ]);
});

test("the app's container is the named one, else the only one", () => {
  expect(appContainerOf(service({})).name).toBe("app");
  expect(appContainerOf(service({ appContainer: "b" }, [{ name: "a" }, { name: "b" }])).name).toBe("b");
});

test("a policy says how resources are held, if the service holds any", () => {
  expect(servicePolicy(service({}))).not.toHaveProperty("ownership");
  expect(servicePolicy(service({ ownership: {} })).ownership).toEqual({
    slots: 256,
    onUncertain: "Wait",
    onLapse: "Abort",
    leaseMs: 15_000,
    idleMs: 180_000,
  });
  const ownership = { slots: 7, onUncertain: "Serve", onLapse: "Kill", leaseSeconds: 60, idleSeconds: 1 };
  expect(servicePolicy(service({ ownership })).ownership).toEqual({
    slots: 7,
    onUncertain: "Serve",
    onLapse: "Kill",
    leaseMs: 60_000,
    idleMs: 1000,
  });
});
