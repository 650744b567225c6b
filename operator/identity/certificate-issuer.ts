/**
 * Certificates for agents and gateways: who asks is proven by a service account token, and what it gets is for its own
 * pod alone.
 *
 * The API server says whether the token is one of its own, for the operator, and which pod it is bound to (TokenReview);
 * what is observed says what that pod is: an instance of a service of its namespace, or a gateway. The request proves that
 * who asks has the key. Tokens and requests are never logged.
 */

import "reflect-metadata";
import type { webcrypto } from "node:crypto";
import { ToldOnce } from "@leveros/agent/host/told-once.ts";
import type { Clock } from "@leveros/protocol/clock/clock.ts";
import { type CertificateAnswer, decodeCertificateRequest } from "@leveros/protocol/control/certificate-request.ts";
import { printSpiffeId, type SpiffeId } from "@leveros/protocol/control/spiffe-id.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { Pkcs10CertificateRequest } from "@peculiar/x509";
import type { KubeClient } from "../kube/kube-client.ts";
import { KubeError } from "../kube/kube-error.ts";
import type { KubeObject } from "../kube/kube-object.ts";
import { TokenBucket, type TokenBucketLimits } from "../kube/token-bucket.ts";
import { TokenBuckets } from "../kube/token-buckets.ts";
import { issue } from "./authority.ts";
import type { Identity } from "./identity-secret.ts";
import { addressRate, podRate, reviewRate, reviewsAtOnceMax } from "./issue-limits.ts";

const tokenReviews = {
  group: "authentication.k8s.io",
  version: "v1",
  kind: "TokenReview",
  plural: "tokenreviews",
  isNamespaced: false,
};

interface TokenReview extends KubeObject {
  readonly spec: { readonly token: string; readonly audiences: readonly string[] };
  readonly status?: {
    readonly authenticated?: boolean;
    readonly audiences?: readonly string[];
    readonly error?: string;
    readonly user?: {
      readonly username?: string;
      readonly extra?: Readonly<Record<string, readonly string[]>>;
    };
  };
}

/** A pod that is known to be an instance. */
export interface KnownInstance {
  readonly service: string;
  readonly uid: string;
}

export interface IssuerOptions {
  readonly client: Pick<KubeClient, "create">;
  readonly clock: Clock;
  /** Since 1970. */
  readonly wallMs: () => number;
  readonly identity: () => Identity | undefined;
  /** Whom tokens have to be for. */
  readonly audience: string;
  /** `<namespace>:<name>` of the service account whose pods are gateways. */
  readonly gatewayAccount: string;
  /** The pod as it is observed now: what it is an instance of; `other` if it is none, undefined if it is not known (yet). */
  readonly instanceOf: (namespace: string, pod: string, uid: string) => KnownInstance | "other" | undefined;
  /** What the API server says of the same pod now, asked when it is not observed: whether it can be an instance. */
  readonly mayBeInstance: (namespace: string, pod: string, uid: string) => Promise<boolean>;
  /** How long a pod that is not observed yet is waited for, 3 s unless set. */
  readonly observeMs?: number;
  readonly onLog?: (level: "info" | "warn", text: string) => void;
}

/** Why nothing was issued. */
export const issueRefusals = ["request", "token", "audience", "pod", "unknown-pod", "rate", "unavailable"] as const;
export type IssueRefusal = (typeof issueRefusals)[number];

/** Pods, and addresses, whose rates are kept. */
const ratesMax = 20_000;
const lookAgainMs = 100;
const podNameKey = "authentication.kubernetes.io/pod-name";
const podUidKey = "authentication.kubernetes.io/pod-uid";

export class CertificateIssuer {
  /** By kind; and what was not issued, by why. */
  readonly issued = { instance: 0, gateway: 0 };
  readonly refused: Record<IssueRefusal, number>;
  readonly #options: IssuerOptions;
  readonly #reviewRate: TokenBucket;
  #reviews = 0;
  readonly #addressRates = new TokenBuckets(addressRate, ratesMax);
  /** By the pod's uid. */
  readonly #podRates = new TokenBuckets(podRate, ratesMax);
  readonly #told = new ToldOnce();

