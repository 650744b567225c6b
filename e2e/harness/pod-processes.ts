/** The processes of pods, for signals that nothing inside of a container can send. Only where the nodes are this machine. */

import { readdirSync, readFileSync } from "node:fs";
import { hasBuiltImages } from "./lever-images.ts";

/** Whether the processes of pods, and the links of nodes, are this machine's. */
export const hasOwnNodes = hasBuiltImages;

export interface PodProcesses {
  readonly app: number;
  readonly agent: number;
}

/** The first process of the app, and that of the agent, of an instance. */
export function processesOf(instance: string): PodProcesses {
  const found = programsWith(`LEVER_INSTANCE=${instance}`);
  // Only the agent is told who leads the operators.
  const isAgent = ({ env }: (typeof found)[number]) => env.some((variable) => variable.startsWith("LEVER_OPERATOR="));
  const [agent, ...agents] = found.filter(isAgent);
  const [app, ...apps] = found.filter((each) => !isAgent(each));
  if (agent === undefined || app === undefined || agents.length + apps.length > 0) {
    throw new Error(`${found.length} processes of ${instance}: expected one app and one agent`);
  }
  return { app: app.pid, agent: agent.pid };
}

/** Kills the first process of a pod's one container without grace, as the kernel does when memory is short. */
export function killProcessOf(pod: string): void {
  const [found, ...others] = programsWith(`HOSTNAME=${pod}`);
  if (found === undefined || others.length > 0) {
    throw new Error(`${others.length + (found ? 1 : 0)} processes of ${pod}, expected one`);
  }
  process.kill(found.pid, "SIGKILL");
}

/** What images start, in containers that have this variable. */
function programsWith(variable: string): { readonly pid: number; readonly env: readonly string[] }[] {
  return readdirSync("/proc")
    .filter((entry) => /^\d+$/.test(entry) && read(entry, "cmdline").includes("/app/main.js"))
    .map((entry) => ({ pid: Number(entry), env: read(entry, "environ").split("\0") }))
    .filter(({ env }) => env.includes(variable));
}

function read(pid: string, file: string): string {
  try {
    return readFileSync(`/proc/${pid}/${file}`, "latin1");
  } catch {
    // It has ended meanwhile.
    return "";
  }
}
