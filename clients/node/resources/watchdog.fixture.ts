/** A process that hangs in a method of a resource, told by its arguments how its lease stands. */

import { uptime } from "node:os";
import { Watchdog } from "./watchdog.ts";

const [method, killMs] = process.argv.slice(2);
const asked = { monotonicMs: performance.now(), bootMs: uptime() * 1000, wallMs: Date.now() };
const watchdog = new Watchdog("chat-1");
watchdog.renew({ asked, admitMs: 0, killMs: Number(killMs), gateMs: 0 });
if (method === "runs") watchdog.count(0, 1);
if (method === "lapsed") {
  watchdog.count(0, 1);
  watchdog.lapse({ asked, admitMs: 0, killMs: Number(killMs), gateMs: 0 });
  watchdog.count(1, 1);
  watchdog.count(0, -1);
  // The next lease does not save it.
  watchdog.renew({ asked, admitMs: 0, killMs: 3_600_000, gateMs: 0 });
}
if (method === "returned") {
  watchdog.count(0, 1);
  watchdog.count(0, -1);
}
// Nothing but another thread can end this.
const until = Date.now() + 1500;
while (Date.now() < until);
process.exit(7);
