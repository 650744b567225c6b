/**
 * An app that is stopped for 30 s, holds rooms, and has a method at work: it calls another service and sends on its
 * channel, whatever its signal says.
 */

import { setTimeout as sleep } from "node:timers/promises";
import { LeverError } from "leveros";
import type { Room } from "../fixtures/rooms/room.ts";
import type { InstanceProcess, LeverDev, LeverDevOptions } from "./lever-dev.ts";
import { percentile, RoomLoad, roomNames, roomsByInstance } from "./room-load.ts";
import { until } from "./until.ts";

const rooms = roomNames(60);
export const stoppedAppServices: LeverDevOptions = { manifests: ["e2e/fixtures/rooms"] };
const stoppedMs = 30_000;

export interface Stopped {
  readonly rooms: number;
  /** From the stop until a room was answered for elsewhere, ms. */
  readonly firstMs: number;
  readonly lastMs: number;
  /** What the method tried to say after it woke: to the witness, and on its channel. */
  readonly tried: number;
  readonly heardByWitness: number;
  readonly heardOnChannel: number;
  /** Answers of the stopped instance that came after it woke, under epochs that it had before. */
  readonly answered: number;
  readonly channelEnd: string;
  readonly callEnd: string;
  readonly violations: readonly string[];
}

export async function stopApp(dev: LeverDev): Promise<Stopped> {
  await using client = dev.client();
  await dev.spread(client, "rooms", 3);
  await dev.serving("witness", 1);
  const load = new RoomLoad(client, { rooms, perSecond: 60 });
  await load.around();
  const { instance, pid } = dev.apps().find(({ service }) => service === "rooms") as InstanceProcess;
  const own = roomsByInstance(load.holders()).get(instance) ?? [];
  const [talking, holding] = own as [string, string];
  const talk = await client.resource<Room>("rooms", talking).talkChan(stoppedMs + 7000);
  const said: number[] = [];
  const channelEnd = (async () => {
    for await (const message of talk) said.push(Number(message));
    return "cleanly";
  })().catch((error: unknown) => LeverError.from(error).reason);
  // Its reply comes after the app woke.
  const callEnd = client
    .resource<Room>("rooms", holding)
    .with({ timeoutMs: 60_000 })
    .hold(5000)
    .then(({ instance: by, epoch }) => `${by} ${epoch}`)
    .catch((error: unknown) => `${LeverError.from(error).reason} ${LeverError.from(error).effect}`);
  await until("the method is heard", () => said.length > 5);
  const epochs = new Map(load.answers.map(({ room, epoch }) => [room, epoch]));
  const at = performance.now();
  process.kill(pid, "SIGSTOP");
  await sleep(stoppedMs);
  const wokenAt = Date.now();
  process.kill(pid, "SIGCONT");
  await sleep(5000);
  await load.stop();
  const witnessed = (await client.invoke<string[]>("/witness/heard", [talking])).map(Number);
  const tried = dev.log.entries().filter(({ event, room, said: when }) => {
    return event === "talked" && room === talking && (when as number) >= wokenAt;
  });
  const times = load.servedElsewhereAfter(at, instance, own);
  talk.cancel();
  return {
    rooms: own.length,
    firstMs: Math.round(times[0] as number),
    lastMs: Math.round(percentile(times, 1)),
    tried: tried.length,
    heardByWitness: witnessed.filter((when) => when >= wokenAt).length,
    heardOnChannel: said.filter((when) => when >= wokenAt).length,
    answered: load.answers.filter(({ room, epoch, at: answeredAt, instance: by }) => {
      return by === instance && answeredAt > at + stoppedMs && epoch <= (epochs.get(room) ?? 0);
    }).length,
    channelEnd: await channelEnd,
    callEnd: await callEnd,
    violations: load.violations,
  };
}
