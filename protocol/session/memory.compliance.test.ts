import { runtimeClock } from "../clock/runtime-clock.ts";
import { memoryTransportPair } from "../transport/memory-transport.ts";
import { sessionCompliance } from "./compliance.suite.ts";

const clock = runtimeClock(globalThis);

sessionCompliance("memory", clock, async () => memoryTransportPair(clock));
sessionCompliance("memory, byte by byte", clock, async () => memoryTransportPair(clock, { chunkBytes: 1 }));
