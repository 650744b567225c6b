/**
 * All of one replica's identity: the Secret, its own certificate, which it signs itself, the certificates that it issues,
 * and, while it leads, the bundle in the namespaces.
 *
 * A replica whose certificate is not valid is not ready: nobody can connect to it as it is, so that by not being ready it
 * loses none, an upgrade does not go on, and whoever looks sees it. Sessions that are open go on, and it may lead.
 */

import { generateKeyPairSync, webcrypto } from "node:crypto";
import type { CredentialSource, Credentials } from "@leveros/agent/host/tls.ts";
import { ToldOnce } from "@leveros/agent/host/told-once.ts";
import type { Clock, Random } from "@leveros/protocol/clock/clock.ts";
import { issueCertificateMethod } from "@leveros/protocol/control/certificate-request.ts";
import { printSpiffeId } from "@leveros/protocol/control/spiffe-id.ts";
import type { OperatorCall } from "../discovery/operator-server.ts";
import type { KubeClient } from "../kube/kube-client.ts";
import { type KubeObject, pods } from "../kube/kube-object.ts";
import { isLeverPod } from "../kube/reconcile/endpoint-source.ts";
import type { Pod } from "../kube/reconcile/kubernetes-object.ts";
import { serviceLabel } from "../kube/reconcile/wanted-deployment.ts";
import type { Reflector } from "../kube/reflector.ts";
import { issue } from "./authority.ts";
import { CertificateIssuer } from "./certificate-issuer.ts";
import { type Identity, IdentitySecret } from "./identity-secret.ts";
import { clockSkewMs, dayMs } from "./lifetimes.ts";
import { TrustMaps } from "./trust-maps.ts";

/** Of its life, when the own certificate is made anew. */
const renewAt = 2 / 3;
const lookMsDefault = 60_000;
/** What is left of a CA when that is told. */
const endsSoonMs = dayMs;

export interface OperatorIdentityOptions {
  readonly client: KubeClient;
  readonly clock: Clock;
  readonly random: Random;
  /** Since 1970. */
  readonly wallMs: () => number;
  /** The operator's own. */
  readonly namespace: string;
  /** The own pod's. */
  readonly name: string;
  readonly secretName: string;
  /** Of the operator's namespace. */
  readonly gatewayServiceAccount: string;
  /** Whom tokens have to be for. */
  readonly audience: string;
  /** How often it is looked whether an own certificate is due, a minute unless set. */
  readonly lookMs?: number;
  readonly onLog: (level: "info" | "warn", text: string) => void;
}

/** What is watched of the cluster anyway. */
export interface ObservedObjects {
  readonly pods: Pick<Reflector<Pod & KubeObject>, "get">;
  readonly services: Pick<Reflector<KubeObject>, "get" | "subscribe">;
}

interface OwnCredentials extends Credentials {
  readonly authority: Identity["authority"];
  readonly notBeforeMs: number;
  readonly renewAtMs: number;
}

export class OperatorIdentity implements CredentialSource {
  readonly secret: IdentitySecret;
  readonly issuer: CertificateIssuer;
  readonly trustMaps: TrustMaps;
  /** What the operator serves of it. */
  readonly calls: Readonly<Record<string, OperatorCall>>;
  readonly reflectors: { readonly secrets: IdentitySecret["reflector"]; readonly configmaps: TrustMaps["reflector"] };
  readonly #options: OperatorIdentityOptions;
  readonly #subscribers = new Set<(credentials: Credentials) => void>();
  #current: OwnCredentials | undefined;
  /** Why there is no own certificate, or no new one. */
  #problem = "not made yet";
  #told = new ToldOnce();
  #timer: unknown;
  #isLeader = false;
  #isClosed = false;
  #onCurrent: ((isThere: boolean) => void)[] = [];
  /** One certificate is made at a time. */
  #making: Promise<void> = Promise.resolve();

  #observed: ObservedObjects | undefined;

  constructor(options: OperatorIdentityOptions) {
    this.#options = options;
    const { secretName, gatewayServiceAccount, namespace, client, clock, random, onLog } = options;
    this.secret = new IdentitySecret({
      ...options,
      name: secretName,
      onIdentity: () => this.#changed(),
    });
    this.issuer = new CertificateIssuer({
      ...options,
      identity: () => this.secret.identity,
      gatewayAccount: `${namespace}:${gatewayServiceAccount}`,
      instanceOf: (of, pod, uid) => this.#observed && instanceOf(this.#observed, of, pod, uid),
      mayBeInstance: async (of, name, uid) => {
        // A right to list is all there is to pods; of one name that is one read.
        const list = await client.list<Pod & KubeObject>(pods, {
          namespace: of,
          fieldSelector: `metadata.name=${name}`,
        });
        const found = list.items.find(({ metadata }) => metadata.uid === uid);
        return found?.metadata.labels?.[serviceLabel] !== undefined && isLeverPod(found);
      },
    });
    this.trustMaps = new TrustMaps({
      client,
      clock,
      random,
      namespace,
      bundle: () => this.secret.identity?.bundle,
      isLeader: () => this.#isLeader,
      onLog,
    });
    this.calls = {
      [issueCertificateMethod]: (args, session) => this.issuer.issue(args, sourceOf(session?.peerName ?? "")),
    };
    this.reflectors = { secrets: this.secret.reflector, configmaps: this.trustMaps.reflector };
  }

  get current(): Credentials | undefined {
    return this.#current;
  }

