/**
 * The body of one request: read whole or line by line, within a limit, and line by line only as fast as it is used.
 *
 * Invariant: reading never ends the connection, however it ends, since the answer is still to be sent on it (Node's own
 * iterator destroys the socket when it is left early). Unfinished pieces of all bodies together have a budget.
 */

import type { IncomingMessage, ServerResponse } from "node:http";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { Assembly, type AssemblyBudget, emptyItem } from "@leveros/protocol/invocation/assembly.ts";

const lineFeed = 0x0a;

export class RequestBody {
  readonly #request: IncomingMessage;
  readonly #response: ServerResponse;
  readonly #assembly: Assembly;
  /** Lines that were read. */
  lineCount = 0;
  #chunks: Buffer[] = [];
  #isByLine = false;
  #isReading = false;
  #isDiscarding = false;
  #hasEnded = false;
  #failure: LeverError | undefined;
  #wake: (() => void) | undefined;
  /** The client waits for a word before it sends the body. */
  #awaitsContinue: boolean;

  constructor(request: IncomingMessage, response: ServerResponse, budget: AssemblyBudget) {
    this.#request = request;
    this.#response = response;
    this.#assembly = new Assembly(budget);
    this.#awaitsContinue = /^100-continue$/i.test(request.headers.expect ?? "") && request.httpVersionMinor > 0;
    request.on("end", () => {
      this.#hasEnded = true;
      this.#wakeUp();
    });
    request.on("error", () => {});
    request.on("close", () => {
      // Also when all has come in, but has not been read.
      if (!this.#hasEnded) this.fail(clientGone());
    });
  }

  /** All of it has come in. */
  get isComplete(): boolean {
    return this.#request.complete;
  }

  /** How many bytes the body has, as the client says; undefined where it comes in chunks. */
  get declaredBytes(): number | undefined {
    const { headers } = this.#request;
    return headers["transfer-encoding"] === undefined ? Number(headers["content-length"] ?? 0) : undefined;
  }

  /** It will not come to its end, or not in time. */
  get hasFailed(): boolean {
    return this.#failure !== undefined;
  }

  /** Whether the client may never send the body, since it has asked first and got no word. */
  get awaitsContinue(): boolean {
    return this.#awaitsContinue;
  }

  /** The whole body. Throws ARGS_TOO_LARGE as soon as that is known, OVERLOADED, or what `fail` was given. */
  async all(bytesMax: number): Promise<Uint8Array> {
    if ((this.declaredBytes ?? 0) > bytesMax) throw bodyTooLarge(bytesMax);
    for (;;) {
      const chunk = await this.#next();
      if (chunk === undefined) return this.#assembly.finish(emptyItem);
      if (this.#assembly.bytes + chunk.length > bytesMax) throw bodyTooLarge(bytesMax);
      this.#keep(chunk);
    }
  }

  /**
   * The next line without its line feed; undefined at the end of the body, or after `stop`. The last line may lack a
   * line feed. Throws `tooLarge()`, OVERLOADED, or what `fail` was given.
   */
  async line(bytesMax: number, tooLarge: () => LeverError): Promise<Uint8Array | undefined> {
    this.#isByLine = true;
    for (;;) {
      const chunk = await this.#next();
      if (chunk === undefined) {
        if (this.#assembly.bytes === 0) return undefined;
        this.lineCount++;
        return this.#assembly.finish(emptyItem);
      }
      const at = chunk.indexOf(lineFeed);
      const part = at < 0 ? chunk : chunk.subarray(0, at);
      if (this.#assembly.bytes + part.length > bytesMax) throw tooLarge();
      if (at < 0) this.#keep(part);
      else {
        if (at + 1 < chunk.length) this.#chunks.unshift(chunk.subarray(at + 1));
        this.lineCount++;
        return this.#assembly.finish(part);
      }
    }
  }

  #keep(part: Buffer): void {
    if (this.#assembly.add(part)) return;
    throw new LeverError("OVERLOADED", "too many large bodies are being received at once", { effect: "none" });
  }

  /** Whoever reads gets this error, now or next. */
  fail(error: LeverError): void {
    this.#failure ??= error;
    this.#wakeUp();
  }

  /** The connection has ended; what has come in can still be read. */
  lost(): void {
    if (!this.isComplete) this.fail(clientGone());
  }

  /** Nobody reads on: what comes in from here on is dropped, and whoever waits for a line gets the end. */
  stop(): void {
    if (this.#isDiscarding) return;
    this.#isDiscarding = true;
    this.#hasEnded = true;
    this.#chunks = [];
    this.#assembly.drop();
    // Nothing is read that the client was never asked for.
    if (!this.#awaitsContinue) this.#read();
    this.#wakeUp();
  }

  async #next(): Promise<Buffer | undefined> {
    for (;;) {
      if (this.#failure !== undefined) throw this.#failure;
      const chunk = this.#chunks.shift();
      if (chunk !== undefined) return chunk;
      if (this.#hasEnded) return undefined;
      this.#read();
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  #read(): void {
    if (this.#awaitsContinue) {
      this.#awaitsContinue = false;
      this.#response.writeContinue();
    }
    if (!this.#isReading) {
      this.#isReading = true;
      this.#request.on("data", (chunk: Buffer) => this.#onData(chunk));
    }
    this.#request.resume();
  }

  #onData(chunk: Buffer): void {
    if (this.#isDiscarding) return;
    this.#chunks.push(chunk);
    // The client's kernel, and so the client, waits while a message has no room in the channel.
    if (this.#isByLine) this.#request.pause();
    this.#wakeUp();
  }

  #wakeUp(): void {
    const wake = this.#wake;
    this.#wake = undefined;
    wake?.();
  }
}

function clientGone(): LeverError {
  return new LeverError("CANCELLED", "the HTTP client has gone", { effect: "none" });
}

function bodyTooLarge(bytesMax: number): LeverError {
  return new LeverError("ARGS_TOO_LARGE", `the body is larger than ${bytesMax} bytes, the gateway's limit`, {
    details: { limit: "bodyBytes", bytesMax },
  });
}
