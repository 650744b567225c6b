import type { DiscoveryIdentity } from "@leveros/protocol/control/discovery.ts";
import type { Identity } from "@leveros/protocol/session/hello.ts";
import { describe, expect, test } from "vitest";
import { checkDiscoverer, checkHolder, checkReplica } from "./claims.ts";

const agent: Identity = { role: "agent", environment: "shop", service: "chat", instance: "chat-1" };
const gateway: Identity = { role: "gateway", instance: "gateway-1" };
const operator: Identity = { role: "operator", environment: "lever-system", service: "operator" };
const asAgent = (changed: Partial<DiscoveryIdentity> = {}) =>
  ({ ...agent, address: "", ...changed }) as DiscoveryIdentity;
const asGateway = { role: "gateway" } as DiscoveryIdentity;

const isTaken = (check: () => void): boolean => {
  try {
    check();
    return true;
  } catch (error) {
    expect(error).toMatchObject({ reason: "IDENTITY_DENIED", effect: "none" });
    return false;
  }
};

describe("who asks for tables", () => {
  test.each<[string, Identity | undefined, DiscoveryIdentity, boolean]>([
    ["an agent, as itself", agent, asAgent(), true],
    ["an agent, as another instance", agent, asAgent({ instance: "chat-2" }), false],
    ["an agent, as another service", agent, asAgent({ service: "cart" }), false],
    ["an agent, as of another environment", agent, asAgent({ environment: "bank" }), false],
    ["an agent, as a gateway", agent, asGateway, false],
    ["a gateway, as one", gateway, asGateway, true],
    ["a gateway, as an agent", gateway, asAgent(), false],
    ["a replica, as one that serves nothing", operator, asGateway, true],
    ["a replica, as an agent", operator, asAgent(), false],
    ["anybody, where nothing is proven", undefined, asAgent(), true],
  ])("%s: %#", (_, provenIdentity, claimed, expected) => {
    expect(isTaken(() => checkDiscoverer({ provenIdentity }, claimed))).toBe(expected);
  });
});

test.each<[string, Identity | undefined, Omit<Identity, "role">, boolean]>([
  ["an agent, as itself", agent, asAgent(), true],
  ["an agent, as another instance", agent, asAgent({ instance: "chat-2" }), false],
  ["a gateway", gateway, asAgent(), false],
  ["a replica", operator, asAgent(), false],
  ["anybody, where nothing is proven", undefined, asAgent(), true],
])("who holds resources: %s", (_, provenIdentity, claimed, expected) => {
  expect(isTaken(() => checkHolder({ provenIdentity }, claimed))).toBe(expected);
});

test.each<[string, Identity | undefined, boolean]>([
  ["a replica", operator, true],
  ["an agent", agent, false],
  ["a gateway", gateway, false],
  ["anybody, where nothing is proven", undefined, true],
])("who hears what the replicas say: %s", (_, provenIdentity, expected) => {
  expect(isTaken(() => checkReplica({ provenIdentity }))).toBe(expected);
});
