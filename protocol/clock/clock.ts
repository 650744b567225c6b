/**
 * Time and chance as the cores see them.
 *
 * Every core takes these instead of globals, so that a test or the simulator can own both. Hosts make the real ones.
 */

export interface Clock {
  /** Milliseconds on a monotonic clock with fractions; only differences have a meaning. */
  now(): number;
  /** Calls `callback` once, no sooner than `delayMs` from now. */
  setTimer(callback: () => void, delayMs: number): TimerHandle;
  clearTimer(timer: TimerHandle): void;
  /**
   * Calls `callback` once at the end of the current turn of the loop, after all input of this turn was handled.
   * Sessions flush their output here: one write per connection and turn.
   */
  defer(callback: () => void): void;
}

/** What `setTimer` returned; opaque. */
export type TimerHandle = unknown;

/** A number in [0, 1), as `Math.random`. */
export type Random = () => number;
