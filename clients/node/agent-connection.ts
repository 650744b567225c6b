/** The connections of this process, one for each address. */

import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import type { Identity } from "@leveros/protocol/session/hello.ts";
import type { SessionLimits } from "@leveros/protocol/session/limits.ts";
import { Connection } from "./connection.ts";
import { dial, parseAgent, printEndpoint, type TcpEndpoint } from "./endpoint.ts";
import { library, version } from "./version.ts";

const dialTimeoutMs = 3000;
const connections = new Map<string, Connection>();

/**
 * A local agent's end is told by the system; one that is reached over the network may fall silent. A session that goes
 * away lasts as long as its methods run: how long that may be is for `serve`.
 */
const localLimits: Partial<SessionLimits> = { pingIntervalMs: 0, silenceMs: 0, goAwayGraceMs: 3_700_000 };
const remoteLimits: Partial<SessionLimits> = { goAwayGraceMs: 3_700_000 };

/** To the agent at `address`, or at LEVER_AGENT. Throws INVALID_OPTION, or AGENT_UNREACHABLE without an address. */
export function agentConnection(address: string | undefined): Connection {
  const field = address === undefined ? "LEVER_AGENT" : "agent";
  const text = address ?? process.env.LEVER_AGENT;
  if (text === undefined || text === "") {
    throw new LeverError(
      "AGENT_UNREACHABLE",
      "LEVER_AGENT is not set: this process has no agent. Run it in a pod with an agent or by `lever dev`, or call " +
        'from outside with new Client({ gateway: "host:3837", environment: "…" })',
      { effect: "none" },
    );
  }
  const { LEVER_ENVIRONMENT, LEVER_SERVICE, LEVER_INSTANCE } = process.env;
  const identity: Identity = {
    role: "app",
    library: `${library}/${version}`,
    ...(LEVER_ENVIRONMENT === undefined ? {} : { environment: LEVER_ENVIRONMENT }),
    ...(LEVER_SERVICE === undefined ? {} : { service: LEVER_SERVICE }),
    ...(LEVER_INSTANCE === undefined ? {} : { instance: LEVER_INSTANCE }),
  };
  const endpoint = parseAgent(text, field);
  const name = `the agent at ${printEndpoint(endpoint)}`;
  return shared(name, (onClosed) => {
    return new Connection(
      {
        identity,
        name,
        limits: endpoint.kind === "unix" ? localLimits : remoteLimits,
        dial: (signal) => dial(endpoint, dialTimeoutMs, signal),
      },
      onClosed,
    );
  });
}

/** From outside, to a gateway's native port. */
export function gatewayConnection(endpoint: TcpEndpoint, environment: string | undefined): Connection {
  const name = `the gateway at ${printEndpoint(endpoint)}`;
  const identity: Identity = {
    role: "client",
    library: `${library}/${version}`,
    ...(environment === undefined ? {} : { environment }),
  };
  return shared(`${name} ${environment ?? ""}`, (onClosed) => {
    return new Connection(
      { identity, name, failsFirst: true, dial: (signal) => dial(endpoint, dialTimeoutMs, signal) },
      onClosed,
    );
  });
}

function shared(key: string, make: (onClosed: () => void) => Connection): Connection {
  const known = connections.get(key);
  if (known !== undefined) return known;
  const connection = make(() => connections.delete(key));
  connections.set(key, connection);
  return connection;
}
