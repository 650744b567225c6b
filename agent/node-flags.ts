/**
 * How Node is to be started for `main.ts`.
 *
 * What an agent passes on lies in Buffers, which V8 frees with the young generation: when that is full, or when they are
 * 32 MiB; and it frees them on another thread while as many more are made. With a young generation of 2 MiB an agent that
 * passes on all that two processors can takes 14 MiB above idle instead of 35 to 67.
 */
export const agentNodeFlags: readonly string[] = ["--max-semi-space-size=2"];
