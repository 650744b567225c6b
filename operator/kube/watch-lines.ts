/**
 * The lines of a watch, from chunks of bytes as they come.
 *
 * Each line is one event. Invariant: whatever the chunks, the events are those of the lines; a line that is no event is
 * an error, never left out, since it may have told of a change.
 */

import { KubeError } from "./kube-error.ts";
import type { WatchEvent } from "./kube-object.ts";

const shownCharsMax = 200;

export class WatchLines<T> {
  readonly #what: string;
  readonly #lineCharsMax: number;
  readonly #onEvent: (event: WatchEvent<T>) => void;
  readonly #decoder = new TextDecoder();
  /** The beginning of a line, in pieces: a long one comes in many chunks. */
  #pieces: string[] = [];
  #pieceChars = 0;

  /** `what` is the request, for people. */
  constructor(what: string, lineCharsMax: number, onEvent: (event: WatchEvent<T>) => void) {
    this.#what = what;
    this.#lineCharsMax = lineCharsMax;
    this.#onEvent = onEvent;
  }

  /** Throws a KubeError for a line that is an error, or no event. */
  push(chunk: Uint8Array): void {
    const text = this.#decoder.decode(chunk, { stream: true });
    let start = 0;
    for (let end = text.indexOf("\n"); end !== -1; end = text.indexOf("\n", start)) {
      this.#add(text.slice(start, end));
      start = end + 1;
      const line = this.#pieces.length === 1 ? (this.#pieces[0] as string) : this.#pieces.join("");
      this.#pieces = [];
      this.#pieceChars = 0;
      if (line.trim() !== "") this.#onLine(line);
    }
    this.#add(text.slice(start));
  }

  /** The stream has ended; throws if it did so within a line. */
  end(): void {
    const rest = this.#pieces.join("").trim();
    if (rest !== "") throw this.#malformed("the watch ended within a line", rest);
  }

  #add(piece: string): void {
    if (piece === "") return;
    this.#pieces.push(piece);
    this.#pieceChars += piece.length;
    if (this.#pieceChars > this.#lineCharsMax) {
      throw KubeError.failure("TooLarge", this.#what, `a line has over ${this.#lineCharsMax} characters`);
    }
  }

  #onLine(line: string): void {
    let value: { type?: unknown; object?: unknown } | null;
    try {
      value = JSON.parse(line);
    } catch {
      throw this.#malformed("a line is not JSON", line);
    }
    const object = value?.object;
    if (typeof object !== "object" || object === null) throw this.#malformed("a line has no object", line);
    switch (value?.type) {
      case "ADDED":
      case "MODIFIED":
      case "DELETED":
      case "BOOKMARK":
        return this.#onEvent({ type: value.type, object: object as T });
      case "ERROR":
        throw KubeError.fromStatus(this.#what, 500, object);
      default:
        throw this.#malformed(`an event of type ${JSON.stringify(value?.type)}`, line);
    }
  }

  #malformed(message: string, line: string): KubeError {
    return KubeError.failure("Malformed", this.#what, `${message}: ${line.slice(0, shownCharsMax)}`);
  }
}
