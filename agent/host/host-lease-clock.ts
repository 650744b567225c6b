/** The clock for leases of this machine. */

import { uptime } from "node:os";
import type { LeaseClock } from "@leveros/protocol/clock/lease-clock.ts";

/** The wall clock and the monotonic one may drift apart by this much until the boot-time clock is read again. */
const driftMsMax = 5;

/** What is asked of the machine, all in ms. */
export interface MachineClocks {
  monotonicMs(): number;
  wallMs(): number;
  /** Goes on in suspend. */
  bootMs(): number;
}

const machine: MachineClocks = {
  monotonicMs: () => performance.now(),
  wallMs: () => Date.now(),
  bootMs: () => uptime() * 1000,
};

/**
 * A reading is taken for each call and each write, and the boot-time clock is a file that takes 5 µs to read. A machine
 * that was suspended shows that in its wall clock too, which stands off from the monotonic one by the time that it
 * slept; so the boot-time clock is read only when these two do not agree as they did before.
 */
export function hostLeaseClock({ monotonicMs, wallMs, bootMs }: MachineClocks = machine): LeaseClock {
  let wallAheadMs = Number.NaN;
  let bootAheadMs = 0;
  return {
    read() {
      const monotonic = monotonicMs();
      const wall = wallMs();
      if (!(Math.abs(wall - monotonic - wallAheadMs) <= driftMsMax)) {
        wallAheadMs = wall - monotonic;
        bootAheadMs = bootMs() - monotonic;
      }
      return { monotonicMs: monotonic, bootMs: monotonic + bootAheadMs, wallMs: wall };
    },
  };
}