  constructor(options: IssuerOptions) {
    this.#options = options;
    this.refused = Object.fromEntries(issueRefusals.map((reason) => [reason, 0])) as Record<IssueRefusal, number>;
    this.#reviewRate = new TokenBucket(reviewRate, options.clock.now());
  }

  /**
   * `issueCertificate`, asked for from the address `source`. Rejects, always with effect none: UNAUTHENTICATED, IDENTITY_DENIED, INVALID_ARGUMENTS, OVERLOADED,
   * or IDENTITY_UNAVAILABLE, which is worth another try.
   */
  async issue(args: readonly unknown[], source: string): Promise<CertificateAnswer> {
    // First of all: to look at what it sends is work too, and whoever reaches the port may send it.
    this.#limitAddress(source);
    const { token, request } = decodeCertificateRequest(args);
    const publicKey = await this.#keyOf(request, source);
    const pod = await this.#review(token, source);
    const id = await this.#idOf(pod);
    this.#limitPod(pod);
    const { identity, wallMs } = this.#options;
    const known = identity();
    if (known === undefined) throw this.#refuse("unavailable", "", "the operator has no CA");
    const nowMs = wallMs();
    if (known.authority.notAfterMs <= nowMs) throw this.#refuse("unavailable", "", "the operator's CA has ended");
    const { chain, notAfterMs } = await issue(known.authority, { publicKey, id: printSpiffeId(id), nowMs });
    this.issued[id.kind === "gateway" ? "gateway" : "instance"]++;
    return { certificate: chain, bundle: known.bundle, notAfterMs };
  }

  // ---------------------------------------------------------------- the request

