import { afterAll } from "vitest";
import { runtimeClock } from "../clock/runtime-clock.ts";
import { tcpPairs } from "../transport/socket-pair.fixture.ts";
import { sessionCompliance } from "./compliance.suite.ts";

const pairs = await tcpPairs();
afterAll(() => pairs.close());

sessionCompliance("TCP", runtimeClock(globalThis), pairs.pair);
