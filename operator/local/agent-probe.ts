/** Asks an agent who it is: it answers a connection with HELLO, or it is none. */

import { dialTcp } from "@leveros/agent/host/socket.ts";
import type { Clock } from "@leveros/protocol/clock/clock.ts";
import { operatorEnvironment, operatorService } from "@leveros/protocol/control/discovery.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { defaultSessionLimits } from "@leveros/protocol/session/limits.ts";
import { Session } from "@leveros/protocol/session/session.ts";

const answerMsMax = 3000;

/** Its library and version, as `lever-agent/0.1.0`. Rejects if nobody answers within 3 s, or the answer is no HELLO. */
export async function probeAgent(address: string, clock: Clock): Promise<string> {
  const transport = await dialTcp(address, answerMsMax);
  const answer = Promise.withResolvers<string>();
  const session = new Session({
    transport,
    clock,
    side: "dialer",
    identity: { role: "operator", environment: operatorEnvironment, service: operatorService },
    limits: { ...defaultSessionLimits, helloTimeoutMs: answerMsMax },
    handler: {
      onHello: ({ library = "" }) => answer.resolve(library),
      onClose: (error) => answer.reject(error),
    },
  });
  try {
    return await answer.promise;
  } finally {
    session.close(new LeverError("CANCELLED", "it has answered"));
  }
}
