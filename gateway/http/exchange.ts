/**
 * A channel over one HTTP request, for short exchanges: NDJSON in, NDJSON out. The first line is the arguments, each
 * further line a message; the end of the body half-closes.
 */

import { StringDecoder } from "node:string_decoder";
import type { RawChannel } from "@leveros/protocol/channel/channel.ts";
import type { Clock } from "@leveros/protocol/clock/clock.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { MethodError } from "@leveros/protocol/error/method-error.ts";
import type { OutgoingOptions } from "@leveros/protocol/invocation/outgoing-call.ts";
import type { Target } from "@leveros/protocol/target/target.ts";
import { decodePayload, type Encoded, encodeArgs, encodeMessage } from "@leveros/protocol/value/form.ts";
import type { Request, Response } from "express";
import { parseArguments } from "./door.ts";
import type { DoorSession } from "./door-session.ts";
import { detailOf, errorMembers } from "./problem.ts";

/** How long an exchange may take; then it ends with a line that says so. */
export const exchangeMsMax = 60_000;

export async function exchange(
  request: Request,
  response: Response,
  session: DoorSession,
  target: Target,
  options: OutgoingOptions,
  lineBytesMax: number,
  clock: Clock,
): Promise<void> {
  const lines = readLines(request, lineBytesMax);
  const first = await lines.next();
  const args = encodeArgs(first.done === true ? [] : parseArguments(first.value, "line 1"));
  const channel = await session.openChannel(target, args, options);
  response.setHeader("content-type", "application/x-ndjson");
  response.flushHeaders();
  const timer = clock.setTimer(() => {
    channel.cancel(
      new LeverError("CHANNEL_TIME_LIMIT", `a channel over HTTP ends after ${exchangeMsMax / 1000} s`, {
        effect: "ran",
      }),
    );
  }, exchangeMsMax);
  // Its failure (a bad line) ends the channel, which ends the loop below.
  let failure: unknown;
  const sending = send(lines, channel).catch((error: unknown) => {
    failure = error;
    channel.cancel(LeverError.from(error));
  });
  try {
    for (;;) {
      const next = await channel.receive();
      if (next.done === true) break;
      await writeLine(response, lineOf(next.value));
    }
    failure ??= channel.error;
  } catch (error) {
    failure ??= error;
  } finally {
    clock.clearTimer(timer);
  }
  if (failure !== undefined) {
    const error = MethodError.is(failure) ? failure : LeverError.from(failure);
    await writeLine(response, { error: { ...errorMembers(error), message: detailOf(error) } });
  }
  response.end();
  // What the client still sends has no reader any more.
  request.destroy();
  await sending;
}

async function send(lines: AsyncGenerator<string>, channel: RawChannel): Promise<void> {
  let line = 1;
  for await (const text of lines) {
    line++;
    if (text.trim() === "") continue;
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch (error) {
      throw new LeverError("BODY_INVALID", `line ${line} is no JSON: ${(error as Error).message}`, { effect: "ran" });
    }
    if (channel.isEnded) return;
    await channel.send(encodeMessage(value, "message"));
  }
  channel.closeWrite();
}

/** Lines of the body, without their ends; the last may lack one. Throws MESSAGE_TOO_LARGE. */
async function* readLines(request: Request, bytesMax: number): AsyncGenerator<string> {
  const decoder = new StringDecoder("utf8");
  let rest = "";
  for await (const chunk of request) {
    const parts = (rest + decoder.write(chunk as Buffer)).split("\n");
    rest = parts.pop() ?? "";
    for (const part of parts) yield part;
    if (rest.length > bytesMax) {
      throw new LeverError("MESSAGE_TOO_LARGE", `a line is longer than ${bytesMax} bytes, the gateway's limit`, {
        details: { limit: "bodyBytes", bytesMax },
      });
    }
  }
  rest += decoder.end();
  if (rest !== "") yield rest;
}

/** A message as a line: a value as it is, bytes as `{"bytes":"<base64>"}`. */
function lineOf(item: Encoded): unknown {
  return item.form === "bytes"
    ? { bytes: Buffer.from(item.bytes).toString("base64") }
    : decodePayload(item.bytes, item.form);
}

/** Resolves when the socket can take more. */
function writeLine(response: Response, value: unknown): Promise<void> {
  if (response.destroyed || response.write(`${JSON.stringify(value)}\n`)) return Promise.resolve();
  return new Promise((resolve) => {
    const done = () => {
      response.off("drain", done);
      response.off("close", done);
      resolve();
    };
    response.on("drain", done);
    response.on("close", done);
  });
}
