/**
 * A channel over one HTTP request, for short exchanges: NDJSON in, NDJSON out (message-line.ts has the form of a line).
 * The first line is the arguments, each further one a message; the end of the body half-closes.
 *
 * Invariant: back-pressure passes through in both directions, so that an exchange holds a line and a window, whatever
 * is sent. The answer begins when the method has been entered; it ends cleanly when the method's direction has, and
 * with an error as its last line otherwise.
 */

import type { RawChannel } from "@leveros/protocol/channel/channel.ts";
import type { Clock } from "@leveros/protocol/clock/clock.ts";
import type { Effect } from "@leveros/protocol/error/catalogue.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { MethodError } from "@leveros/protocol/error/method-error.ts";
import { decodeReceived } from "@leveros/protocol/invocation/received-item.ts";
import type { Target } from "@leveros/protocol/target/target.ts";
import { type Encoded, encodeArgs, encodeMessage, isBytes } from "@leveros/protocol/value/form.ts";
import type { Answer } from "./answer.ts";
import type { DoorSession } from "./door-session.ts";
import { argumentsOf, parseJson } from "./json-args.ts";
import { itemOf, lineOf } from "./message-line.ts";
import type { RequestBody } from "./request-body.ts";
import type { RequestOptions } from "./request-options.ts";

/** How long an exchange may take, its opening included. */
export const exchangeMsMax = 60_000;
/** A client that reads nothing gets this much longer to see the line that says so. */
const lastLineMsMax = 5000;

export const exchangeContentType = "application/x-ndjson";

export interface ExchangeOptions {
  readonly session: DoorSession;
  readonly clock: Clock;
  readonly lineBytesMax: number;
  readonly exchangeMsMax: number;
}

export async function exchange(
  answer: Answer,
  target: Target,
  call: RequestOptions,
  options: ExchangeOptions,
): Promise<void> {
  const { clock, session, lineBytesMax, exchangeMsMax: limitMs } = options;
  const { body } = answer;
  const startedAt = clock.now();
  const stop = new AbortController();
  answer.gone.addEventListener("abort", () => stop.abort(answer.gone.reason), { once: true });
  let isLate = false;
  let channel: RawChannel | undefined;
  const timer = clock.setTimer(() => {
    isLate = true;
    body.fail(timeLimit(limitMs, channel === undefined ? "none" : "ran"));
    if (channel === undefined) stop.abort();
    else channel.cancel(timeLimit(limitMs, "ran"));
    answer.endWithin(lastLineMsMax);
  }, limitMs);
  try {
    const args = await firstLine(answer, call.timeoutMs, options);
    const timeoutMs = call.timeoutMs === 0 ? 0 : Math.max(Math.ceil(call.timeoutMs - (clock.now() - startedAt)), 1);
    try {
      channel = await session.openChannel(target, args, { timeoutMs, fields: call.fields, signal: stop.signal });
    } catch (error) {
      throw isLate ? timeLimit(limitMs, LeverError.from(error).effect) : error;
    }
    answer.begin(exchangeContentType);
    await run(answer, channel, lineBytesMax);
  } finally {
    clock.clearTimer(timer);
  }
}

/** The arguments: the first line that is not blank; none if there is none. */
async function firstLine(
  answer: Answer,
  timeoutMs: number,
  { clock, lineBytesMax }: ExchangeOptions,
): Promise<Encoded> {
  const { body } = answer;
  const late =
    timeoutMs === 0
      ? undefined
      : clock.setTimer(() => {
          body.fail(
            new LeverError("DEADLINE_EXCEEDED", `the arguments did not arrive within ${timeoutMs} ms`, {
              effect: "none",
            }),
          );
        }, timeoutMs);
  try {
    for (;;) {
      const line = await body.line(lineBytesMax, () => lineTooLarge("ARGS_TOO_LARGE", body, lineBytesMax));
      if (line === undefined) return encodeArgs([]);
      if (isBlank(line)) continue;
      const where = `line ${body.lineCount}`;
      const value = parseJson(line, where);
      const item = itemOf(value, where);
      return encodeArgs(isBytes(item) ? [item] : argumentsOf(value, where));
    }
  } finally {
    if (late !== undefined) clock.clearTimer(late);
  }
}

async function run(answer: Answer, channel: RawChannel, lineBytesMax: number): Promise<void> {
  const { body } = answer;
  let failure: LeverError | MethodError | undefined;
  const forwarding = forward(body, channel, lineBytesMax).catch((error: unknown) => {
    // The channel's own error is what the loop below gets too, and that it moves, once it has read the rest.
    if (channel.error === undefined && !channel.isMoving) {
      failure = LeverError.from(error).withEffect("ran");
      // What came before a bad line still reaches the method; of a client that has gone nobody waits for that.
      if (failure.reason === "CANCELLED") channel.cancel(failure);
      else channel.failWith(failure);
    }
    // With the answer complete there is no other way left to tell the client.
    if (answer.isOver) answer.destroy();
  });
  try {
    for (;;) {
      const next = await channel.receive();
      if (next.done === true) break;
      await answer.writeLine(lineOf(decodeReceived(next.value)));
    }
  } catch (error) {
    failure ??= MethodError.is(error) ? error : LeverError.from(error).withEffect("ran");
    if (channel.error === undefined) channel.cancel();
  }
  answer.end(failure);
  // Else the method has ended its direction only, and may still read what the client has to say.
  if (failure !== undefined) body.stop();
  await forwarding;
}

async function forward(body: RequestBody, channel: RawChannel, lineBytesMax: number): Promise<void> {
  for (;;) {
    const line = await body.line(lineBytesMax, () => lineTooLarge("MESSAGE_TOO_LARGE", body, lineBytesMax));
    if (line === undefined) break;
    if (isBlank(line)) continue;
    const where = `line ${body.lineCount}`;
    await channel.send(encodeMessage(itemOf(parseJson(line, where), where), where));
  }
  channel.closeWrite();
}

const blankBytes: ReadonlySet<number> = new Set([0x20, 0x09, 0x0d]);

function isBlank(line: Uint8Array): boolean {
  return line.every((byte) => blankBytes.has(byte));
}

function lineTooLarge(
  reason: "ARGS_TOO_LARGE" | "MESSAGE_TOO_LARGE",
  { lineCount }: RequestBody,
  bytesMax: number,
): LeverError {
  return new LeverError(reason, `line ${lineCount + 1} is longer than ${bytesMax} bytes, the gateway's limit`, {
    details: { limit: "bodyBytes", bytesMax },
  });
}

function timeLimit(limitMs: number, effect: Effect): LeverError {
  return new LeverError("CHANNEL_TIME_LIMIT", `a channel over HTTP ends after ${limitMs / 1000} s`, { effect });
}
