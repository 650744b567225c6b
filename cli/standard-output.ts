/**
 * Standard output as `invoke` and `chan` write it: with back-pressure, and knowing when its reader has gone, as in
 * `lever chan … | head -1`. That is no error: who has read enough has what it wanted.
 */

/** The reader of standard output is gone: nobody wants to know any more. */
export class OutputClosed extends Error {
  constructor() {
    super("the reader of standard output has gone");
    this.name = "OutputClosed";
  }
}

/** Standard output takes no more: a full disk, say. */
export class OutputFailed extends Error {
  constructor(cause: Error) {
    super(`cannot write to standard output: ${cause.message}`, { cause });
    this.name = "OutputFailed";
  }
}

/** Aborted with the reason when standard output cannot be written to any more. */
const broken = new AbortController();

export const outputBroken: AbortSignal = broken.signal;

process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  const isClosed = error.code === "EPIPE" || error.code === "ECONNRESET";
  broken.abort(isClosed ? new OutputClosed() : new OutputFailed(error));
});
// Where errors cannot be said there is nobody to say it to.
process.stderr.on("error", () => {});

/** Resolves when more can be taken. Rejects with OutputClosed or OutputFailed. */
export async function writeOutput(data: string | Uint8Array): Promise<void> {
  outputBroken.throwIfAborted();
  const { stdout } = process;
  if (stdout.write(data)) return;
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  const onBroken = () => reject(outputBroken.reason as Error);
  stdout.once("drain", resolve);
  outputBroken.addEventListener("abort", onBroken, { once: true });
  try {
    await promise;
  } finally {
    stdout.off("drain", resolve);
    outputBroken.removeEventListener("abort", onBroken);
  }
}

/** Resolves when all that was written has been handed over. Rejects as `writeOutput`. */
export async function flushOutput(): Promise<void> {
  outputBroken.throwIfAborted();
  const { promise, resolve } = Promise.withResolvers<void>();
  process.stdout.write("", () => resolve());
  await promise;
  outputBroken.throwIfAborted();
}
