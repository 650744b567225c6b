/**
 * Preloaded into every Node process on a measured path, also into those that a child starts itself (`NODE_OPTIONS`
 * is inherited). Owns the process's line to the bench: it answers for the CPU time used, and lets a program announce
 * itself and answer further questions. By itself it does not keep its process alive, and it ends it when the bench is
 * gone, so that no process outlives a run. Without `BENCH_CONTROL` it does nothing.
 */

import { connect, type Socket } from "node:net";
import { basename } from "node:path";
import { isMainThread } from "node:worker_threads";

type Answer = (data: unknown) => unknown;

const answers = new Map<string, Answer>([["cpuMicros", cpuMicros]]);
const path = process.env["BENCH_CONTROL"];
const socket = path !== undefined && isMainThread ? dial(path) : undefined;

/**
 * Answers the bench's question `name` with what `answer` returns, a JSON value; what it throws is the bench's error.
 * A program that answers questions lives until the bench ends it.
 */
export function onAsk(name: string, answer: Answer): void {
  socket?.ref();
  answers.set(name, answer);
}

/** Tells the bench that this program can be used, and where: `data` is a JSON value. Call it once. */
export function ready(data: unknown = null): void {
  send({ ready: data });
}

/** CPU time of all threads of this process since its start, user and system, in µs. */
function cpuMicros(): number {
  const { user, system } = process.cpuUsage();
  return user + system;
}

function dial(path: string): Socket {
  const socket = connect(path);
  socket.setEncoding("utf8");
  socket.unref();
  let rest = "";
  socket.on("data", (text: string) => {
    const lines = (rest + text).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) void respond(JSON.parse(line));
  });
  socket.on("error", () => {});
  socket.on("close", () => process.exit(1));
  const role = process.env["BENCH_ROLE"] ?? basename(process.argv[1] ?? "node");
  socket.write(`${JSON.stringify({ path: process.env["BENCH_PATH"], role, pid: process.pid })}\n`);
  return socket;
}

async function respond(question: { id: number; ask: string; data: unknown }): Promise<void> {
  try {
    const answer = answers.get(question.ask);
    if (answer === undefined) throw new Error(`this process does not answer "${question.ask}"`);
    send({ id: question.id, answer: await answer(question.data) });
  } catch (error) {
    send({ id: question.id, error: error instanceof Error ? error.message : String(error) });
  }
}

function send(message: unknown): void {
  socket?.write(`${JSON.stringify(message)}\n`);
}
