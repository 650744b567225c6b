/** The three ways to call a method from outside, with one shape of what came of it. */

import { type Client, LeverError, MethodError } from "leveros";
import { shown } from "../fixtures/shown.ts";
import { lever } from "./lever-command.ts";
import type { LeverDev } from "./lever-dev.ts";

export interface Call {
  /** `/service/method`. */
  readonly path: string;
  /** Values, or bytes. */
  readonly args: readonly unknown[] | Uint8Array;
  readonly timeoutMs?: number;
  /** Opens a channel instead of invoking. */
  readonly asChannel?: boolean;
}

export interface Outcome {
  /** The result, bytes as `{ bytes }` in base64. */
  readonly result?: unknown;
  readonly kind?: string;
  readonly code?: string;
  readonly reason?: string;
  readonly effect?: string;
  /** What the method threw, bytes as above. */
  readonly value?: unknown;
  /** The whole text that a person reads. */
  readonly text?: string;
  readonly exitCode?: number | null;
  readonly httpStatus?: number;
}

export interface FrontEnd {
  readonly name: "node" | "http" | "cli";
  call(call: Call, id: string): Promise<Outcome>;
}

export function frontEnds(dev: LeverDev, client: Client): readonly FrontEnd[] {
  return [node(client), http(dev), cli(dev)];
}

function node(client: Client): FrontEnd {
  return {
    name: "node",
    async call({ path, args, timeoutMs, asChannel }, id) {
      const list = args instanceof Uint8Array ? [args] : args;
      const options = { metadata: { id }, ...(timeoutMs === undefined ? {} : { timeoutMs }) };
      try {
        if (asChannel === true) {
          await using _ = await client.openChannel(path, list, options);
          return { result: "open" };
        }
        return { result: shown(await client.invoke(path, list, options)) };
      } catch (error) {
        if (MethodError.is(error)) {
          const { kind, code, reason, effect, value } = error;
          return { kind, code, reason, effect, value: shown(value), text: error.message };
        }
        if (!LeverError.is(error)) throw error;
        const { kind, code, reason, effect } = error;
        return { kind, code, reason, effect, text: error.message };
      }
    },
  };
}

function http(dev: LeverDev): FrontEnd {
  return {
    name: "http",
    async call({ path, args, timeoutMs, asChannel }, id) {
      const isBytes = args instanceof Uint8Array;
      const response = await fetch(`${dev.httpUrl}${path}?forceenv=dev`, {
        method: "POST",
        headers: {
          "content-type":
            asChannel === true ? "application/x-ndjson" : isBytes ? "application/octet-stream" : "application/json",
          "lever-meta-id": id,
          ...(timeoutMs === undefined ? {} : { "lever-timeout-ms": String(timeoutMs) }),
        },
        body: isBytes ? new Uint8Array(args) : JSON.stringify(args),
      });
      const httpStatus = response.status;
      const type = response.headers.get("content-type");
      const body = new Uint8Array(await response.arrayBuffer());
      if (response.ok) return { httpStatus, result: type === octets ? shown(body) : JSON.parse(text(body)) };
      if (type === octets) {
        const header = (name: string) => response.headers.get(`lever-${name}`) ?? "";
        return {
          httpStatus,
          kind: header("kind"),
          code: header("code"),
          reason: header("reason"),
          effect: header("effect"),
          value: shown(body),
        };
      }
      const problem = JSON.parse(text(body)) as Record<string, unknown> & Outcome;
      const { kind, code, reason, effect, value } = problem as Required<Outcome>;
      return { httpStatus, kind, code, reason, effect, value, text: `${problem.title} ${problem.detail}` };
    },
  };
}

const octets = "application/octet-stream";
const text = (body: Uint8Array) => new TextDecoder().decode(body);

function cli(dev: LeverDev): FrontEnd {
  return {
    name: "cli",
    async call({ path, args, timeoutMs, asChannel }, id) {
      const isBytes = args instanceof Uint8Array;
      const { exitCode, stdout, stderr } = await lever(
        [
          asChannel === true ? "chan" : "invoke",
          ...[`lever://dev${path}`, "--gateway", dev.gateway, "-o", "json", "--meta", `id=${id}`],
          ...(timeoutMs === undefined ? [] : ["-t", String(timeoutMs)]),
          ...(isBytes ? ["--args-file", "-"] : ["--", ...args.map((arg) => JSON.stringify(arg))]),
        ],
        isBytes ? { input: args } : {},
      );
      const printed = stdout === "" ? undefined : (JSON.parse(stdout) as { error?: Outcome & { message?: string } });
      const error = printed?.error;
      if (exitCode === 0) return { exitCode, result: printed };
      if (error === undefined) throw new Error(`lever printed ${JSON.stringify(stdout)} and ${stderr}`);
      const { kind, code, reason, effect, value, message } = error as Required<typeof error>;
      return { exitCode, kind, code, reason, effect, value, text: message };
    },
  };
}
