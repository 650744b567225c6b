import { VirtualClock } from "@leveros/protocol/clock/virtual-clock.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { defaultSessionLimits } from "@leveros/protocol/session/limits.ts";
import { Session } from "@leveros/protocol/session/session.ts";
import { memoryTransportPair } from "@leveros/protocol/transport/memory-transport.ts";
import { describe, expect, test } from "vitest";
import { OperatorServer, type OperatorServerOptions } from "./operator-server.ts";

class Rig {
  readonly clock = new VirtualClock();
  readonly server: OperatorServer;

  constructor(options: Omit<OperatorServerOptions, "clock">) {
    this.server = new OperatorServer({ clock: this.clock, ...options });
  }

  /** A session of that peer's; `ended` is why it is over. */
  dial(peer?: string): { readonly session: Session; ended: LeverError | undefined } {
    const [here, there] = memoryTransportPair(this.clock);
    this.server.accept(there, peer);
    const dialled: { session: Session; ended: LeverError | undefined } = {
      session: new Session({
        transport: here,
        clock: this.clock,
        side: "dialer",
        identity: { role: "agent" },
        limits: defaultSessionLimits,
        handler: {
          onGoAway: (error) => {
            dialled.ended = error;
          },
        },
      }),
      ended: undefined,
    };
    this.clock.advance(0);
    return dialled;
  }
}

describe("sessions of one peer", () => {
  test("one more ends the oldest, which is told why, and nobody else's", () => {
    const rig = new Rig({ sessionsMax: 100, sessionsOfPeerMax: 2 });
    const other = rig.dial("b");
    const own = [rig.dial("a"), rig.dial("a"), rig.dial("a")];
    expect(own.map(({ ended }) => ended?.reason)).toEqual(["OVERLOADED", undefined, undefined]);
    expect(own[0]?.ended).toMatchObject({
      effect: "none",
      details: { limit: "sessionsOfPeerMax", sessionsOfPeerMax: 2 },
      rawMessage: expect.stringMatching(/^a has opened more than 2 sessions .* this was the oldest/),
    });
    expect(other.ended).toBeUndefined();
    expect(rig.server.sessionCount).toBe(3);
  });

  test("those that have ended do not count", () => {
    const rig = new Rig({ sessionsMax: 100, sessionsOfPeerMax: 1 });
    for (let count = 0; count < 3; count++) {
      const { session, ended } = rig.dial("a");
      expect(ended).toBeUndefined();
      session.destroy(new LeverError("CANCELLED", "bye"));
      rig.clock.advance(0);
      expect(rig.server.sessionCount).toBe(0);
    }
  });

  test("one peer that opens more and more takes no place of others, where places are scarce", () => {
    const rig = new Rig({ sessionsMax: 3, sessionsOfPeerMax: 2 });
    for (let count = 0; count < 10; count++) rig.dial("a");
    expect(rig.dial("b").ended).toBeUndefined();
    // All are taken: whoever comes to places of its own still gets in, the others do not.
    expect(rig.dial("c").ended).toMatchObject({ reason: "OVERLOADED", details: { limit: "sessionsMax" } });
    expect(rig.dial("a").ended).toBeUndefined();
    expect(rig.server.sessionCount).toBe(3);
  });

  test("are not limited where it is not known whose they are", () => {
    const rig = new Rig({ sessionsMax: 100, sessionsOfPeerMax: 1 });
    const all = [rig.dial(), rig.dial(), rig.dial()];
    expect(all.map(({ ended }) => ended)).toEqual([undefined, undefined, undefined]);
  });
});
