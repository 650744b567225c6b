/**
 * Tests of services, in one process, with the real cores of Lever over memory.
 *
 *     import { TestEnvironment } from "leveros/testing";
 */

export {
  TestEnvironment,
  type TestEnvironmentOptions,
  type TestOwnership,
  type TestPolicy,
  type TestService,
} from "./test-environment.ts";
