/**
 * `LeverEndpointTable`, version v1alpha1: what callers are told of a service, as an object that people can read, and what
 * the operator's leader has to find again.
 *
 * The operator alone writes it, one for each `LeverService`, under its name. `ownership` is the truth that the next leader
 * goes by; `instances` and `slots` are for people and may be a little behind. All of it together stays below what etcd
 * takes for one object (1.5 MiB), for the largest service.
 */

import { instancesPerMessageMax, slotsMax } from "@leveros/protocol/control/discovery.ts";
import { leaseMsMax, leaseMsMin } from "@leveros/protocol/control/lease.ts";
import * as z from "zod";
import { apiVersion, dnsLabel } from "./lever-service.ts";

export const leverEndpointTableKind = "LeverEndpointTable";

/** Instances that the object lists; of a larger service it says only how many there are. */
export const listedInstancesMax = instancesPerMessageMax;
/** Of `ownership.rows`, characters: of one text, and texts. */
export const ownershipTextCharsMax = 65_536;
export const ownershipTextsMax = 12;
/** Above 2^53 no epoch can be told from the next one. */
const epochMax = Number.MAX_SAFE_INTEGER;

const count = (max: number) => z.int().min(0).max(max);
const instanceId = z.string().min(1).max(253);

const instance = z.strictObject({
  id: instanceId.describe("Name of the instance: of its pod."),
  podUid: z.string().max(64).optional().describe("The pod's uid: a pod of the same name is another instance."),
  address: z.string().max(255).describe("host:port where agents reach its agent; empty until that is known."),
  zone: z.string().max(63).optional().describe("The zone of its node."),
  state: z
    .enum(["Starting", "Serving", "Draining", "Unreachable"])
    .describe(
      "Starting: its app has not registered. Serving: it takes calls. Draining: it finishes what runs. Unreachable: " +
        "its agent is not heard of, or the kubelet has found it not ready.",
    ),
});

const slotRun = z.strictObject({
  first: count(slotsMax - 1).describe("First slot of the run."),
  last: count(slotsMax - 1).describe("Last slot of the run."),
  holder: instanceId.describe("The instance that holds the slots."),
  epoch: z.int().min(1).max(epochMax).describe("The epoch under which it holds them."),
});

const ownership = z.strictObject({
  writer: z.string().min(1).max(64).describe("Which write this is: no two have the same."),
  leaseMs: z.int().min(leaseMsMin).max(leaseMsMax).describe("The longest lease that a holder may go by, in ms."),
  lastEpoch: count(epochMax).describe("The highest epoch that was ever given out."),
  rows: z
    .array(z.string().max(ownershipTextCharsMax))
    .max(ownershipTextsMax)
    .describe("The leader's rows of all slots, encoded; in several texts if they are long."),
});

export const leverEndpointTableSchema = z.strictObject({
  apiVersion: z.literal(apiVersion).describe("The version of this schema."),
  kind: z.literal(leverEndpointTableKind).describe("The kind of this object."),
  metadata: z
    .looseObject({
      name: dnsLabel.describe("Name of the service."),
      namespace: dnsLabel.describe("The environment."),
    })
    .describe("Name and environment of the service."),
  version: count(epochMax)
    .optional()
    .describe("Rises with each change of instances and slots. It is another count than metadata.resourceVersion."),
  servingInstances: count(1_000_000).optional().describe("Instances that take calls."),
  heldSlots: count(slotsMax).optional().describe("Slots that an instance holds."),
  instances: z
    .array(instance)
    .max(listedInstancesMax)
    .optional()
    .describe(`The service's instances, by name; of more than ${listedInstancesMax} the first ones.`),
  slots: z
    .array(slotRun)
    .max(slotsMax)
    .optional()
    .describe(
      "Who holds which slots of a service with spec.ownership, in runs of neighbours with the same holder and epoch. " +
        "A slot without a holder is left out.",
    ),
  ownership: ownership
    .optional()
    .describe(
      "The operator's own record of the slots, from which a new leader goes on. Changing it by hand can make two " +
        "instances hold one resource. `slots` says the same for people.",
    ),
});

export type LeverEndpointTable = z.output<typeof leverEndpointTableSchema>;
