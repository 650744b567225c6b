/**
 * How the content of the identity's Secret goes on: a function of the time and what is there.
 *
 * A CA that Lever has made lives a year. When a third of that is left, or at once when it is asked for, the next one is
 * made and **announced**: it is trusted, and signs nothing yet. After `announceMs` every certificate that is valid was
 * given out together with a bundle that has it, and every pod's bundle was refreshed: then it **signs**. After another
 * `retireMs` no certificate of the one before is valid, and that one is **retired**. So at no time does anybody meet a
 * certificate whose CA it does not know.
 *
 * Nothing here is written over that cannot be read or is somebody else's, of that only a missing `drain-key` is added,
 * unless somebody asks for all to be replaced. A Secret that was emptied while its content is held is filled with that.
 */

import type { AuthorityPem } from "./authority.ts";
import { authorityLifeMs, certificateLifeMs, hourMs } from "./lifetimes.ts";
import {
  bundleKey,
  certificateKey,
  drainKeyKey,
  nextCertificateKey,
  nextPrivateKeyKey,
  pemOf,
  privateKeyKey,
  rotationKey,
  rotationText,
  type SecretData,
  type SecretState,
} from "./secret-content.ts";

/** Kubelets refresh mounted bundles within about two minutes: this is ample. */
export const refreshMs = hourMs;
export const announceMs = certificateLifeMs + refreshMs;
export const retireMs = certificateLifeMs + refreshMs;
/** What is left of a CA when the next one is made. */
export const renewMs = authorityLifeMs / 3;

export type RotationStep =
  /** There was none, or the one there was has ended. */
  | "made"
  /** It was emptied, and has again what it had. */
  | "restored"
  | "announced"
  | "signs"
  | "retired"
  /** The CA is as it was. */
  | "drain key made";

export interface NextContent {
  readonly step: RotationStep;
  readonly data: SecretData;
  /** What was asked for by an annotation has begun: it is to be taken off. */
  readonly isRequestDone: boolean;
}

export interface RotationSources {
  authority(nowMs: number): Promise<AuthorityPem>;
  drainKey(): string;
}

export interface RotationInput {
  readonly nowMs: number;
  readonly data: SecretData;
  /** What `readSecret` makes of `data`. */
  readonly state: SecretState;
  /** What somebody asks for: the next CA, by rotation, or a new one at once in the place of whatever is there. */
  readonly request?: "rotate" | "replace" | undefined;
  /** What was in it when it was last usable. */
  readonly held?: SecretData | undefined;
}

/** Undefined: it stays as it is, until `nextStepAtMs` at the least unless it is changed by others. */
export async function nextContent(
  { nowMs, data, state, request, held }: RotationInput,
  sources: RotationSources,
): Promise<NextContent | undefined> {
  // Nothing of what was there is kept: who has seen one key has seen them all.
  if (request === "replace") return await made(nowMs, {}, sources);
  if (state.kind === "broken") return undefined;
  if (state.kind === "empty") {
    if (held === undefined) return await made(nowMs, data, sources);
    return { step: "restored", data: { ...data, ...held }, isRequestDone: false };
  }
  const { authority, bundle, rotation, next, drainKey } = state.identity;
  if (drainKey === undefined) {
    const content = { ...data, [drainKeyKey]: sources.drainKey() };
    return { step: "drain key made", data: content, isRequestDone: false };
  }
  if (rotation === undefined) return undefined;
  const { announcedAtMs, switchedAtMs } = rotation;
  if (next !== undefined && announcedAtMs !== undefined) {
    if (nowMs < switchAtMs(announcedAtMs, authority.notAfterMs)) return undefined;
    const { [nextCertificateKey]: certificate, [nextPrivateKeyKey]: key, ...rest } = data;
    const content = {
      ...rest,
      [certificateKey]: certificate as string,
      [privateKeyKey]: key as string,
      [rotationKey]: rotationText({ switchedAtMs: nowMs }, certificate as string),
    };
    return { step: "signs", data: content, isRequestDone: false };
  }
  if (nowMs >= authority.notAfterMs) return await made(nowMs, data, sources);
  if (switchedAtMs !== undefined) {
    if (nowMs < switchedAtMs + retireMs) return undefined;
    const own = bundle.filter(({ raw }) => raw.equals(Buffer.from(authority.certificate.rawData)));
    const content = {
      ...data,
      [bundleKey]: pemOf(own),
      [rotationKey]: rotationText({}, data[certificateKey] as string),
    };
    return { step: "retired", data: content, isRequestDone: false };
  }
  if (request !== "rotate" && nowMs < authority.notAfterMs - renewMs) return undefined;
  const announced = await sources.authority(nowMs);
  return {
    step: "announced",
    data: {
      ...data,
      [bundleKey]: pemOf(bundle) + announced.certificate,
      [nextCertificateKey]: announced.certificate,
      [nextPrivateKeyKey]: announced.key,
      [rotationKey]: rotationText({ announcedAtMs: nowMs }, data[certificateKey] as string),
    },
    isRequestDone: request === "rotate",
  };
}

/** When time alone makes the next step. Undefined: never; what is due already is in the past. */
export function nextStepAtMs(state: SecretState): number | undefined {
  if (state.kind !== "usable" || state.identity.rotation === undefined) return undefined;
  const { authority, rotation } = state.identity;
  const { announcedAtMs, switchedAtMs } = rotation;
  if (announcedAtMs !== undefined) return switchAtMs(announcedAtMs, authority.notAfterMs);
  if (switchedAtMs !== undefined) return Math.min(switchedAtMs + retireMs, authority.notAfterMs);
  return authority.notAfterMs - renewMs;
}

/** One that has ended signs nothing: then the next one is better early than late. */
function switchAtMs(announcedAtMs: number, notAfterMs: number): number {
  return Math.min(announcedAtMs + announceMs, notAfterMs - hourMs);
}

async function made(nowMs: number, data: SecretData, sources: RotationSources): Promise<NextContent> {
  const { certificate, key } = await sources.authority(nowMs);
  const { [nextCertificateKey]: _, [nextPrivateKeyKey]: __, ...rest } = data;
  return {
    step: "made",
    data: {
      ...rest,
      [certificateKey]: certificate,
      [privateKeyKey]: key,
      [bundleKey]: certificate,
      [drainKeyKey]: data[drainKeyKey]?.trim() || sources.drainKey(),
      [rotationKey]: rotationText({}, certificate),
    },
    isRequestDone: true,
  };
}
