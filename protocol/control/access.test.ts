import fc from "fast-check";
import { expect, it } from "vitest";
import type { PeerRole } from "../session/hello.ts";
import { type AccessPolicy, allowedMethods, defaultAccessPolicy, isMethodAllowed, isSameAccess } from "./access.ts";

const names = fc.constantFrom("a", "b", "c");
const policies: fc.Arbitrary<AccessPolicy> = fc.record({
  callers: fc.array(fc.record({ environment: names, service: names }, { requiredKeys: ["environment"] }), {
    maxLength: 3,
  }),
  gateway: fc.record(
    { expose: fc.constantFrom("None" as const, "Public" as const), methods: fc.array(names, { maxLength: 2 }) },
    { requiredKeys: ["expose"] },
  ),
});
const callers = fc.record(
  {
    role: fc.constantFrom<PeerRole>("agent", "gateway", "client", "app", "operator"),
    environment: names,
    service: names,
  },
  { requiredKeys: ["role"] },
);

it("allows just whom the policy names", () => {
  fc.assert(
    fc.property(policies, names, callers, names, (access, environment, caller, method) => {
      const { role, environment: from, service } = caller;
      const { expose, methods = [method] } = access.gateway;
      const isNamed = access.callers.some((x) => x.environment === from && (x.service ?? service) === service);
      // The specification.
      const isAllowed =
        role === "gateway"
          ? expose === "Public" && methods.includes(method)
          : role === "agent" && (from === environment || isNamed);
      expect(isMethodAllowed(allowedMethods(access, environment, caller), method)).toBe(isAllowed);
    }),
    { numRuns: 2000 },
  );
});

it("allows nobody outside of the environment by default", () => {
  fc.assert(
    fc.property(callers, (caller) => {
      const isOwn = caller.role === "agent" && caller.environment === "a";
      expect(allowedMethods(defaultAccessPolicy, "a", caller)).toBe(isOwn ? "all" : "none");
    }),
  );
});

it("is the same for just the same policies", () => {
  fc.assert(
    fc.property(policies, policies, (a, b) => {
      expect(isSameAccess(a, structuredClone(a))).toBe(true);
      expect(isSameAccess(a, b)).toBe(JSON.stringify(sorted(a)) === JSON.stringify(sorted(b)));
    }),
    { numRuns: 1000 },
  );
});

function sorted({ callers: list, gateway: { expose, methods } }: AccessPolicy): unknown {
  return [list.map(({ environment, service }) => [environment, service]), expose, methods];
}
