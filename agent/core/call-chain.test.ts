import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  chainResourcesMax,
  chainTo,
  decodeChain,
  encodeChain,
  hookChain,
  nestedChain,
  resourceIdentity,
} from "./call-chain.ts";

const identityOf = (name: string) => resourceIdentity("dev", "chat", Buffer.from(name));
const reasonOf = (run: () => unknown) => {
  try {
    run();
  } catch (error) {
    return LeverError.from(error).reason;
  }
  return "none";
};

describe("a chain", () => {
  it("of methods is one byte, whatever it goes through", () => {
    const chain = chainTo(chainTo(nestedChain, identityOf("a")), identityOf("a"));
    expect(encodeChain(chain)).toEqual(Uint8Array.of(0));
    expect(decodeChain(Uint8Array.of(0))).toEqual(nestedChain);
  });

  it("that starts in a hook names what it goes through, in order", () => {
    const chain = chainTo(chainTo(hookChain, identityOf("a")), identityOf("b"));
    expect([...encodeChain(chain)]).toEqual([1, ...identityOf("a"), ...identityOf("b")]);
  });

  it("does not come back to a resource", () => {
    const chain = chainTo(chainTo(hookChain, identityOf("a")), identityOf("b"));
    expect(reasonOf(() => chainTo(chain, identityOf("a")))).toBe("HOOK_REENTRY");
    expect(reasonOf(() => chainTo(chain, identityOf("b")))).toBe("HOOK_REENTRY");
    expect(reasonOf(() => chainTo(chain, identityOf("c")))).toBe("none");
  });

  it("has 64 resources at most", () => {
    let chain = hookChain;
    for (let count = 0; count < chainResourcesMax; count++) chain = chainTo(chain, identityOf(`${count}`));
    expect(decodeChain(encodeChain(chain))).toEqual(chain);
    expect(() => chainTo(chain, identityOf("one more"))).toThrow(/64 resources/);
  });

  it("is a resource's of one environment and service", () => {
    const names = new Set([
      `${identityOf("a")}`,
      `${resourceIdentity("dev", "chat2", Buffer.from("a"))}`,
      `${resourceIdentity("test", "chat", Buffer.from("a"))}`,
      `${resourceIdentity("dev", "chat", Buffer.from("b"))}`,
    ]);
    expect(names.size).toBe(4);
  });

  it("keeps its own copy of what it was read from", () => {
    const bytes = encodeChain(chainTo(hookChain, identityOf("a")));
    const chain = decodeChain(bytes);
    bytes.fill(0);
    expect(reasonOf(() => chainTo(chain, identityOf("a")))).toBe("HOOK_REENTRY");
  });

  it("skips bits of a later version, and takes no other length", () => {
    expect(decodeChain(Uint8Array.of(0xfe))).toEqual(nestedChain);
    expect(decodeChain(Uint8Array.of(0xff)).startsInHook).toBe(true);
    for (const length of [0, 2, 8, 10, 1 + 8 * (chainResourcesMax + 1)]) {
      expect(reasonOf(() => decodeChain(new Uint8Array(length)))).toBe("PROTOCOL_VIOLATION");
    }
  });

  it("is read as it was written; any bytes give a chain or an error", () => {
    const resources = fc.array(fc.string({ minLength: 1, unit: "binary" }), { maxLength: 70 });
    fc.assert(
      fc.property(resources, (names) => {
        let chain = hookChain;
        const gone = new Set<string>();
        for (const name of names) {
          const isRefused = reasonOf(() => chainTo(chain, identityOf(name))) === "HOOK_REENTRY";
          // TextEncoder is not in the way here: bytes that differ are resources that differ.
          const key = Buffer.from(name).toString("hex");
          expect(isRefused).toBe(gone.has(key) || gone.size >= chainResourcesMax);
          if (isRefused) continue;
          chain = chainTo(chain, identityOf(name));
          gone.add(key);
          expect(decodeChain(encodeChain(chain))).toEqual(chain);
        }
      }),
    );
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 600 }), (bytes) => {
        try {
          const chain = decodeChain(bytes);
          expect(decodeChain(encodeChain(chain))).toEqual(chain);
        } catch (error) {
          expect(LeverError.from(error).reason).toBe("PROTOCOL_VIOLATION");
        }
      }),
    );
  });
});
