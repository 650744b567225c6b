/**
 * What a call is addressed to, without the resource: `environment/service/method`, parsed once per session and then
 * known by a number. An empty environment is the caller's own.
 */

import { LeverError } from "../error/lever-error.ts";
import { isDnsLabel, isMethodName, isStreamingName } from "./lever-url.ts";

export class Target {
  /** `environment/service/method` */
  readonly text: string;
  readonly environment: string;
  readonly service: string;
  readonly method: string;
  /** By the method's name: a target is either called or opened. */
  readonly isStreaming: boolean;
  /** A place for whoever routes by this target, so that nothing is looked up per call. */
  route: unknown = undefined;

  constructor(environment: string, service: string, method: string) {
    this.text = `${environment}/${service}/${method}`;
    this.environment = environment;
    this.service = service;
    this.method = method;
    this.isStreaming = isStreamingName(method);
  }

  /** Throws INVALID_URL. */
  static parse(text: string): Target {
    const parts = text.split("/", 4);
    const [environment = "", service = "", method = ""] = parts;
    const isEnvironment = environment === "" || isDnsLabel(environment);
    if (parts.length !== 3 || !isEnvironment || !isDnsLabel(service) || !isMethodName(method)) {
      throw new LeverError(
        "INVALID_URL",
        `the target ${JSON.stringify(text.slice(0, 200))} is not <environment>/<service>/<method>`,
        { effect: "none" },
      );
    }
    return new Target(environment, service, method);
  }
}
