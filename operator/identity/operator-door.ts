/** The operator's port for frames: agents, gateways and other replicas over mutual TLS, and those who ask for a certificate. */

import type { Refusals } from "@leveros/agent/host/refusals.ts";
import type { Listener } from "@leveros/agent/host/socket.ts";
import { type CredentialSource, dialTls, listenTls } from "@leveros/agent/host/tls.ts";
import { printSpiffeId, type SpiffeId } from "@leveros/protocol/control/spiffe-id.ts";
import type { Transport } from "@leveros/protocol/transport/transport.ts";

type Acceptor = { accept(transport: Transport, peer: string): unknown };

export interface OperatorDoorOptions {
  readonly host: string;
  /** 0 gives a free one. */
  readonly port: number;
  readonly credentials: CredentialSource;
  readonly refusals: Refusals;
  /** Undefined while nobody may be served. */
  readonly operator: () => { readonly server: Acceptor; readonly strangers: Acceptor | undefined } | undefined;
}

/** Rejects with the system's error when the port cannot be had. */
export function listenForAgents({ operator, ...options }: OperatorDoorOptions): Promise<Listener> {
  return listenTls({
    ...options,
    accepts: () => true,
    acceptsAnonymous: true,
    onTransport: (transport, id, source) => {
      const serving = id === undefined ? operator()?.strangers : operator()?.server;
      if (serving === undefined) transport.destroy();
      else serving.accept(transport, id === undefined ? source : printSpiffeId(id));
    },
  });
}

/** Connects to another replica. */
export async function dialReplica(
  address: string,
  timeoutMs: number,
  { current: credentials }: CredentialSource,
  refusals: Refusals,
): Promise<Transport> {
  if (credentials === undefined) throw new Error("this replica has no certificate yet");
  return await dialTls(address, { timeoutMs, credentials, accepts: isReplica, expected: "a replica", refusals });
}

function isReplica({ kind }: SpiffeId): boolean {
  return kind === "operator";
}
