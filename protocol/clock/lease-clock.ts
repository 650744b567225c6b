/**
 * Elapsed time that never stands still, for leases.
 *
 * A monotonic clock stops while the machine is suspended, a wall clock can be set back, a boot-time clock is not to be
 * had everywhere: what has passed between two readings is the largest of the three differences. A decision that depends
 * on a lease takes a reading at the moment when it is made; a timer may wake whoever decides, and decides nothing.
 */

/** Readings of one machine's clocks at one moment, ms; only differences have a meaning. */
export interface ClockReading {
  /** Stands still in suspend. */
  readonly monotonicMs: number;
  /** Goes on in suspend; the same as `monotonicMs` where there is none. */
  readonly bootMs: number;
  /** Since 1970; may be set. */
  readonly wallMs: number;
}

export interface LeaseClock {
  read(): ClockReading;
}

/** What has passed from one reading to a later one of the same clock, ms. Never negative. */
export function elapsedMs(from: ClockReading, to: ClockReading): number {
  return Math.max(
    to.monotonicMs - from.monotonicMs,
    to.bootMs - from.bootMs,
    // A clock that was set back says nothing.
    to.wallMs - from.wallMs,
    0,
  );
}

/** What `runtimeLeaseClock` asks of the runtime. */
export interface LeaseRuntime {
  readonly performance: { now(): number };
  readonly Date: { now(): number };
}

/** The wall clock and the monotonic one may drift apart by this much until the boot-time clock is read again. */
const driftMsMax = 5;

/**
 * The real one. `bootMs` reads a clock that goes on in suspend; in Node `() => os.uptime() * 1000`.
 *
 * A reading is taken for each call and each write, and the boot-time clock is a file that takes 5 µs to read. A machine
 * that was suspended shows that in its wall clock too, which stands off from the monotonic one by the time that it
 * slept; so the boot-time clock is read only when these two do not agree as they did before.
 */
export function runtimeLeaseClock(runtime: LeaseRuntime, bootMs: () => number): LeaseClock {
  let wallAheadMs = Number.NaN;
  let bootAheadMs = 0;
  return {
    read() {
      const monotonicMs = runtime.performance.now();
      const wallMs = runtime.Date.now();
      if (!(Math.abs(wallMs - monotonicMs - wallAheadMs) <= driftMsMax)) {
        wallAheadMs = wallMs - monotonicMs;
        bootAheadMs = bootMs() - monotonicMs;
      }
      return { monotonicMs, bootMs: monotonicMs + bootAheadMs, wallMs };
    },
  };
}