  async #keyOf(request: string, source: string): Promise<webcrypto.CryptoKey> {
    let parsed: Pkcs10CertificateRequest;
    try {
      parsed = new Pkcs10CertificateRequest(Buffer.from(request, "base64"));
      const { algorithm } = parsed.publicKey;
      const { namedCurve } = algorithm as { namedCurve?: string };
      if (algorithm.name !== "ECDSA" || namedCurve !== "P-256") {
        throw new Error(`its key is ${algorithm.name} ${namedCurve ?? ""}, expected ECDSA P-256`);
      }
      if (!(await parsed.verify())) throw new Error("its signature is not of its key");
      return (await parsed.publicKey.export()) as webcrypto.CryptoKey;
    } catch (error) {
      throw this.#refuse("request", source, `the signing request is invalid: ${textOf(error)}`);
    }
  }

  // ---------------------------------------------------------------- the token

  async #review(token: string, source: string): Promise<ReviewedPod> {
    const { client, clock, audience } = this.#options;
    if (this.#reviews >= reviewsAtOnceMax) {
      const text = `${reviewsAtOnceMax} tokens are under review at this replica, the most at once; ask again soon`;
      throw this.#refuse("rate", source, text);
    }
    if (!this.#reviewRate.take(clock.now())) {
      throw this.#refuse("rate", source, `this replica is asked for certificates too often${askLater(reviewRate)}`);
    }
    let status: TokenReview["status"];
    this.#reviews++;
    try {
      const spec = { token, audiences: [audience] };
      ({ status } = await client.create<TokenReview>(tokenReviews, { metadata: { name: "" }, spec }));
    } catch (error) {
      const why = KubeError.is(error) ? error.reason : "failed";
      throw this.#refuse("unavailable", "", `the API server could not review the token: ${why}`);
    } finally {
      this.#reviews--;
    }
    const { username = "", extra = {} } = status?.user ?? {};
    const [, , namespace = "", account = "", ...rest] = username.split(":");
    // An API server that says nothing of audiences has not looked at them.
    if (status?.authenticated !== true) {
      // What it found wrong is for who runs the operator; who has no token learns nothing.
      throw this.#refuse("token", source, "the token is not valid for this cluster and this operator", status?.error);
    }
    if (status.audiences?.includes(audience) !== true) {
      throw this.#refuse("audience", username, `the token is not for ${audience}`);
    }
    const [pod, uid] = [podNameKey, podUidKey].map((key) => extra[key]?.[0] ?? "");
    const isAccount = username.startsWith("system:serviceaccount:") && namespace !== "" && account !== "";
    if (!isAccount || rest.length > 0 || !pod || !uid) {
      throw this.#refuse("pod", username, "the token is not of a service account, or not bound to a pod");
    }
    return { namespace, account, pod, uid };
  }

  // ---------------------------------------------------------------- the pod

  async #idOf({ namespace, account, pod, uid }: ReviewedPod): Promise<SpiffeId> {
    const { gatewayAccount, instanceOf, mayBeInstance, clock, observeMs = 3000 } = this.#options;
    const who = `pod ${namespace}/${pod}`;
    if (`${namespace}:${account}` === gatewayAccount) return { kind: "gateway", instance: pod, uid };
    // The agent may have been started before its pod came by the watch.
    const untilMs = clock.now() + observeMs;
    let known = instanceOf(namespace, pod, uid);
    if (known === undefined) {
      const mayBe = await mayBeInstance(namespace, pod, uid).catch((error: unknown) => {
        throw this.#refuse("unavailable", who, `${who} could not be looked up: ${textOf(error)}`);
      });
      if (!mayBe) known = "other";
    }
    while (known === undefined && clock.now() < untilMs) {
      await new Promise<void>((resolve) => clock.setTimer(resolve, lookAgainMs));
      known = instanceOf(namespace, pod, uid);
    }
    if (known === undefined) throw this.#refuse("unknown-pod", who, `${who} is not known to the operator (yet)`);
    if (known === "other" || known.uid !== uid) {
      throw this.#refuse("pod", who, `${who} is no instance of a LeverService of its namespace, and no gateway`);
    }
    return { kind: "instance", environment: namespace, service: known.service, instance: pod, uid };
  }

  #limitPod({ namespace, pod, uid }: ReviewedPod): void {
    if (this.#podRates.take(uid, this.#options.clock.now())) return;
    const who = `pod ${namespace}/${pod}`;
    throw this.#refuse("rate", who, `${who} asks for certificates too often${askLater(podRate)}`);
  }

  #limitAddress(source: string): void {
    if (this.#addressRates.take(source, this.#options.clock.now())) return;
    const text = `certificates are asked for from ${source} too often${askLater(addressRate)}`;
    throw this.#refuse("rate", source, text);
  }

  // ---------------------------------------------------------------- refusals

  /** `who` may be empty: not known. `further` is for the log alone. */
  #refuse(reason: IssueRefusal, who: string, message: string, further = ""): LeverError {
    this.refused[reason]++;
    const more = further === "" ? "" : ` (${further.slice(0, 300)})`;
    const text = `no certificate${who === "" ? "" : ` for ${who}`}: ${message}${more}`;
    const told = this.#told.textFor(reason, who, text, this.#options.clock.now());
    if (told !== undefined) this.#options.onLog?.("warn", told);
    return new LeverError(reasons[reason], message, { effect: "none" });
  }
}

interface ReviewedPod {
  readonly namespace: string;
  readonly account: string;
  readonly pod: string;
  readonly uid: string;
}

const reasons = {
  request: "INVALID_ARGUMENTS",
  token: "UNAUTHENTICATED",
  audience: "UNAUTHENTICATED",
  pod: "IDENTITY_DENIED",
  "unknown-pod": "IDENTITY_UNAVAILABLE",
  rate: "OVERLOADED",
  unavailable: "IDENTITY_UNAVAILABLE",
} as const satisfies Record<IssueRefusal, string>;

function askLater({ burst, ratePerSecond }: TokenBucketLimits): string {
  const then = ratePerSecond < 1 ? `one in ${1 / ratePerSecond} s` : `${ratePerSecond} a second`;
  return `: at most ${burst}, then ${then}; ask again later`;
}

function textOf(error: unknown): string {
  return error instanceof Error ? error.message.slice(0, 200) : "unknown";
}
