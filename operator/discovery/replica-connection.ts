/**
 * One connection of another replica on `replicaChan`: it is told what the agents say that are connected here.
 *
 * Invariant: of each instance at most one word waits to be sent, the latest; who is slow makes nothing queue up.
 */

import type { Channel } from "@leveros/protocol/channel/channel.ts";
import type { InstanceKey } from "../core/service-registry.ts";
import type { AgentReports } from "./agent-reports.ts";
import { encodeReplicaMessage, type ReplicaMessage } from "./replica-messages.ts";

/** Runs until the channel ends. */
export async function serveReplica(reports: AgentReports, channel: Channel): Promise<void> {
  const unsaid = new Set<string>(reports.keys());
  let isComplete = false;
  let isSending = false;
  let isOver = false;
  const send = (message: ReplicaMessage) => channel.send(encodeReplicaMessage(message));
  const sendUnsaid = async () => {
    if (isSending || isOver) return;
    isSending = true;
    try {
      for (const key of unsaid) {
        unsaid.delete(key);
        const heard = reports.get(key);
        await send(heard === undefined ? { type: "gone", ...instanceOf(key) } : { type: "heard", ...heard });
      }
      if (!isComplete) await send({ type: "complete" });
      isComplete = true;
    } catch {
      // The channel has ended: the reader below learns of it too.
    } finally {
      isSending = false;
    }
    if (unsaid.size > 0) void sendUnsaid();
  };
  const unwatch = reports.watch((key) => {
    unsaid.add(key);
    void sendUnsaid();
  });
  void sendUnsaid();
  try {
    for await (const _ of channel);
  } finally {
    isOver = true;
    unwatch();
  }
}

function instanceOf(key: string): InstanceKey {
  const [environment = "", service = "", instance = ""] = key.split("/");
  return { environment, service, instance };
}
