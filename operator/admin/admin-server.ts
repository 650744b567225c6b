/**
 * Serves `lever://lever-system/operator/<method>` to whoever dials: agents and gateways, for their callers.
 *
 * It owns the sessions, and the way from frames to `AdminMethods` and back. Listening is the host's.
 */

import type { Clock } from "@leveros/protocol/clock/clock.ts";
import { operatorEnvironment, operatorService } from "@leveros/protocol/control/discovery.ts";
import type { Registration } from "@leveros/protocol/control/registration.ts";
import { DeadlineWheel } from "@leveros/protocol/deadline/deadline-wheel.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { MethodError } from "@leveros/protocol/error/method-error.ts";
import { AssemblyBudget } from "@leveros/protocol/invocation/assembly.ts";
import { type Invocation, InvocationServer } from "@leveros/protocol/invocation/invocation-server.ts";
import { defaultSessionLimits } from "@leveros/protocol/session/limits.ts";
import { Session } from "@leveros/protocol/session/session.ts";
import type { Transport } from "@leveros/protocol/transport/transport.ts";
import { decodeArgs } from "@leveros/protocol/value/decode.ts";
import type { Encoded } from "@leveros/protocol/value/form.ts";
import type { AdminMethods } from "./admin-methods.ts";

/** One for each agent whose app or caller asks. */
const sessionsMax = 1000;
const assemblyBytesMax = 1024 * 1024;

export class AdminServer {
  /** What it serves, for the tables. */
  readonly registration: Registration;
  readonly #methods: AdminMethods;
  readonly #clock: Clock;
  readonly #version: string;
  readonly #server: InvocationServer;
  readonly #sessions = new Set<Session>();
  #isClosed = false;

  constructor(methods: AdminMethods, clock: Clock, version: string) {
    this.#methods = methods;
    this.#clock = clock;
    this.#version = version;
    this.registration = {
      methods: [
        ...Object.keys(methods.calls).map((name) => ({ name, kind: "call" as const })),
        ...Object.keys(methods.channels).map((name) => ({ name, kind: "channel" as const })),
      ],
      resources: false,
      library: "lever-operator",
      version,
    };
    this.#server = new InvocationServer({
      host: {
        prepare: (invocation, args) => {
          const { method } = invocation.target;
          const call = Object.hasOwn(methods.calls, method) ? methods.calls[method] : undefined;
          if (call === undefined) return this.#notFound(invocation);
          const run = call(valuesOf(args, method));
          return async () => {
            try {
              return await run();
            } catch (error) {
              // It ran, and its caller is to know why it failed.
              const { reason, rawMessage } = LeverError.from(error);
              throw new MethodError({ error: reason, message: rawMessage });
            }
          };
        },
        prepareChannel: (invocation, args) => {
          const { method } = invocation.target;
          const channel = Object.hasOwn(methods.channels, method) ? methods.channels[method] : undefined;
          return channel === undefined ? this.#notFound(invocation) : channel(valuesOf(args, method));
        },
        describeThrown: (_invocation, thrown) => LeverError.from(thrown).rawMessage,
      },
      wheel: new DeadlineWheel(clock),
      budget: new AssemblyBudget(assemblyBytesMax),
      now: () => clock.now(),
    });
  }

  /** The transport is the server's from here on. */
  accept(transport: Transport): void {
    if (this.#isClosed || this.#sessions.size >= sessionsMax) return transport.destroy();
    const session: Session = new Session({
      transport,
      clock: this.#clock,
      side: "acceptor",
      identity: {
        role: "operator",
        environment: operatorEnvironment,
        service: operatorService,
        library: `lever-operator/${this.#version}`,
      },
      limits: defaultSessionLimits,
      handler: {
        onOpen: (stream, open) => this.#server.onOpen(stream, open),
        onClose: () => this.#sessions.delete(session),
      },
    });
    this.#sessions.add(session);
  }

  close(): void {
    this.#isClosed = true;
    for (const session of [...this.#sessions]) {
      session.close(new LeverError("DRAINING", "the operator stops", { effect: "none" }));
    }
  }

  #notFound(invocation: Invocation): never {
    const names = [...Object.keys(this.#methods.calls), ...Object.keys(this.#methods.channels)];
    throw new LeverError(
      "METHOD_NOT_FOUND",
      `the operator has no method ${invocation.target.method}; it has ${names.join(", ")}`,
      { effect: "none" },
    );
  }
}

function valuesOf(args: Encoded, method: string): unknown[] {
  if (args.form === "bytes") throw new LeverError("ARGS_FORM", `${method} takes JSON values, got bytes`);
  return decodeArgs(args.bytes);
}
