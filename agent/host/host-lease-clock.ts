/** The clock for leases of this machine. */

import { uptime } from "node:os";
import { type LeaseClock, runtimeLeaseClock } from "@leveros/protocol/clock/lease-clock.ts";

export function hostLeaseClock(): LeaseClock {
  return runtimeLeaseClock(globalThis, () => uptime() * 1000);
}
