/** That this process was told to end: by Ctrl-C, by who runs it, or because its terminal is gone. */

const controller = new AbortController();
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.on(signal, () => controller.abort(new Error(`ended by ${signal}`)));
}

/** Whoever imports this has to end by itself when it is aborted. */
export const interrupted: AbortSignal = controller.signal;
