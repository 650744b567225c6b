/** The transport of a port-forward, over real WebSockets to a server that forwards as the kubelet does. */

import { createHash, randomBytes } from "node:crypto";
import { type AddressInfo, createServer, type Server, type Socket } from "node:net";
import { loadKubeConfig } from "@leveros/operator/kube/kube-config.ts";
import { KubeError } from "@leveros/operator/kube/kube-error.ts";
import type { Transport } from "@leveros/protocol/transport/transport.ts";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { until } from "../../e2e/harness/until.ts";
import { KubeServer } from "./kube-server.fixture.ts";
import { portForward } from "./port-forward.ts";

let kube: KubeServer;
let pod: Server;
let inPod: Socket[];

beforeEach(async () => {
  kube = await KubeServer.start();
  inPod = [];
  pod = createServer((socket) => inPod.push(socket));
  await new Promise<void>((resolve) => pod.listen(0, "127.0.0.1", resolve));
  kube.pod("shop", "hello-1", {}, (pod.address() as AddressInfo).port);
});
afterEach(() => {
  kube[Symbol.dispose]();
  for (const socket of inPod) socket.destroy();
  pod.close();
});

const forward = (name = "hello-1", port = 3839) =>
  portForward(loadKubeConfig({ file: kube.kubeconfig }), { namespace: "shop", name }, port);

interface Received {
  readonly chunks: Uint8Array[];
  drains: number;
  closed: { readonly error: Error | undefined } | undefined;
}

function started(transport: Transport): Received {
  const received: Received = { chunks: [], drains: 0, closed: undefined };
  transport.start({
    onData: (chunk) => received.chunks.push(chunk),
    onDrain: () => received.drains++,
    onClose: (error) => {
      received.closed = { error };
    },
  });
  return received;
}

const hash = (...chunks: readonly Uint8Array[]) => createHash("sha256").update(Buffer.concat(chunks)).digest("hex");
const bytesOf = ({ chunks }: Received) => chunks.reduce((sum, { length }) => sum + length, 0);

describe("a port-forward", () => {
  test("carries bytes both ways, in order, however they are cut", async () => {
    const transport = await forward();
    const received = started(transport);
    await until("connected", () => inPod.length === 1);
    inPod[0]!.pipe(inPod[0]!);
    const sent = Array.from({ length: 200 }, (_, index) => randomBytes(1 + ((index * 7919) % 60_000)));
    let written = 0;
    for (let at = 0; at < sent.length; at += 10) transport.write(sent.slice(at, at + 10), () => written++);
    expect(transport.bufferedBytes).toBeGreaterThan(0);
    const all = sent.reduce((sum, { length }) => sum + length, 0);
    await until("all is back", () => bytesOf(received) === all);
    expect(hash(...received.chunks)).toBe(hash(...sent));
    expect(written).toBe(20);
    expect(transport.bufferedBytes).toBe(0);
    expect(received.drains).toBeGreaterThan(0);
    transport.end();
    await until("closed", () => received.closed !== undefined && inPod[0]!.destroyed);
    expect(received.closed?.error).toBeUndefined();
  });

  test("says that data is waiting while the pod does not read", async () => {
    const transport = await forward();
    const received = started(transport);
    await until("connected", () => inPod.length === 1);
    inPod[0]!.pause();
    let written = 0;
    // More than all the buffers on the way have room for.
    for (let index = 0; index < 64; index++) transport.write([randomBytes(1024 * 1024)], () => written++);
    await until("the buffers on the way are full", async () => {
      const before = transport.bufferedBytes;
      await new Promise((resolve) => setTimeout(resolve, 200));
      return transport.bufferedBytes === before;
    });
    expect(transport.bufferedBytes).toBeGreaterThan(1024 * 1024);
    expect(written).toBeLessThan(64);
    inPod[0]!.resume();
    await until("all was taken", () => transport.bufferedBytes === 0 && written === 64);
    transport.destroy();
    await until("closed", () => received.closed !== undefined);
  });

  test("ends when the pod's end of it does", async () => {
    const received = started(await forward());
    await until("connected", () => inPod.length === 1);
    inPod[0]!.end("bye");
    await until("closed", () => received.closed !== undefined);
    expect(Buffer.concat(received.chunks).toString()).toBe("bye");
    expect(received.closed?.error).toBeUndefined();
  });

  test("to a port at which nobody listens ends with the kubelet's words", async () => {
    const received = started(await forward("hello-1", 4000));
    await until("closed", () => received.closed !== undefined);
    expect(received.closed?.error?.message).toMatch(/forwarding port 4000 to pod hello-1.*ECONNREFUSED/);
  });

  test("that is cut before it was started says so all the same", async () => {
    const transport = await forward();
    await until("connected", () => inPod.length === 1);
    inPod[0]!.end("early");
    await until("the server is through", () => kube.forwards[0]!.socket.readyState === 3);
    await new Promise((resolve) => setTimeout(resolve, 50));
    const received = started(transport);
    await until("closed", () => received.closed !== undefined);
    expect(Buffer.concat(received.chunks).toString()).toBe("early");
  });

  test.each([
    [403, "Forbidden"],
    [401, "Unauthorized"],
    [500, "InternalError"],
  ])("that the server refuses rejects with its status, %i", async (status, reason) => {
    kube.refusal = (_method, path) => (path.endsWith("/portforward") ? status : undefined);
    const error: unknown = await forward().catch((thrown: unknown) => thrown);
    expect(KubeError.is(error)).toBe(true);
    expect(error).toMatchObject({ status, reason, said: { message: "no port-forward to hello-1" } });
  });

  test("to no pod, and to a name that is another path", async () => {
    await expect(forward("hello-2")).rejects.toMatchObject({ status: 404 });
    await expect(forward("../secrets")).rejects.toMatchObject({ reason: "INVALID_OPTION" });
  });

  test("is given up when it is not wanted any more", async () => {
    const config = loadKubeConfig({ file: kube.kubeconfig });
    const given = AbortSignal.abort();
    await expect(portForward(config, { namespace: "shop", name: "hello-1" }, 3839, given)).rejects.toMatchObject({
      reason: "Aborted",
    });
  });
});
