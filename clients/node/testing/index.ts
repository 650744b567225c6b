/**
 * Tests of services, in one process, with the real cores of Lever over memory, on real time or on virtual time.
 *
 *     import { TestEnvironment, simulate } from "leveros/testing";
 */

export { type SimulateOptions, type Simulation, simulate } from "./simulate.ts";
export { TestEnvironment, type TestEnvironmentOptions } from "./test-environment.ts";
export type { TestOwnership, TestPolicy, TestService } from "./test-service.ts";
