/**
 * What a call is addressed to, without the resource: `environment/service/method`, parsed once per session and then
 * known by a number. An empty environment is the caller's own.
 */

import { LeverError } from "../error/lever-error.ts";
import { isStreamingName } from "./lever-url.ts";

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
    const match = /^([a-z0-9-]{0,63})\/([a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)\/([A-Za-z_$][A-Za-z0-9_$]{0,127})$/.exec(
      text,
    );
    if (match === null) {
      throw new LeverError(
        "INVALID_URL",
        `the target ${JSON.stringify(text.slice(0, 200))} is not <environment>/<service>/<method>`,
        { effect: "none" },
      );
    }
    return new Target(match[1] as string, match[2] as string, match[3] as string);
  }
}
