/** The connections of this process, one for each address. */

import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import type { Identity } from "@leveros/protocol/session/hello.ts";
import { Connection } from "./connection.ts";
import { dial, parseAgent, parseGateway, printEndpoint } from "./endpoint.ts";
import { library, version } from "./version.ts";

const dialTimeoutMs = 3000;
const connections = new Map<string, Connection>();

/** To the agent at `address`, or at LEVER_AGENT. Throws INVALID_OPTION. */
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
  // A local agent's end is told by the system; one that is reached over the network may fall silent.
  const limits = endpoint.kind === "unix" ? { pingIntervalMs: 0, silenceMs: 0 } : {};
  return shared(
    name,
    () =>
      new Connection({ identity, name, limits, dial: () => dial(endpoint, dialTimeoutMs) }, () =>
        connections.delete(name),
      ),
  );
}

/** From outside, to a gateway's native port. Throws INVALID_OPTION. */
export function gatewayConnection(gateway: string, environment: string | undefined): Connection {
  const endpoint = parseGateway(gateway);
  const name = `the gateway at ${printEndpoint(endpoint)}`;
  const identity: Identity = {
    role: "client",
    library: `${library}/${version}`,
    ...(environment === undefined ? {} : { environment }),
  };
  const key = `${name} ${environment ?? ""}`;
  return shared(
    key,
    () => new Connection({ identity, name, dial: () => dial(endpoint, dialTimeoutMs) }, () => connections.delete(key)),
  );
}

function shared(key: string, make: () => Connection): Connection {
  let connection = connections.get(key);
  if (connection === undefined) {
    connection = make();
    connections.set(key, connection);
  }
  return connection;
}
