/** A slot under one epoch, with the resources in it. */

import type { AbsentMemory } from "@leveros/protocol/control/ownership.ts";
import type { Invocation } from "@leveros/protocol/invocation/invocation-server.ts";
import type { TokenMemory } from "@leveros/protocol/invocation/token-memory.ts";
import type { Form } from "@leveros/protocol/value/form.ts";
import type { SlotFacts } from "../context.ts";
import type { SlotGate } from "./lease.ts";

/** What a resource left to its next object. */
export interface LeftState {
  readonly form: Form;
  readonly bytes: Uint8Array;
}

/**
 * One resource's object. There may be a hundred thousand that nobody calls: no timer, promise or closure for each.
 */
export class ResourceObject {
  /** Undefined until it is made. */
  instance: object | undefined = undefined;
  /** Calls that have it, and have not returned. */
  users = 0;
  lastUsedMs = 0;
  /** It is being opened or closed: settles when that is over. Rejects if it could not be opened. */
  change: Promise<void> | undefined = undefined;
}

/**
 * `open`: takes calls. `draining`: closes once no call is left. `closing`: its resources are being closed, no call is
 * taken. `lost`: its methods are aborted and not heard; what it had may be handed over within the process.
 */
export type SlotPhase = "open" | "draining" | "closing" | "lost";

export class Slot implements SlotFacts {
  readonly number: number;
  /** 0: nobody knows who holds it, and the service serves nevertheless. */
  epoch: number;
  phase: SlotPhase = "open";
  gate: SlotGate | undefined;
  absent: AbsentMemory;
  readonly tokens: TokenMemory;
  readonly objects = new Map<string, ResourceObject>();
  /** Handed over, and not taken by an object yet. */
  readonly states = new Map<string, LeftState>();
  /** Objects of an earlier epoch that are still being closed; each resolves when it is, its state being in `states`. */
  readonly inherited = new Map<string, Promise<void>>();
  /** Calls that were admitted and are not answered yet. */
  readonly calls = new Set<Invocation>();
  /** Methods that have not returned. */
  running = 0;
  /** Whoever waits for the methods of one object to return. */
  readonly whenUnused = new Map<ResourceObject, () => void>();
  /** Of phase `lost`: since when. */
  lostAtMs = 0;
  #draining: AbortController | undefined;
  #drainingWith: unknown;

  constructor(
    number: number,
    epoch: number,
    options: { readonly gate: SlotGate | undefined; readonly absent: AbsentMemory; readonly tokens: TokenMemory },
  ) {
    this.number = number;
    this.epoch = epoch;
    this.gate = options.gate;
    this.absent = options.absent;
    this.tokens = options.tokens;
  }

  get takesCalls(): boolean {
    return this.phase === "open" || this.phase === "draining";
  }

  get draining(): AbortSignal {
    let controller = this.#draining;
    if (controller === undefined) {
      controller = new AbortController();
      this.#draining = controller;
      if (this.#drainingWith !== undefined) controller.abort(this.#drainingWith);
    }
    return controller.signal;
  }

  /** Tells methods that they should come to an end; undefined: those that begin from now on need not. */
  set drainingWith(reason: unknown) {
    if (reason === undefined) this.#draining = undefined;
    else this.#draining?.abort(reason);
    this.#drainingWith = reason;
  }
}
