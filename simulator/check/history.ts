/**
 * What is seen to happen in a world: by the apps' own code, by their callers, on the wire, and of processes. Times are
 * true ones, of the moment as the one who reports saw it. Whoever judges knows nothing else.
 *
 * A *run* is one start of a method. A *tenure* is the time in which one process runs a resource under one epoch.
 */

import type { Effect } from "@leveros/protocol/error/catalogue.ts";

/** A process of an app, called `<machine>/…`; never used again. */
export type AppName = string;

export interface RunStart {
  readonly atMs: number;
  readonly run: number;
  /** The same for all attempts of a call. */
  readonly call: string;
  readonly resource: string;
  readonly app: AppName;
  readonly epoch: number;
  readonly object: number;
  readonly token: string | undefined;
  /** The run that made the call, if a method did. */
  readonly parent: number | undefined;
  /** It knows that it is to stop, and does not. */
  readonly isStubborn: boolean;
}

export interface ResourceOpen {
  readonly atMs: number;
  readonly resource: string;
  readonly app: AppName;
  readonly epoch: number;
  /** Different for each object that is made of a resource. */
  readonly object: number;
  readonly memory: "fresh" | "lost" | "state";
  /** With `state`: the object that handed it over. */
  readonly from: number | undefined;
  /** The last run whose effect is in the state; 0 if none. */
  readonly lastRun: number;
}

export interface ResourceClose {
  readonly atMs: number;
  readonly resource: string;
  readonly app: AppName;
  readonly epoch: number;
  readonly object: number;
  /** Its state was asked for, for the next holder. */
  readonly isHandedOver: boolean;
}

export interface CallMade {
  readonly atMs: number;
  readonly call: string;
  readonly resource: string;
  readonly timeoutMs: number;
  readonly caller: AppName;
  readonly token: string | undefined;
}

/** A channel that is opened again by itself got a message. */
export interface FollowedItem {
  readonly atMs: number;
  readonly channel: string;
  readonly sequence: number;
  /** Its user was told that messages may be missing before this one. */
  readonly isDiscontinuous: boolean;
}

export interface CallError {
  readonly reason: string;
  readonly effect: Effect;
  readonly text: string;
}

export interface CallAnswer {
  readonly atMs: number;
  readonly call: string;
  /** Undefined for a result. */
  readonly error: CallError | undefined;
  /** The run that the result says it is of. */
  readonly run: number | undefined;
}

/** The two ends of a channel: who opened it, and the method. */
export type ChannelSide = "caller" | "method";

export interface ChannelOpen {
  readonly atMs: number;
  readonly channel: string;
  readonly side: ChannelSide;
  readonly app: AppName;
  /** Of the method, where it is known. */
  readonly run: number | undefined;
}

export interface ChannelItem {
  readonly atMs: number;
  readonly channel: string;
  /** Who got it. */
  readonly side: ChannelSide;
  /** Its number in its direction, from 0. */
  readonly sequence: number;
  /** Of the method that sent it, where the caller got it. */
  readonly run: number | undefined;
}

export interface ChannelClose {
  readonly atMs: number;
  readonly channel: string;
  readonly side: ChannelSide;
  readonly error: string | undefined;
}

/** Everything of the above, as it happens. */
export interface Observer {
  opened(event: ResourceOpen): void;
  closed(event: ResourceClose): void;
  started(event: RunStart): void;
  /** The method was told to stop. */
  aborted(run: number, atMs: number): void;
  ended(run: number, atMs: number): void;
  /** Something that the run produced left a machine, perhaps another one than its own. */
  wentOut(run: number, machine: string, atMs: number): void;
  called(event: CallMade): void;
  answered(event: CallAnswer): void;
  channelOpened(event: ChannelOpen): void;
  channelGot(event: ChannelItem): void;
  followed(event: FollowedItem): void;
  channelClosed(event: ChannelClose): void;
  /** The store with fencing has refused a claim. */
  claimRefused(resource: string, app: AppName, epoch: number, storedEpoch: number, atMs: number): void;
  /** All was well again, and it failed nevertheless. */
  failedWhenWell(what: string, error: CallError, atMs: number): void;
  /** The process did nothing from one time to the other. */
  stopped(app: AppName, fromMs: number, toMs: number): void;
  died(app: AppName, atMs: number): void;
  /** The service was deleted and is made anew: its resources begin anew too. */
  madeAnew(): void;
  /** What apps and agents of the machine say to each other is under way for long, now or later. */
  slowedWithin(machine: string): void;
}
