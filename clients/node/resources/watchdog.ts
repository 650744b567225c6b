/**
 * `onLapse: Kill`: ends the process when methods of resources still run so late that the next holder may begin soon.
 *
 * It is a thread, which an endless loop in a method does not stop, with readings of its own of the clocks that do not
 * stand still. Both threads share a few numbers. Methods that run under the present lease count with its end, which
 * renewals move; those of a lease that has lapsed count with that one's.
 */

import { uptime } from "node:os";
import { Worker } from "node:worker_threads";
import type { LeaseTerm } from "./lease.ts";

/** Indexes of the shared 64-bit floats: for each of the two leases what its readings were, and when to kill. */
const Field = { Monotonic: 0, Boot: 1, Wall: 2, KillMs: 3 } as const;
const fieldsOfLease = 4;
/** Indexes of the shared integers: running methods of each lease, and a count of changes that is odd within one. */
const runningAt = 0;
const changesAt = 2;

/** A script and no module: it has to run from a bundle too, and knows nothing of this file. */
const script = `
const { workerData: { floats, integers, instance } } = require("node:worker_threads");
const { uptime } = require("node:os");
const { writeSync } = require("node:fs");
const isOver = (lease) => {
  if (Atomics.load(integers, lease) <= 0) return false;
  const before = Atomics.load(integers, 2);
  const at = lease * 4;
  const [monotonic, boot, wall, killMs] = floats.slice(at, at + 4);
  if (before % 2 === 1 || Atomics.load(integers, 2) !== before) return false;
  const passedMs = Math.max(
    Number(process.hrtime.bigint()) / 1e6 - monotonic,
    uptime() * 1000 - boot,
    Date.now() - wall,
  );
  return passedMs >= killMs;
};
for (;;) {
  Atomics.wait(integers, 3, 0, 50);
  if (!isOver(0) && !isOver(1)) continue;
  // An answer may be on its way to a process that was stopped just as long; it is too late then all the same.
  try {
    writeSync(2, "lever: " + instance + " ends itself: it has lost its lease and methods of its resources still run (onLapse: Kill)\\n");
  } catch {}
  process.kill(process.pid, "SIGKILL");
}
`;

/** 0: of the present lease; 1: of a lapsed one. */
export type WatchedLease = 0 | 1;

export class Watchdog {
  readonly #floats = new Float64Array(new SharedArrayBuffer(2 * fieldsOfLease * 8));
  readonly #integers = new Int32Array(new SharedArrayBuffer(4 * 4));
  readonly #worker: Worker;
  /** From the lease clock's monotonic reading to `process.hrtime`, which both threads share. */
  readonly #monotonicOffsetMs = Number(process.hrtime.bigint()) / 1e6 - performance.now();

  constructor(instance: string) {
    this.#floats[Field.KillMs] = Number.POSITIVE_INFINITY;
    this.#floats[fieldsOfLease + Field.KillMs] = Number.POSITIVE_INFINITY;
    this.#worker = new Worker(script, {
      eval: true,
      workerData: { floats: this.#floats, integers: this.#integers, instance: instance || `process ${process.pid}` },
    });
    this.#worker.unref();
  }

  /** The lease was renewed. */
  renew(term: LeaseTerm): void {
    this.#write(0, term);
  }

  /** The lease has lapsed. An earlier one whose methods still run ends sooner, and goes on to count. */
  lapse(term: LeaseTerm): void {
    if (Atomics.load(this.#integers, 1) === 0) this.#write(1, term);
  }

  #write(lease: WatchedLease, { asked, killMs }: LeaseTerm): void {
    Atomics.add(this.#integers, changesAt, 1);
    const at = lease * fieldsOfLease;
    this.#floats[at + Field.Monotonic] = asked.monotonicMs + this.#monotonicOffsetMs;
    this.#floats[at + Field.Boot] = Number.isFinite(asked.bootMs) ? asked.bootMs : uptime() * 1000;
    this.#floats[at + Field.Wall] = asked.wallMs;
    this.#floats[at + Field.KillMs] = killMs;
    Atomics.add(this.#integers, changesAt, 1);
  }

  /** A method begins (1) or has returned (-1). */
  count(lease: WatchedLease, change: 1 | -1): void {
    Atomics.add(this.#integers, runningAt + lease, change);
  }

  async close(): Promise<void> {
    await this.#worker.terminate();
  }
}
