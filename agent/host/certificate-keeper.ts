/**
 * The certificate of an agent or a gateway: got from the operator against the pod's token, renewed in good time, and the
 * bundle of trusted CAs, read anew from its file.
 *
 * Invariants: the private key is made here, anew for each certificate, and never leaves the process; what is there is
 * used until there is something better, whatever fails; a failed try is repeated with back-off for as long as it takes.
 * Whether a certificate is valid goes by the wall clock, which may be set; pauses go by the monotonic one.
 */

import { X509Certificate as Certificate, generateKeyPairSync } from "node:crypto";
import { readFile } from "node:fs/promises";
import type { Random } from "@leveros/protocol/clock/clock.ts";
import { runtimeClock } from "@leveros/protocol/clock/runtime-clock.ts";
import {
  type CertificateAnswer,
  decodeCertificateAnswer,
  issueCertificateMethod,
  tokenCharsMax,
} from "@leveros/protocol/control/certificate-request.ts";
import { operatorEnvironment, operatorService } from "@leveros/protocol/control/discovery.ts";
import { DeadlineWheel } from "@leveros/protocol/deadline/deadline-wheel.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { AssemblyBudget } from "@leveros/protocol/invocation/assembly.ts";
import { startCall } from "@leveros/protocol/invocation/outgoing-call.ts";
import type { CallerRuntime } from "@leveros/protocol/invocation/outgoing-stream.ts";
import type { Session } from "@leveros/protocol/session/session.ts";
import { Target } from "@leveros/protocol/target/target.ts";
import { decodeValue } from "@leveros/protocol/value/decode.ts";
import { encodeArgs } from "@leveros/protocol/value/form.ts";
import { isSignedBy, pemBlocks } from "./pem.ts";
import { signingRequest } from "./signing-request.ts";
import type { CredentialSource, Credentials } from "./tls.ts";

/** Of a certificate's life, when the next one is asked for; give or take `renewJitter`. */
const renewAt = 2 / 3;
const renewJitter = 0.05;
/** How often files are looked at, and whether something is due. */
const lookMsDefault = 5000;
const backoffMinMs = 250;
const backoffMaxMs = 30_000;
const callTimeoutMs = 10_000;
/** Bundles and tokens are small; whatever else has their names is not read to its end. */
const fileCharsMax = 256 * 1024;

export interface CertificateKeeperOptions {
  /** Both are refreshed by the kubelet. */
  readonly tokenFile: string;
  readonly trustFile: string;
  /** A session with any replica of the operator, which is proven to be one by the bundle; of this end nothing is. */
  readonly dial: (bundle: string) => Promise<Session>;
  readonly onLog?: ((level: "info" | "warn", text: string) => void) | undefined;
  readonly random?: Random;
  /** Since 1970. */
  readonly wallMs?: () => number;
  /** Monotonic, ms. */
  readonly now?: () => number;
  /** How often files are looked at, 5 s unless set. */
  readonly lookMs?: number | undefined;
}

interface Issued {
  readonly answer: CertificateAnswer;
  readonly notBeforeMs: number;
  readonly key: string;
}

export class CertificateKeeper implements CredentialSource {
  readonly #options: CertificateKeeperOptions;
  readonly #wallMs: () => number;
  readonly #now: () => number;
  readonly #random: Random;
  readonly #subscribers = new Set<(credentials: Credentials) => void>();
  readonly #runtime: CallerRuntime;
  #current: Credentials | undefined;
  #issued: Issued | undefined;
  /** What the file has, or had when it could last be read. */
  #fileBundle: string | undefined;
  /** The operator's word on whom to trust, until the file says something new. */
  #answeredBundle: string | undefined;
  /** By the wall clock. */
  #renewAtMs = 0;
  #failures = 0;
  /** By the monotonic clock. */
  #nextTryAtMs = 0;
  #problem = "not asked for yet";
  #told = "";
  #timer: NodeJS.Timeout | undefined;
  #isClosed = false;

  constructor(options: CertificateKeeperOptions) {
    this.#options = options;
    this.#wallMs = options.wallMs ?? Date.now;
    this.#now = options.now ?? (() => performance.now());
    this.#random = options.random ?? Math.random;
    const clock = runtimeClock(globalThis);
    const budget = new AssemblyBudget(1024 * 1024);
    this.#runtime = { wheel: new DeadlineWheel(clock), budget, now: () => clock.now() };
  }

