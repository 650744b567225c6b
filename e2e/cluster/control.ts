/**
 * How tests switch parts of a running cluster off and on: one line over a socket, `stop n2`, `start kube-apiserver` or
 * `pause etcd`, answered by `ok` or by what went wrong. The names are those of nodes and of the control plane's programs.
 *
 * The one cluster of a machine is held by a lock that ends with its process.
 */

import { once } from "node:events";
import { chmod } from "node:fs/promises";
import { connect, createServer, type Server } from "node:net";
import path from "node:path";
import { createInterface } from "node:readline";
import type { Cluster } from "./cluster.ts";
import { run } from "./command.ts";
import { stateDirectory } from "./machine.ts";

const socketFile = path.join(stateDirectory, "control.sock");

/** A name without a file: the kernel gives it free when the process has ended, however it ends. */
const lockName = "\0lever-cluster";

/** Throws if another process has a cluster on this machine. */
export async function lockMachine(): Promise<void> {
  const lock = createServer((socket) => socket.destroy());
  lock.listen(lockName);
  try {
    await once(lock, "listening");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EADDRINUSE") throw error;
    throw new Error("another process has a cluster up on this machine, and there is room for one: end that first", {
      cause: error,
    });
  }
  lock.unref();
}

async function obey(cluster: Cluster, verb: string, name: string): Promise<void> {
  if (verb === "stop") await cluster.stop(name);
  else if (verb === "start") await cluster.start(name);
  else if (verb === "pause") cluster.pause(name);
  else if (verb === "resume") cluster.resume(name);
  else throw new Error(`${verb}: expected stop, start, pause or resume`);
}

export async function serveControl(cluster: Cluster): Promise<Server> {
  const server = createServer((socket) => {
    socket.on("error", () => {});
    createInterface(socket).once("line", (line) => {
      const [verb, name = ""] = line.split(" ");
      const done = obey(cluster, verb as string, name);
      done.then(
        () => socket.end("ok\n"),
        (error: unknown) => socket.end(`${error}\n`),
      );
    });
  });
  server.listen(socketFile);
  await once(server, "listening");
  await chmod(socketFile, 0o600);
  return server;
}

async function ask(line: string): Promise<void> {
  const socket = connect(socketFile);
  await once(socket, "connect");
  socket.write(`${line}\n`);
  const [answer] = (await once(createInterface(socket), "line")) as [string];
  socket.destroy();
  if (answer !== "ok") throw new Error(`${line}: ${answer}`);
}

/** A power loss of a node, or the sudden end of a program of the control plane. */
export const powerOff = (name: string): Promise<void> => ask(`stop ${name}`);
export const powerOn = (name: string): Promise<void> => ask(`start ${name}`);

/** A program of the control plane hangs: connections to it open, and nothing is answered. */
export const pause = (name: string): Promise<void> => ask(`pause ${name}`);
export const resume = (name: string): Promise<void> => ask(`resume ${name}`);

/** Takes a node off the network; its pods run on. */
export async function cutOff(node: string): Promise<void> {
  await run("ip", ["link", "set", `lever-${node}`, "down"]);
}

export async function heal(node: string): Promise<void> {
  await run("ip", ["link", "set", `lever-${node}`, "up"]);
}