  subscribe(onChange: (credentials: Credentials) => void): () => void {
    this.#subscribers.add(onChange);
    return () => this.#subscribers.delete(onChange);
  }

  /** Why nobody can connect to this replica, for people; undefined if they can. Asked at any time. */
  whyNotReady(): string | undefined {
    const found = this.secret.whyNotReady();
    if (found !== undefined) return found;
    const current = this.#current;
    if (current === undefined) return `no certificate of its own: ${this.#problem}`;
    const nowMs = this.#options.wallMs();
    if (nowMs >= current.notBeforeMs && nowMs < current.notAfterMs) return undefined;
    return `its own certificate is not valid, and the next one is ${this.#problem}`;
  }

  /** Begins to read the Secret, and to keep an own certificate. */
  start(): void {
    this.secret.start();
    this.#lookLater();
  }

  /** From now on it is known what pods are; all has to be listed. False if it is closed before there is a certificate. */
  async whenUsable(observed: ObservedObjects): Promise<boolean> {
    this.#observed = observed;
    this.trustMaps.start(observed.services);
    if (this.#current !== undefined || this.#isClosed) return this.#current !== undefined;
    return await new Promise((resolve) => this.#onCurrent.push(resolve));
  }

  leads(isLeader: boolean): void {
    this.#isLeader = isLeader;
    this.secret.leads(isLeader);
    if (isLeader) this.trustMaps.changed();
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    this.#options.clock.clearTimer(this.#timer);
    for (const resolve of this.#onCurrent.splice(0)) resolve(false);
    await Promise.all([this.secret.close(), this.trustMaps.close(), this.#making]);
  }

  #changed(): void {
    this.trustMaps.changed();
    this.#told = new ToldOnce();
    this.#tellEnd();
    this.#making = this.#making.then(() => this.#make());
  }

  #lookLater(): void {
    const { clock, lookMs = lookMsDefault } = this.#options;
    this.#timer = clock.setTimer(() => {
      const { identity } = this.secret;
      if (identity !== undefined && this.#isDue(identity)) this.#making = this.#making.then(() => this.#make());
      this.#tellEnd();
      this.#lookLater();
    }, lookMs);
  }

  /** An authority that has ended signs nothing that is worth more than what there is. */
  #isDue({ authority }: Identity): boolean {
    const current = this.#current;
    if (current === undefined || current.authority !== authority) return true;
    const nowMs = this.#options.wallMs();
    // One that begins later was made by a clock that has been set back since.
    return nowMs < authority.notAfterMs && (nowMs >= current.renewAtMs || nowMs < current.notBeforeMs);
  }

  /** Lever's own CA is replaced long before that: it is somebody else's, or nobody leads. */
  #tellEnd(): void {
    const { clock, wallMs, namespace, secretName, onLog } = this.#options;
    const endsMs = this.secret.identity?.authority.notAfterMs ?? Number.POSITIVE_INFINITY;
    const leftMs = endsMs - wallMs();
    if (leftMs >= endsSoonMs) return;
    const text =
      `the CA of the Secret ${namespace}/${secretName} ${leftMs > 0 ? "ends" : "ended"} at ${new Date(endsMs).toISOString()}, ` +
      "and with it each certificate: then nobody can connect. A CA from elsewhere, such as cert-manager's, is for its maker to renew";
    const told = this.#told.textFor("end", "", text, clock.now());
    if (told !== undefined) onLog("warn", told);
  }

  /** Signs an own certificate if that is due, and tells of it and of the bundle. */
  async #make(): Promise<void> {
    const { wallMs, name, onLog } = this.#options;
    const { identity } = this.secret;
    if (identity === undefined || this.#isClosed) return;
    const { authority, bundle } = identity;
    try {
      const nowMs = wallMs();
      const current = this.#current;
      if (current === undefined || this.#isDue(identity)) {
        const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
        const spki = publicKey.export({ type: "spki", format: "der" });
        const p256 = { name: "ECDSA", namedCurve: "P-256" };
        const { chain, notAfterMs } = await issue(authority, {
          publicKey: await webcrypto.subtle.importKey("spki", spki, p256, true, ["verify"]),
          id: printSpiffeId({ kind: "operator", instance: name }),
          nowMs,
        });
        this.#current = {
          certificate: chain,
          key: privateKey.export({ type: "pkcs8", format: "pem" }).toString(),
          bundle,
          notBeforeMs: nowMs - clockSkewMs,
          notAfterMs,
          authority,
          renewAtMs: nowMs + (notAfterMs - nowMs) * renewAt,
        };
      } else {
        this.#current = { ...current, bundle };
      }
      for (const onChange of [...this.#subscribers]) onChange(this.#current);
      for (const resolve of this.#onCurrent.splice(0)) resolve(true);
    } catch (error) {
      this.#problem = `not made: ${error instanceof Error ? error.message : String(error)}`;
      onLog("warn", `the operator's own certificate is ${this.#problem}`);
    }
  }
}

function instanceOf({ pods, services }: ObservedObjects, namespace: string, name: string, uid: string) {
  const pod = pods.get(namespace, name);
  // Of the one that had the name before nothing follows.
  if (pod === undefined || pod.metadata.uid !== uid) return undefined;
  const service = pod.metadata.labels?.[serviceLabel];
  if (service === undefined || !isLeverPod(pod) || services.get(namespace, service) === undefined) return "other";
  return { service, uid };
}

/** Of `tls:10.1.2.3:4567` the address. */
function sourceOf(peerName: string): string {
  return peerName.replace(/^\w+:/, "").replace(/:\d+$/, "");
}
