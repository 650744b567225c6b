/**
 * The Secret of the operator's identity, as this replica knows it, and what is written into it.
 *
 * Every replica watches it and signs by it. Whoever finds it empty fills it; the leader alone goes on with its rotation.
 * Both write onto the very version that they have read: of two that fill it at once one has a conflict, and takes what the
 * other has made. What cannot be used is told (log, readiness, metric), and what was usable before stays in use; a Secret
 * that was emptied, as `helm upgrade --force` does, gets it back. What somebody asks to be replaced any replica replaces:
 * without a usable CA nobody leads.
 */

import { randomBytes } from "node:crypto";
import type { Clock, Random } from "@leveros/protocol/clock/clock.ts";
import type { KubeClient } from "../kube/kube-client.ts";
import { KubeError } from "../kube/kube-error.ts";
import { type KubeObject, resourceKind } from "../kube/kube-object.ts";
import { Reflector } from "../kube/reflector.ts";
import { type WorkDone, WorkQueue, type WorkResult } from "../kube/work-queue.ts";
import { type Authority, makeAuthority } from "./authority.ts";
import { hourMs } from "./lifetimes.ts";
import { nextContent, nextStepAtMs, type RotationStep } from "./rotation.ts";
import { readSecret, replaceAnnotation, rotateAnnotation, type SecretData, secretData } from "./secret-content.ts";

export const secrets = resourceKind("", "v1", "Secret", "secrets");
export const identitySecretDefault = "lever-identity";

export interface SecretObject extends KubeObject {
  readonly type?: string;
  readonly data?: Readonly<Record<string, string>> | null;
}

/** What this replica signs by and trusts. */
export interface Identity {
  readonly authority: Authority;
  /** PEM of all trusted CAs. */
  readonly bundle: string;
  readonly drainKey: string;
}

export interface IdentitySecretOptions {
  readonly client: KubeClient;
  readonly clock: Clock;
  readonly random: Random;
  /** Since 1970. */
  readonly wallMs: () => number;
  readonly namespace: string;
  readonly name: string;
  readonly onLog: (level: "info" | "warn", text: string) => void;
  /** It has changed; called before `whenUsable` resolves. */
  readonly onIdentity?: (identity: Identity) => void;
}

const steps: Readonly<Record<RotationStep, string>> = {
  made: "has a new CA, made by this replica",
  restored:
    "was emptied, and has again what this replica knew of it; to have a new CA, annotate it with " +
    `${replaceAnnotation}=now`,
  announced: "has the next CA, which is trusted from now on and will sign in about a day",
  signs: "the next CA signs; the one before stays trusted for about a day",
  retired: "the CA before the present one is not trusted any more",
  "drain key made": "has a new drain-key, made by this replica",
};

const key = "secret";

export class IdentitySecret {
  readonly reflector: Reflector<SecretObject>;
  readonly #options: IdentitySecretOptions;
  readonly #queue: WorkQueue;
  #identity: Identity | undefined;
  /** What was in it when it was last usable. */
  #held: SecretData | undefined;
  #problem = "not read yet";
  #isBroken = false;
  #isLeader = false;
  #readVersion: string | undefined;
  #toldProblem = "";
  #onUsable: ((isUsable: boolean) => void)[] = [];
  #isClosed = false;

