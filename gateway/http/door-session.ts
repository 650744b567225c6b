/** The door's own way to the gateway's agent: a client session over memory, made again should it ever end. */

import type { Agent } from "@leveros/agent/core/agent.ts";
import type { RawChannel } from "@leveros/protocol/channel/channel.ts";
import { startChannel } from "@leveros/protocol/channel/open-channel.ts";
import type { Clock } from "@leveros/protocol/clock/clock.ts";
import { DeadlineWheel } from "@leveros/protocol/deadline/deadline-wheel.ts";
import { AssemblyBudget, assemblyBytesMax } from "@leveros/protocol/invocation/assembly.ts";
import { type CallerRuntime, type OutgoingOptions, startCall } from "@leveros/protocol/invocation/outgoing-call.ts";
import { defaultSessionLimits } from "@leveros/protocol/session/limits.ts";
import { Session } from "@leveros/protocol/session/session.ts";
import type { Target } from "@leveros/protocol/target/target.ts";
import { memoryTransportPair } from "@leveros/protocol/transport/memory-transport.ts";
import type { Encoded } from "@leveros/protocol/value/form.ts";

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

  call(target: Target, args: Encoded, options: OutgoingOptions): Promise<Encoded> {
    return startCall(this.#runtime, this.#open(), target, args, options);
  }

  openChannel(target: Target, args: Encoded, options: OutgoingOptions): Promise<RawChannel> {
    return startChannel(this.#runtime, this.#open(), target, args, options);
  }

  #open(): Session {
    const open = this.#session;
    if (open?.isAvailable === true) return open;
    const [here, there] = memoryTransportPair(this.#clock, { names: ["http", "agent"] });
    this.#agent.acceptClient(there);
    const session = new Session({
      transport: here,
      clock: this.#clock,
      side: "dialer",
      identity: { role: "client", library: "lever-gateway-http" },
      limits: { ...defaultSessionLimits, pingIntervalMs: 0, silenceMs: 0 },
      handler: {
        onOpen: (stream) => {
          stream.reset(new Uint8Array(0));
          stream.release();
        },
      },
    });
    this.#session = session;
    return session;
  }
}
