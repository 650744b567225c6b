/**
 * Process groups of the system: sending a signal to one, and knowing when nothing of it is left.
 *
 * A group's id cannot be given to another process while a member lives, so it is safe to signal until `groupIsAlive`
 * said false once. A process that leaves its group (setsid, daemons) is out of reach here.
 */

import { readdirSync, readFileSync } from "node:fs";

/** Sends `signal` to every member of the group. False if there is none left. */
export function signalGroup(groupId: number, signal: NodeJS.Signals | 0): boolean {
  try {
    process.kill(-groupId, signal);
    return true;
  } catch (error) {
    // EPERM: members are there that are not ours to signal. macOS says it too of a group of zombies only.
    return (error as NodeJS.ErrnoException).code === "EPERM" && process.platform !== "darwin";
  }
}

/** Whether a process of the group, running or a zombie, is left. */
export function groupIsAlive(groupId: number): boolean {
  return signalGroup(groupId, 0);
}

/**
 * Whether all that is left of the group has ended already and waits for its parent to notice: in a container whose
 * first process does not collect orphans, these stay for good. Reads all of /proc; false where there is none.
 */
export function onlyZombiesAreLeft(groupId: number): boolean {
  if (process.platform !== "linux") return false;
  let zombies = 0;
  for (const entry of readdirSync("/proc")) {
    if (!/^\d+$/.test(entry)) continue;
    let stat: string;
    try {
      stat = readFileSync(`/proc/${entry}/stat`, "latin1");
    } catch {
      continue; // It ended while we looked.
    }
    // "pid (name) state parent group …"; the name may hold spaces and brackets.
    const [state, , group] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    if (Number(group) !== groupId) continue;
    if (state !== "Z" && state !== "X") return false;
    zombies++;
  }
  return zombies > 0;
}
