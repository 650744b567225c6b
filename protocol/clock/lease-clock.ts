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

/** The real one. `bootMs` reads a clock that goes on in suspend; in Node `() => os.uptime() * 1000`. */
export function runtimeLeaseClock(runtime: LeaseRuntime, bootMs: () => number): LeaseClock {
  const { performance, Date: wall } = runtime;
  return { read: () => ({ monotonicMs: performance.now(), bootMs: bootMs(), wallMs: wall.now() }) };
}
