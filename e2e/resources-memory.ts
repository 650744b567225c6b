/**
 * What an idle resource costs: 100,000 of them on three instances, each an object with a number in it.
 *
 *     npx node e2e/resources-memory.ts [resources]
 */

import type { RoomsMethods } from "./fixtures/rooms/main.ts";
import type { Room } from "./fixtures/rooms/room.ts";
import { LeverDev } from "./harness/lever-dev.ts";
import { residentBytes } from "./harness/process-list.ts";

const count = Number(process.argv[2] ?? 100_000);
const lanes = 300;

await using dev = await LeverDev.start({
  manifests: ["e2e/fixtures/rooms/rooms.yaml"],
  agents: "process",
});
await dev.serving("rooms", 3);
await using client = dev.client();
const methods = client.service<RoomsMethods>("rooms");

interface Taken {
  readonly heapBytes: number;
  readonly residentBytes: number;
}

async function memory(): Promise<Map<string, Taken>> {
  const found = new Map<string, Taken>();
  while (found.size < 3) {
    const { instance, ...taken } = await methods.memory();
    found.set(instance, taken);
  }
  for (const { instance, pid } of dev.agents()) {
    found.set(`agent of ${instance}`, { heapBytes: 0, residentBytes: residentBytes(pid) });
  }
  return found;
}

async function touch(from: number, to: number): Promise<Map<string, number>> {
  const held = new Map<string, number>();
  let next = from;
  const lane = async () => {
    while (next < to) {
      const { instance } = await client.resource<Room>("rooms", `a-room-with-an-ordinary-name-${next++}`).where();
      held.set(instance, (held.get(instance) ?? 0) + 1);
    }
  };
  await Promise.all(Array.from({ length: lanes }, lane));
  return held;
}

// Code is compiled and buffers are made before it is measured.
await touch(-2000, 0);
const before = await memory();
const startedAt = performance.now();
const held = await touch(0, count);
const seconds = (performance.now() - startedAt) / 1000;
const after = await memory();

console.log(`${count} resources opened in ${seconds.toFixed(1)} s: ${JSON.stringify(Object.fromEntries(held))}`);
let heap = 0;
let resident = 0;
for (const [what, { heapBytes, residentBytes }] of after) {
  const former = before.get(what) as Taken;
  const grown = { heap: heapBytes - former.heapBytes, resident: residentBytes - former.residentBytes };
  heap += grown.heap;
  resident += grown.resident;
  console.log(`${what}: heap ${mebibytes(grown.heap)}, resident ${mebibytes(grown.resident)} more`);
}
console.log(
  `for each idle resource: ${Math.round(heap / count)} bytes of heap, ${Math.round(resident / count)} resident`,
);

function mebibytes(bytes: number): string {
  return `${(bytes / 1024 / 1024).toFixed(1)} MiB`;
}
