import { runtimeClock } from "@leveros/protocol/clock/runtime-clock.ts";
import { memoryTransportPair } from "@leveros/protocol/transport/memory-transport.ts";
import type { Transport } from "@leveros/protocol/transport/transport.ts";
import { describe, expect, test } from "vitest";
import { OperatorDialer, type OperatorDialerOptions } from "./operator-dialer.ts";

type Behaviour = "answers" | "refuses" | "is silent";

function make(replicas: Record<string, Behaviour>, options: Partial<OperatorDialerOptions> = {}) {
  const dialled: string[] = [];
  const destroyed: string[] = [];
  let asked = 0;
  const dialer = new OperatorDialer({
    operator: "operator.lever-system.svc:3837",
    timeoutMs: 3000,
    random: Math.random,
    resolve: async () => {
      asked++;
      return Object.keys(replicas);
    },
    dial: (address) => {
      dialled.push(address);
      const behaviour = replicas[address.slice(0, address.lastIndexOf(":")).replace(/^\[|\]$/g, "")];
      if (behaviour === "refuses") return Promise.reject(new Error(`ECONNREFUSED ${address}`));
      if (behaviour === "is silent") return new Promise(() => {});
      const [transport] = memoryTransportPair(runtimeClock(globalThis));
      const named: Transport = Object.create(transport, {
        peerName: { value: address },
        destroy: { value: () => destroyed.push(address) },
      });
      return Promise.resolve(named);
    },
    ...options,
  });
  return { dialer, dialled, destroyed, asked: () => asked };
}

describe("the operator", () => {
  test("by a name with several addresses: connections spread over them", async () => {
    const { dialer } = make({ "10.0.0.1": "answers", "10.0.0.2": "answers", "10.0.0.3": "answers" });
    const counts = new Map<string, number>();
    for (let n = 0; n < 300; n++) {
      const { peerName } = await dialer.any();
      counts.set(peerName, (counts.get(peerName) ?? 0) + 1);
    }
    expect([...counts.keys()].sort()).toEqual(["10.0.0.1:3837", "10.0.0.2:3837", "10.0.0.3:3837"]);
    for (const count of counts.values()) expect(count).toBeGreaterThan(50);
  });

  test("by an address alone, of IPv6 in brackets, is not looked up", async () => {
    const { dialer, dialled, asked } = make({ "fd00::7": "answers" }, { operator: "[fd00::7]:3837" });
    await dialer.any();
    expect(dialled).toEqual(["[fd00::7]:3837"]);
    expect(asked()).toBe(0);
  });

  test("one of whose replicas refuses or is silent is reached by another one, which is tried first from then on", async () => {
    for (const behaviour of ["refuses", "is silent"] as const) {
      const { dialer, dialled } = make({ "10.0.0.1": behaviour, "10.0.0.2": "answers" }, { random: () => 0.5 });
      expect((await dialer.any()).peerName).toBe("10.0.0.2:3837");
      expect(dialled).toEqual(["10.0.0.1:3837", "10.0.0.2:3837"]);
    }
    const { dialer, dialled } = make({ "10.0.0.1": "refuses", "10.0.0.2": "answers" }, { random: () => 0.5 });
    await dialer.any();
    await dialer.any();
    expect(dialled.slice(2)).toEqual(["10.0.0.2:3837"]);
  });

  test("that cannot be reached at all: the last error; with no address too", async () => {
    const { dialer } = make({ "10.0.0.1": "refuses", "10.0.0.2": "refuses" });
    await expect(dialer.any()).rejects.toThrow(/ECONNREFUSED/);
    await expect(make({}).dialer.any()).rejects.toThrow(/has no address/);
    const unknown = make({}, { resolve: () => Promise.reject(new Error("ENOTFOUND")) });
    await expect(unknown.dialer.any()).rejects.toThrow(/ENOTFOUND/);
  });

  test("at the leader's address, without looking up; if that is silent, any other", async () => {
    const replicas: Record<string, Behaviour> = { "10.0.0.1": "answers", "10.0.0.2": "answers" };
    const { dialer, dialled, asked } = make(replicas);
    expect((await dialer.at("10.0.0.2:3837")).peerName).toBe("10.0.0.2:3837");
    expect(dialled).toHaveLength(1);
    expect(asked()).toBe(0);
    replicas["10.0.0.2"] = "is silent";
    expect((await dialer.at("10.0.0.2:3837")).peerName).toBe("10.0.0.1:3837");
  });
});
