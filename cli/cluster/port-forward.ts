/**
 * A port of a pod as a transport: the API server's `pods/portforward` over a WebSocket (`v4.channel.k8s.io`), without a
 * port on this machine.
 *
 * Each message begins with the byte of its channel: 0 has the data, in both directions, 1 what the kubelet says went
 * wrong. The first message of each channel only repeats the port. The client library's own port-forward is not used for
 * the stream: it waits for nobody who is slow, does not say when data has left, and hides why the server refuses. Half of
 * such a stream cannot be closed; a session has no use for that either.
 */

import type { KubeConfig } from "@kubernetes/client-node";
import { KubeError } from "@leveros/operator/kube/kube-error.ts";
import { type ObjectName, pods, resourcePath } from "@leveros/operator/kube/kube-object.ts";
import type { Transport, TransportEvents } from "@leveros/protocol/transport/transport.ts";
import { LeverError } from "leveros";
import WebSocket from "ws";

const subprotocol = "v4.channel.k8s.io";
const dataChannel = 0;
const errorChannel = 1;
const portBytes = 2;
const messageCharsMax = 500;
const nobodyRemedy =
  "See whether the pod runs. If nobody listens there, its agent or operator is older than this command: " +
  "`kubectl rollout restart` gives pods the operator's present agent, helm upgrade brings the operator up to date.";
const handshakeTimeoutMs = 10_000;
/** What is sent in one message at the most: the other end holds a whole one. */
const messageBytesMax = 256 * 1024;
/** Of the other end; its own messages have some 32 KiB. */
const receivedBytesMax = 4 * 1024 * 1024;
const errorBytesMax = 64 * 1024;
/** How long the other end has to answer that it closes too. */
const closeTimeoutMs = 1000;

/** Resolves when the kubelet takes the stream; rejects with a KubeError. */
export async function portForward(
  config: KubeConfig,
  pod: ObjectName & { readonly namespace: string },
  port: number,
  signal?: AbortSignal,
): Promise<Transport> {
  const path = `${resourcePath(pods, pod, "portforward")}?ports=${port}`;
  const what = `portforward ${path}`;
  const options: WebSocket.ClientOptions & Record<string, unknown> = {};
  await config.applyToHTTPSOptions(options as Parameters<KubeConfig["applyToHTTPSOptions"]>[0]);
  const server = (config.getCurrentCluster()?.server ?? "").replace(/^http/, "ws").replace(/\/$/, "");
  const socket = new WebSocket(`${server}${path}`, [subprotocol], {
    ...options,
    handshakeTimeout: handshakeTimeoutMs,
    maxPayload: receivedBytesMax,
    perMessageDeflate: false,
  });
  socket.binaryType = "nodebuffer";
  return new Promise((resolve, reject) => {
    const settle = () => signal?.removeEventListener("abort", onAbort);
    const fail = (error: KubeError) => {
      settle();
      socket.on("error", () => {});
      socket.terminate();
      reject(error);
    };
    const onAbort = () => fail(KubeError.failure("Aborted", what, "given up by who asked"));
    if (signal?.aborted === true) return onAbort();
    signal?.addEventListener("abort", onAbort, { once: true });
    socket.once("unexpected-response", (_request, response) => {
      const chunks: Buffer[] = [];
      let bytes = 0;
      response.on("data", (chunk: Buffer) => {
        bytes += chunk.length;
        if (bytes <= errorBytesMax) chunks.push(chunk);
      });
      response.once("close", () => {
        fail(KubeError.fromStatus(what, response.statusCode ?? 0, parsed(Buffer.concat(chunks).toString("utf8"))));
      });
    });
    const onError = (error: Error) => fail(KubeError.failure("ConnectionFailed", what, error.message, error));
    socket.once("error", onError);
    // With the first bytes a message may come at once: it is listened to before that.
    socket.once("open", () => {
      settle();
      socket.off("error", onError);
      resolve(new PortForwardTransport(socket, `${pod.namespace}/${pod.name}:${port}`));
    });
  });
}

class PortForwardTransport implements Transport {
  readonly peerName: string;
  readonly #socket: WebSocket;
  #events: TransportEvents | undefined;
  /** What came before `start`. */
  readonly #early: Buffer[] = [];
  readonly #begun = new Set<number>();
  #error: Error | undefined;
  #bufferedBytes = 0;
  #isClosed = false;

  constructor(socket: WebSocket, peerName: string) {
    this.#socket = socket;
    this.peerName = peerName;
    socket.on("message", (data: Buffer) => this.#onMessage(data));
    socket.on("error", (error) => {
      this.#error ??= error;
    });
    socket.on("close", () => {
      this.#isClosed = true;
      this.#events?.onClose(this.#error);
    });
  }

  get bufferedBytes(): number {
    return this.#bufferedBytes;
  }

  start(events: TransportEvents): void {
    this.#events = events;
    if (this.#early.length > 0 || this.#isClosed) {
      queueMicrotask(() => {
        for (const chunk of this.#early.splice(0)) events.onData(chunk);
        if (this.#isClosed) events.onClose(this.#error);
      });
    }
  }

  write(chunks: readonly Uint8Array[], onWritten: () => void): void {
    const bytes = Buffer.concat(chunks);
    const messages: Buffer[] = [];
    for (let at = 0; at < bytes.length; at += messageBytesMax) {
      messages.push(Buffer.concat([channelByte, bytes.subarray(at, at + messageBytesMax)]));
    }
    if (messages.length === 0) return queueMicrotask(onWritten);
    for (const [index, message] of messages.entries()) {
      const isLast = index === messages.length - 1;
      this.#bufferedBytes += message.length;
      this.#socket.send(message, (error) => {
        this.#bufferedBytes -= message.length;
        if (error) return;
        if (isLast) onWritten();
        this.#events?.onDrain();
      });
    }
  }

  end(): void {
    this.#socket.close(1000);
    // A server that does not answer is not waited for.
    setTimeout(() => this.destroy(), closeTimeoutMs).unref();
  }

  destroy(): void {
    this.#socket.terminate();
  }

  #onMessage(data: Buffer): void {
    const channel = data[0];
    if (channel !== dataChannel && channel !== errorChannel) return;
    let at = 1;
    if (!this.#begun.has(channel)) {
      this.#begun.add(channel);
      at += portBytes;
    }
    if (data.length <= at) return;
    const bytes = data.subarray(at);
    if (channel === errorChannel) {
      const text = bytes.toString("utf8").trim().slice(0, messageCharsMax);
      this.#error = new LeverError("CONNECTION_LOST", text, { details: { remedy: nobodyRemedy } });
      return this.#socket.terminate();
    }
    if (this.#events === undefined || this.#early.length > 0) this.#early.push(bytes);
    else this.#events.onData(bytes);
  }
}

const channelByte = Uint8Array.of(dataChannel);

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
