/** The calls in flight on one connection: stream ids out, replies in. */

/** Gives each call a stream id, the least that is free, and finds the call of a reply. */
export class Calls<Reply> {
  #waiting: (((reply: Reply) => void) | undefined)[] = [];
  #free: number[] = [];

  /** Sends by `send`, which is given the call's stream id. */
  start(send: (streamId: number) => void): Promise<Reply> {
    return new Promise((resolve) => {
      const streamId = this.#free.pop() ?? this.#waiting.length;
      this.#waiting[streamId] = resolve;
      send(streamId);
    });
  }

  reply(streamId: number, reply: Reply): void {
    const resolve = this.#waiting[streamId];
    if (resolve === undefined) throw new Error(`a reply on stream ${streamId}, on which no call waits`);
    this.#waiting[streamId] = undefined;
    this.#free.push(streamId);
    resolve(reply);
  }
}
