/**
 * What replicas of the operator say to each other on `lever://lever-system/operator/replicaChan`: the opener listens, and
 * hears what the agents say that are connected to the other one. Values, maps with a `type`; decoders are strict about
 * what they know and skip unknown types and keys: replicas of two versions run side by side during an upgrade.
 */

import {
  addressCharsMax,
  addressRule,
  idCharsMax,
  idRule,
  isAddress,
  isId,
  readService,
  zoneCharsMax,
} from "@leveros/protocol/control/discovery.ts";
import { FieldReader } from "@leveros/protocol/control/field-reader.ts";
import { readRegistration } from "@leveros/protocol/control/registration.ts";
import type { AgentReport, InstanceKey } from "../core/service-registry.ts";
import type { AgentWord, HeardAgent } from "./agent-reports.ts";

export const replicaMethod = "replicaChan";

export type ReplicaMessage =
  | ({ readonly type: "heard" } & HeardAgent)
  /** The agent's connection is over. */
  | ({ readonly type: "gone" } & InstanceKey)
  /** All that was so at the beginning has been said. */
  | { readonly type: "complete" };

/** As it goes out. */
export function encodeReplicaMessage(message: ReplicaMessage): Readonly<Record<string, unknown>> {
  if (message.type !== "heard") return { ...message };
  const { type, report, word } = message;
  const { says } = word;
  return { type, ...report, says, ...(says === "register" && word.registration) };
}

/** Undefined for what this version does not know. Throws PROTOCOL_VIOLATION (`details.field`). */
export function decodeReplicaMessage(value: unknown): ReplicaMessage | undefined {
  const fields = new FieldReader(value, "message", "PROTOCOL_VIOLATION");
  const type = fields.text("type", 64);
  switch (type) {
    case "heard": {
      const zone = fields.optionalText("zone", zoneCharsMax);
      const report: AgentReport = {
        ...readInstance(fields),
        address: fields.text("address", addressCharsMax, isAddress, addressRule),
        ...(zone !== undefined && { zone }),
      };
      const word = readWord(fields);
      return word && { type, report, word };
    }
    case "gone":
      return { type, ...readInstance(fields) };
    case "complete":
      return { type };
    default:
      return undefined;
  }
}

function readInstance(fields: FieldReader): InstanceKey {
  return { ...readService(fields), instance: fields.text("instance", idCharsMax, isId, idRule) };
}

function readWord(fields: FieldReader): AgentWord | undefined {
  const says = fields.text("says", 64);
  switch (says) {
    case "nothing":
    case "unregister":
    case "draining":
      return { says };
    case "register":
      return { says, registration: readRegistration(fields) };
    default:
      return undefined;
  }
}
