/**
 * The door's own way to the gateway's agent: a client session over memory, made again should it ever end. It stands for
 * all HTTP clients together, so that its limits are a peer's, not those of one client.
 */

import type { Agent } from "@leveros/agent/core/agent.ts";
import type { RawChannel } from "@leveros/protocol/channel/channel.ts";
import { startChannel } from "@leveros/protocol/channel/open-channel.ts";
import type { Clock } from "@leveros/protocol/clock/clock.ts";
import { DeadlineWheel } from "@leveros/protocol/deadline/deadline-wheel.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { AssemblyBudget, assemblyBytesMax } from "@leveros/protocol/invocation/assembly.ts";
import { startCall } from "@leveros/protocol/invocation/outgoing-call.ts";
import type { CallerRuntime, OutgoingOptions } from "@leveros/protocol/invocation/outgoing-stream.ts";
import { defaultSessionLimits, type SessionLimits } from "@leveros/protocol/session/limits.ts";
import { Session } from "@leveros/protocol/session/session.ts";
import type { Target } from "@leveros/protocol/target/target.ts";
import { memoryTransportPair } from "@leveros/protocol/transport/memory-transport.ts";
import type { Encoded } from "@leveros/protocol/value/form.ts";

/** Both ends are one process: silence says nothing. */
const limits: SessionLimits = { ...defaultSessionLimits, pingIntervalMs: 0, silenceMs: 0 };

export class DoorSession {
  readonly #agent: Agent;
  readonly #clock: Clock;
  readonly #runtime: CallerRuntime;
  #session: Session | undefined;

  constructor(agent: Agent, clock: Clock) {
    this.#agent = agent;
    this.#clock = clock;
    this.#runtime = {
      wheel: new DeadlineWheel(clock),
      budget: new AssemblyBudget(assemblyBytesMax),
      now: () => clock.now(),
    };
  }

  async call(target: Target, args: Encoded, options: OutgoingOptions): Promise<Encoded> {
    return startCall(this.#runtime, this.#open(), target, args, options);
  }

  async openChannel(target: Target, args: Encoded, options: OutgoingOptions): Promise<RawChannel> {
    return startChannel(this.#runtime, this.#open(), target, args, options);
  }

  #open(): Session {
    const open = this.#session;
    if (open?.isAvailable === true) return open;
    const [here, there] = memoryTransportPair(this.#clock, { names: ["http", "agent"] });
    if (this.#agent.acceptDoor(there, limits) === undefined) {
      throw new LeverError("DRAINING", "the gateway is about to end; ask another one", { effect: "none" });
    }
    this.#session = new Session({
      transport: here,
      clock: this.#clock,
      side: "dialer",
      identity: { role: "client", library: "lever-gateway-http" },
      limits,
      handler: {},
    });
    return this.#session;
  }
}
