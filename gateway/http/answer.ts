/**
 * The one answer of a request, and what its connection needs so that the client gets to see it.
 *
 * Invariant: exactly one answer, well-formed, whatever happened; after it either the connection can carry the next
 * request, or it is closed, but only when the client can have read the answer.
 */

import type { IncomingMessage, ServerResponse } from "node:http";
import type { Clock } from "@leveros/protocol/clock/clock.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { MethodError } from "@leveros/protocol/error/method-error.ts";
import type { AssemblyBudget } from "@leveros/protocol/invocation/assembly.ts";
import { lineOf } from "./message-line.ts";
import { problemContentType, problemDocument, problemHeaders, statusOf } from "./problem.ts";
import { RequestBody } from "./request-body.ts";

/** After an early answer, how long and how much of the rest of the body is read before the connection is closed. */
export const lingerMsMax = 5000;
export const lingerBytesMax = 64 * 1024 * 1024;
/** A body of at most this size that nobody wants is read to its end, so that the connection stays of use. */
const discardBytesMax = 512 * 1024;
/** A client that has not taken its whole answer after this time, and one more for each of its bytes, has gone. */
export const answerMsMax = 60_000;
const answerBytesPerMsMin = 16;

export interface AnswerOptions {
  readonly clock: Clock;
  /** Of bodies and results that are held for clients, together. */
  readonly budget: AssemblyBudget;
  /** The answer is complete, or (`aborted`) the client has gone before. Called once. */
  onAnswered(status: string): void;
}

export class Answer {
  readonly request: IncomingMessage;
  /** The request target as it came in. */
  readonly rawUrl: string;
  readonly body: RequestBody;
  /** Set by the door when it stops: the connection takes no further request. */
  isLast = false;
  /** The answer has said that the connection ends with it: no further request on it is taken. */
  endsConnection = false;
  /** The answer is out, and the connection stays for a while so that the client can read it. */
  isLingering = false;
  readonly #response: ServerResponse;
  readonly #options: AnswerOptions;
  readonly #gone = new AbortController();
  #isAnswered = false;
  #heldBytes = 0;
  #endTimer: unknown;
  #endsAt = Number.POSITIVE_INFINITY;