  constructor(options: IdentitySecretOptions) {
    this.#options = options;
    const { client, clock, random, namespace, name, onLog } = options;
    this.reflector = new Reflector<SecretObject>({
      client,
      kind: secrets,
      namespace,
      fieldSelector: `metadata.name=${name}`,
      clock,
      random,
      onError: (error) => onLog("warn", `watching the Secret ${namespace}/${name}: ${messageOf(error)}`),
    });
    this.#queue = new WorkQueue({
      clock,
      random,
      work: () => this.#work(),
      retry: { minMs: 500, maxMs: 30_000 },
      onDone: (done) => this.#onDone(done),
    });
  }

  /** Undefined until it was usable once. */
  get identity(): Identity | undefined {
    return this.#identity;
  }

  /** What is there now cannot be used. */
  get isBroken(): boolean {
    return this.#isBroken;
  }

  /** Why nobody trusts what this replica signs, for people; undefined if that is trusted. */
  whyNotReady(): string | undefined {
    const { namespace, name, wallMs } = this.#options;
    if (this.#identity === undefined) return `no identity: the Secret ${namespace}/${name} ${this.#problem}`;
    const { notBeforeMs, notAfterMs } = this.#identity.authority;
    const nowMs = wallMs();
    if (nowMs >= notAfterMs) {
      const now = this.#isBroken ? `, and what is there now ${this.#problem}` : "";
      return `the CA of the Secret ${namespace}/${name} ended at ${timeText(notAfterMs)}${now}`;
    }
    if (nowMs < notBeforeMs) {
      return `the CA of the Secret ${namespace}/${name} begins at ${timeText(notBeforeMs)}, and here it is ${timeText(nowMs)}`;
    }
    return undefined;
  }

  start(): void {
    const { namespace, name } = this.#options;
    this.reflector.subscribe({
      onUpsert: () => this.#queue.add(key),
      onDelete: () => this.#queue.add(key),
    });
    this.reflector.start();
    void this.reflector.whenSynced().then(() => {
      if (this.reflector.get(namespace, name) === undefined) this.#queue.add(key);
    });
  }

  /** False if it is closed before. */
  whenUsable(): Promise<boolean> {
    if (this.#identity !== undefined || this.#isClosed) return Promise.resolve(this.#identity !== undefined);
    return new Promise((resolve) => this.#onUsable.push(resolve));
  }

  /** From now on this replica goes on with the rotation, or no longer. */
  leads(isLeader: boolean): void {
    this.#isLeader = isLeader;
    if (isLeader) this.#queue.add(key);
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    for (const resolve of this.#onUsable.splice(0)) resolve(false);
    await Promise.all([this.#queue.close("drop"), this.reflector.close()]);
  }

  async #work(): Promise<WorkResult> {
    const { namespace, name, wallMs, client, onLog } = this.#options;
    const object = this.reflector.get(namespace, name);
    if (object === undefined) {
      this.#setProblem("is missing: the chart makes it, or create it without data (kubectl create secret generic)");
      return;
    }
    const data = secretData(object.data);
    const {
      [rotateAnnotation]: rotate,
      [replaceAnnotation]: replace,
      ...annotations
    } = object.metadata.annotations ?? {};
    const request = replace !== undefined ? "replace" : rotate !== undefined ? "rotate" : undefined;
    const state = await readSecret(data);
    if (state.kind === "broken" && request !== "replace") {
      this.#setProblem(`cannot be used, and is left as it is: ${state.error.rawMessage}`);
      return;
    }
    if (state.kind === "usable" && state.identity.drainKey !== undefined) {
      this.#isBroken = false;
      this.#toldProblem = "";
      const { authority, bundlePem: bundle, drainKey } = state.identity;
      if (this.#readVersion !== object.metadata.resourceVersion) {
        this.#readVersion = object.metadata.resourceVersion;
        this.#held = data;
        this.#setIdentity({ authority, bundle, drainKey });
      }
      if (!this.#isLeader && request !== "replace") return;
    }
    const nowMs = wallMs();
    const sources = { authority: makeAuthority, drainKey: newDrainKey };
    const next = await nextContent({ nowMs, data, state, request, held: this.#held }, sources);
    if (next === undefined) {
      const atMs = nextStepAtMs(state);
      // A timer is not longer than that.
      return atMs === undefined ? undefined : { requeueAfterMs: Math.min(Math.max(atMs - nowMs, 1000), hourMs) };
    }
    const { metadata } = object;
    try {
      await client.replace<SecretObject>(secrets, {
        ...object,
        metadata: next.isRequestDone ? { ...metadata, annotations } : metadata,
        data: Object.fromEntries(
          Object.entries(next.data).map(([field, text]) => [field, Buffer.from(text).toString("base64")]),
        ),
      });
      onLog(next.step === "restored" ? "warn" : "info", `the Secret ${namespace}/${name}: ${steps[next.step]}`);
    } catch (error) {
      // Another replica was first; what it has written comes by the watch.
      if (!KubeError.is(error) || !error.isConflict) throw error;
    }
  }

  #setIdentity(identity: Identity): void {
    this.#identity = identity;
    this.#options.onIdentity?.(identity);
    for (const resolve of this.#onUsable.splice(0)) resolve(true);
  }

  #setProblem(problem: string): void {
    this.#problem = problem;
    this.#isBroken = true;
    if (this.#toldProblem === problem) return;
    this.#toldProblem = problem;
    const { namespace, name, onLog } = this.#options;
    onLog("warn", `the Secret ${namespace}/${name} ${problem}`);
  }

  #onDone({ failures, error }: WorkDone): void {
    if (!Number.isInteger(Math.log2(failures)) || this.#isClosed) return;
    const { namespace, name, onLog } = this.#options;
    this.#problem = `could not be written: ${messageOf(error)}`;
    onLog("warn", `writing the Secret ${namespace}/${name} (failed ${failures} in a row): ${messageOf(error)}`);
  }
}

function timeText(ms: number): string {
  return new Date(ms).toISOString();
}

function newDrainKey(): string {
  return randomBytes(32).toString("base64url");
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
