import { afterAll } from "vitest";
import { runtimeClock } from "../clock/runtime-clock.ts";
import { unixPairs } from "../transport/socket-pair.fixture.ts";
import { sessionCompliance } from "./compliance.suite.ts";

const pairs = await unixPairs();
afterAll(() => pairs.close());

sessionCompliance("a Unix socket", runtimeClock(globalThis), pairs.pair);