  constructor(request: IncomingMessage, response: ServerResponse, options: AnswerOptions) {
    this.request = request;
    this.rawUrl = request.url ?? "";
    this.body = new RequestBody(request, response, options.budget);
    this.#response = response;
    this.#options = options;
    response.once("close", () => this.#onClose());
    response.on("error", () => {});
  }

  /** Aborted when the client goes away before its answer is complete. */
  get gone(): AbortSignal {
    return this.#gone.signal;
  }

  /** The answer is complete as far as this end goes, or has nobody to go to. */
  get isOver(): boolean {
    return this.#response.writableEnded || this.#response.destroyed || this.#isAnswered;
  }

  /** Calls back once, when the answer is over on the connection, or the connection is. */
  whenClosed(callback: () => void): void {
    if (this.#response.closed) callback();
    else this.#response.once("close", callback);
  }

  setHeader(name: string, value: string): void {
    if (!this.#response.headersSent) this.#response.setHeader(name, value);
  }

  /** Counts bytes that are held for this request until its answer is over; false above the budget. */
  hold(bytes: number): boolean {
    const { budget } = this.#options;
    if (budget.bytes + bytes > budget.bytesMax) return false;
    budget.bytes += bytes;
    this.#heldBytes += bytes;
    return true;
  }

  /** The whole answer; undefined: without content. */
  send(status: number, contentType: string | undefined, content: string | Uint8Array = ""): void {
    const response = this.#response;
    if (this.isOver || response.headersSent) return;
    const { body } = this;
    response.statusCode = status;
    if (contentType !== undefined) response.setHeader("content-type", contentType);
    const isShort = (body.declaredBytes ?? Number.POSITIVE_INFINITY) <= discardBytesMax;
    const mustClose = !body.isComplete && (!isShort || body.awaitsContinue || body.hasFailed);
    this.#announceEnd(mustClose || this.isLast);
    // Node would leave it out for HTTP/1.0, and end the connection instead.
    if (status !== 204) response.setHeader("content-length", String(Buffer.byteLength(content)));
    if (mustClose) return this.#sendEarly(content);
    response.end(content);
    body.stop();
    this.#answered();
    this.endWithin(answerMsMax + Buffer.byteLength(content) / answerBytesPerMsMin);
  }

  #announceEnd(ends: boolean): void {
    if (!ends) return;
    this.endsConnection = true;
    this.setHeader("connection", "close");
  }

  /**
   * The client still sends, and closing over bytes that were not read resets the connection: a reset can overtake the
   * answer. So the whole answer goes out, what comes in is dropped for a while, and only then is the answer ended.
   */
  #sendEarly(content: string | Uint8Array): void {
    const response = this.#response;
    const { request, body } = this;
    this.isLingering = true;
    response.flushHeaders();
    response.write(content);
    this.#answered();
    const { clock } = this.#options;
    let bytes = 0;
    const finish = () => {
      clock.clearTimer(timer);
      this.endWithin(answerMsMax);
      this.isLingering = false;
      response.end();
    };
    const timer = clock.setTimer(finish, lingerMsMax);
    request.on("data", (chunk: Buffer) => {
      bytes += chunk.length;
      if (bytes > lingerBytesMax) finish();
    });
    request.once("end", finish);
    request.once("close", finish);
    body.stop();
  }

  /** What was thrown, as problem details, or as the bytes that the method threw. */
  fail(thrown: unknown): void {
    const error = MethodError.is(thrown) ? thrown : LeverError.from(thrown);
    if (error.reason === "INTERNAL" && !LeverError.is(thrown)) {
      // biome-ignore lint/suspicious/noConsole: a mistake in the gateway itself, which only its log can tell of.
      console.error("lever-gateway: a request failed by a mistake in the gateway:", thrown);
    }
    if (this.#response.headersSent) {
      this.#response.destroy();
      return;
    }
    for (const [name, value] of Object.entries(problemHeaders(error))) this.setHeader(name, value);
    const status = statusOf(error);
    if (MethodError.is(error) && error.value instanceof Uint8Array) {
      return this.send(status, "application/octet-stream", error.value);
    }
    this.send(status, problemContentType, JSON.stringify(problemDocument(error)));
  }

  // ---------------------------------------------------------------- line by line

  begin(contentType: string): void {
    this.setHeader("content-type", contentType);
    this.#announceEnd(this.isLast);
    this.#response.flushHeaders();
  }

  /** Resolves when the client can take more, or has gone. */
  writeLine(value: unknown): Promise<void> {
    const response = this.#response;
    if (response.destroyed || response.writableEnded) return Promise.resolve();
    if (response.write(`${JSON.stringify(value)}\n`)) return Promise.resolve();
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

  /** Ends an answer of lines: with the error, if there is one, as the last. */
  end(thrown: unknown): void {
    if (this.isOver) return;
    if (thrown !== undefined) {
      const error = MethodError.is(thrown) ? thrown : LeverError.from(thrown);
      void this.writeLine({ error: problemDocument(error, lineOf) });
    }
    this.#response.end();
    this.#answered();
    this.endWithin(answerMsMax);
    if (this.body.isComplete) return;
    // Node tells the end of the connection only to requests whose answer is not complete.
    this.request.socket.once("close", () => this.body.lost());
    if (thrown !== undefined) this.#closeUnlessBodyEnds();
  }

  /** What the client still sends is of no use to anybody, and the headers that have gone out do not say so. */
  #closeUnlessBodyEnds(): void {
    const { request } = this;
    const { clock } = this.#options;
    const timer = clock.setTimer(() => this.destroy(), lingerMsMax);
    request.once("end", () => clock.clearTimer(timer));
    request.once("close", () => clock.clearTimer(timer));
  }

  /** Closes the connection unless the client has taken the whole answer by then. The earliest time counts. */
  endWithin(ms: number): void {
    const { clock } = this.#options;
    const endsAt = clock.now() + ms;
    if (this.#response.closed || endsAt >= this.#endsAt) return;
    clock.clearTimer(this.#endTimer);
    this.#endsAt = endsAt;
    this.#endTimer = clock.setTimer(() => this.destroy(), ms);
  }

  /** Closes the connection at once. */
  destroy(): void {
    this.request.socket.destroy();
  }

  #answered(): void {
    if (this.#isAnswered) return;
    this.#isAnswered = true;
    this.#options.onAnswered(String(this.#response.statusCode));
  }

  #onClose(): void {
    const { clock, budget } = this.#options;
    clock.clearTimer(this.#endTimer);
    budget.bytes -= this.#heldBytes;
    this.#heldBytes = 0;
    if (this.#isAnswered) return;
    this.#isAnswered = true;
    this.#options.onAnswered("aborted");
    this.#gone.abort(new Error("the HTTP client has gone"));
  }
}
