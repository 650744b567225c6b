/**
 * How an agent or a gateway in a cluster proves who it is, and has others prove it: its certificate, and sockets with
 * mutual TLS. Without it (`lever dev`, tests) everything is plain.
 */

import type { SpiffeId } from "@leveros/protocol/control/spiffe-id.ts";
import type { Identity } from "@leveros/protocol/session/hello.ts";
import type { Transport } from "@leveros/protocol/transport/transport.ts";
import { CertificateKeeper } from "./certificate-keeper.ts";
import { OperatorDialer } from "./operator-dialer.ts";
import { operatorDialTimeoutMs, startOperatorSession } from "./operator-sessions.ts";
import { Refusals } from "./refusals.ts";
import type { Listener } from "./socket.ts";
import { dialTls, listenTls } from "./tls.ts";

/** Where the kubelet puts what a pod proves itself by. */
export interface IdentityFiles {
  readonly tokenFile: string;
  readonly trustFile: string;
  /** How often they are looked at, 5 s unless set. */
  readonly lookMs?: number;
}

export interface PodIdentityOptions extends IdentityFiles {
  /** `host:port` of the operator. */
  readonly operator: string;
  readonly identity: Identity;
  readonly onLog?: ((level: "info" | "warn", text: string) => void) | undefined;
}

export class PodIdentity {
  readonly keeper: CertificateKeeper;
  readonly refusals: Refusals;

  constructor({ operator, identity, tokenFile, trustFile, lookMs, onLog }: PodIdentityOptions) {
    this.refusals = new Refusals({ onLog: onLog && ((text) => onLog("warn", text)) });
    const dialer = (bundle: string) =>
      new OperatorDialer({
        operator,
        timeoutMs: operatorDialTimeoutMs,
        random: Math.random,
        dial: (address, timeoutMs) => dialTls(address, { timeoutMs, credentials: { bundle }, ...anOperator }),
      });
    const dial = async (bundle: string) => startOperatorSession(await dialer(bundle).any(), identity);
    this.keeper = new CertificateKeeper({ tokenFile, trustFile, dial, lookMs, onLog });
    this.keeper.start();
  }

  /** A replica of the operator. Waits for the certificate, within the same time. */
  async dialOperator(address: string, timeoutMs: number): Promise<Transport> {
    const credentials = await this.keeper.whenCurrent(timeoutMs);
    return await dialTls(address, { timeoutMs, credentials, ...anOperator, refusals: this.refusals });
  }

  /** Some instance's agent: that it is the one that was meant is for the session's owner to check. */
  async dialInstance(address: string, timeoutMs: number): Promise<Transport> {
    const credentials = await this.keeper.whenCurrent(timeoutMs);
    return await dialTls(address, { timeoutMs, credentials, ...anInstance, refusals: this.refusals });
  }

  /** For other agents and for gateways. */
  listen(host: string, port: number, onTransport: (transport: Transport) => void): Promise<Listener> {
    const { keeper: credentials, refusals } = this;
    const accepts = ({ kind }: SpiffeId) => kind === "instance" || kind === "gateway";
    return listenTls({ host, port, credentials, accepts, refusals, onTransport });
  }

  close(): void {
    this.keeper.close();
  }
}

const anOperator = { accepts: ({ kind }: SpiffeId) => kind === "operator", expected: "a replica of the operator" };
const anInstance = { accepts: ({ kind }: SpiffeId) => kind === "instance", expected: "an instance's agent" };
