import { expect, test } from "vitest";
import { VirtualClock } from "../clock/virtual-clock.ts";
import { DeadlineWheel } from "../deadline/deadline-wheel.ts";
import { AssemblyBudget, assemblyBytesMax } from "../invocation/assembly.ts";
import { startCall } from "../invocation/outgoing-call.ts";
import { Target } from "../target/target.ts";
import { memoryTransportPair } from "../transport/memory-transport.ts";
import { encodeArgs } from "../value/form.ts";
import { defaultSessionLimits } from "./limits.ts";
import { Session } from "./session.ts";

test("a session whose handler takes no streams refuses each, and goes on", async () => {
  const clock = new VirtualClock();
  const [here, there] = memoryTransportPair(clock);
  const make = (transport: typeof here, side: "dialer" | "acceptor") =>
    new Session({ transport, clock, side, identity: { role: "agent" }, limits: defaultSessionLimits, handler: {} });
  const caller = make(here, "dialer");
  const peer = make(there, "acceptor");
  const runtime = {
    wheel: new DeadlineWheel(clock),
    budget: new AssemblyBudget(assemblyBytesMax),
    now: () => clock.now(),
  };
  for (let round = 0; round < 2; round++) {
    const options = { timeoutMs: 0, fields: new Uint8Array(0) };
    const call = startCall(runtime, caller, new Target("dev", "hello", "sayHello"), encodeArgs([1]), options);
    const refused = expect(call).rejects.toMatchObject({ reason: "PROTOCOL_VIOLATION", effect: "none" });
    clock.advance(10);
    await refused;
  }
  expect(caller.isClosed || peer.isClosed).toBe(false);
  expect(peer.streamCount).toBe(0);
});
