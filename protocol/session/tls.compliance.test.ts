import { afterAll } from "vitest";
import { runtimeClock } from "../clock/runtime-clock.ts";
import { tlsPairs } from "../transport/socket-pair.fixture.ts";
import { sessionCompliance } from "./compliance.suite.ts";

const pairs = await tlsPairs();
afterAll(() => pairs.close());

sessionCompliance("TLS", runtimeClock(globalThis), pairs.pair);