  get current(): Credentials | undefined {
    return this.#current;
  }

  /** Why this end cannot prove who it is, for people; undefined if it can. */
  whyNotReady(): string | undefined {
    if (this.#issued === undefined || this.#current === undefined) return `no certificate yet: ${this.#problem}`;
    const invalid = this.#whyInvalid(this.#issued);
    return invalid && `${invalid}: ${this.#problem}`;
  }

  subscribe(onChange: (credentials: Credentials) => void): () => void {
    this.#subscribers.add(onChange);
    return () => this.#subscribers.delete(onChange);
  }

  /** As soon as there are credentials; rejects with why there are none after `timeoutMs`. */
  whenCurrent(timeoutMs: number): Promise<Credentials> {
    const { current } = this;
    if (current !== undefined) return Promise.resolve(current);
    return new Promise((resolve, reject) => {
      const done = this.subscribe((credentials) => {
        clearTimeout(timer);
        done();
        resolve(credentials);
      });
      const timer = setTimeout(() => {
        done();
        reject(new LeverError("INVALID_IDENTITY", this.whyNotReady() ?? "no certificate", { effect: "none" }));
      }, timeoutMs);
      timer.unref();
    });
  }

  start(): void {
    void this.#tick();
  }

  close(): void {
    this.#isClosed = true;
    clearTimeout(this.#timer);
  }

  async #tick(): Promise<void> {
    try {
      await this.#readBundle();
      if (this.#fileBundle !== undefined && this.#dueInMs <= 0) await this.#renew(this.#fileBundle);
    } catch (error) {
      this.#failed(error);
    }
    if (this.#isClosed) return;
    const { lookMs = lookMsDefault } = this.#options;
    // No timer until the renewal itself: it would be late when the machine has slept.
    const waitMs = Math.min(Math.max(this.#dueInMs, 1), lookMs);
    this.#timer = setTimeout(() => void this.#tick(), waitMs);
  }

  /** Until a certificate is to be asked for, by the clocks as they are; 0 or less: now. */
  get #dueInMs(): number {
    const pauseMs = this.#nextTryAtMs - this.#now();
    const wallMs = this.#wallMs();
    // One that begins later was made by a clock that has been set back since.
    if (this.#issued === undefined || wallMs < this.#issued.notBeforeMs) return pauseMs;
    return Math.max(pauseMs, this.#renewAtMs - wallMs);
  }

  /** By this machine's clock; undefined: it is valid. */
  #whyInvalid({ answer: { notAfterMs }, notBeforeMs }: Issued): string | undefined {
    const wallMs = this.#wallMs();
    if (wallMs < notBeforeMs)
      return `the certificate begins at ${timeText(notBeforeMs)}, and here it is ${timeText(wallMs)}`;
    if (wallMs >= notAfterMs) return `the certificate ended at ${timeText(notAfterMs)}`;
    return undefined;
  }

  #failed(error: unknown): void {
    if (this.#isClosed) return;
    const message = LeverError.is(error) ? error.rawMessage : error instanceof Error ? error.message : String(error);
    this.#problem = message;
    this.#failures++;
    const ceilingMs = Math.min(backoffMaxMs, backoffMinMs * 2 ** Math.min(this.#failures - 1, 20));
    this.#nextTryAtMs = this.#now() + ceilingMs * (0.5 + this.#random() / 2);
    if (this.#told === message) return;
    this.#told = message;
    this.#options.onLog?.("warn", `no certificate from the operator: ${message}`);
  }

  // ---------------------------------------------------------------- whom to trust

  async #readBundle(): Promise<void> {
    const { trustFile, onLog } = this.#options;
    let bundle: string;
    try {
      bundle = await readSmall(trustFile);
      checkBundle(bundle);
    } catch (error) {
      const message = `the trust bundle ${trustFile}: ${error instanceof Error ? error.message : String(error)}`;
      if (this.#fileBundle === undefined) throw new LeverError("INVALID_IDENTITY", message);
      // What was read before stands.
      if (this.#told !== message) onLog?.("warn", message);
      this.#told = message;
      return;
    }
    if (bundle === this.#fileBundle) return;
    if (this.#fileBundle !== undefined) onLog?.("info", "the bundle of trusted CAs has changed");
    this.#fileBundle = bundle;
    this.#answeredBundle = undefined;
    // The CA was replaced without a rotation: nobody trusts what this end shows.
    if (this.#issued !== undefined && !leadsTo(this.#issued.answer.certificate, bundle)) this.#renewAtMs = 0;
    this.#publish();
  }

  // ---------------------------------------------------------------- the certificate

  async #renew(bundle: string): Promise<void> {
    const { tokenFile, dial, onLog } = this.#options;
    const token = (
      await readSmall(tokenFile).catch((error: Error) => {
        throw new LeverError("INVALID_IDENTITY", `the token ${tokenFile}: ${error.message}`);
      })
    ).trim();
    if (token === "" || token.length > tokenCharsMax) {
      throw new LeverError("INVALID_IDENTITY", `the token ${tokenFile} has ${token.length} characters`);
    }
    const keys = generateKeyPairSync("ec", { namedCurve: "P-256" });
    const request = signingRequest(keys).toString("base64");
    const session = await dial(bundle);
    let answer: CertificateAnswer;
    try {
      const target = new Target(operatorEnvironment, operatorService, issueCertificateMethod);
      const result = await startCall(this.#runtime, session, target, encodeArgs([{ token, request }]), {
        timeoutMs: callTimeoutMs,
        fields: new Uint8Array(0),
      });
      answer = decodeCertificateAnswer(decodeValue(result.bytes));
    } finally {
      session.close(new LeverError("CANCELLED", "the certificate was asked for", { effect: "none" }));
    }
    if (this.#isClosed) return;
    const certificate = new Certificate(answer.certificate);
    if (!certificate.checkPrivateKey(keys.privateKey)) {
      throw new LeverError("PROTOCOL_VIOLATION", "the operator has sent a certificate for another key");
    }
    checkBundle(answer.bundle);
    const nowMs = this.#wallMs();
    const isFirst = this.#issued === undefined;
    const notBeforeMs = certificate.validFromDate.getTime();
    this.#issued = { answer, notBeforeMs, key: keys.privateKey.export({ type: "pkcs8", format: "pem" }).toString() };
    this.#answeredBundle = answer.bundle;
    this.#renewAtMs = nowMs + (answer.notAfterMs - nowMs) * (renewAt + renewJitter * (2 * this.#random() - 1));
    this.#publish();
    // One that is not valid here is asked for anew, and not at once.
    if (this.#whyInvalid(this.#issued) !== undefined) {
      throw new LeverError("INVALID_IDENTITY", "the clocks of this node and of the operator's differ: set them");
    }
    this.#failures = 0;
    this.#nextTryAtMs = 0;
    this.#told = "";
    this.#problem = "the next one is asked for";
    const ends = timeText(answer.notAfterMs);
    onLog?.("info", `${isFirst ? "has its certificate" : "has renewed its certificate"}, which ends at ${ends}`);
  }

  #publish(): void {
    if (this.#issued === undefined || this.#fileBundle === undefined) return;
    const { answer, key } = this.#issued;
    const { certificate, notAfterMs } = answer;
    const bundle = joinBundles(this.#fileBundle, this.#answeredBundle ?? "");
    const credentials = { certificate, key, bundle, notAfterMs };
    this.#current = credentials;
    for (const onChange of [...this.#subscribers]) onChange(credentials);
  }
}

function timeText(ms: number): string {
  return new Date(ms).toISOString();
}

/** Each certificate once. */
function joinBundles(...bundles: readonly string[]): string {
  const known = new Map<string, string>();
  for (const block of pemBlocks(bundles.join("\n"))) {
    known.set(new Certificate(block).fingerprint256, block);
  }
  return `${[...known.values()].join("\n")}\n`;
}

function checkBundle(text: string): void {
  const blocks = pemBlocks(text);
  if (blocks.length === 0) throw new LeverError("INVALID_IDENTITY", "it has no certificate in PEM");
  for (const block of blocks) new Certificate(block);
}

/** Whether a certificate of the chain is signed by one of the bundle. */
function leadsTo(chain: string, bundle: string): boolean {
  const roots = pemBlocks(bundle).map((pem) => new Certificate(pem));
  return pemBlocks(chain).some((pem) => {
    const link = new Certificate(pem);
    return roots.some((root) => isSignedBy(link, root));
  });
}

async function readSmall(file: string): Promise<string> {
  const text = await readFile(file, "utf8");
  if (text.length > fileCharsMax) throw new LeverError("INVALID_IDENTITY", `it has over ${fileCharsMax} characters`);
  return text;
}
