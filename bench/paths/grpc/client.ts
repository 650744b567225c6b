/** The client of `grpc`, driven by the load generator. */

import { promisify } from "node:util";
import grpc, { type ServiceError } from "@grpc/grpc-js";
import type { Connection } from "../../load/generator.ts";
import { EchoClient, type EchoMessage } from "./service.ts";

interface EchoCalls {
  Echo(message: EchoMessage, callback: (error: ServiceError | null, reply: EchoMessage) => void): void;
}

export const form = "bytes";

export async function connect([port]: readonly string[]): Promise<Connection<Uint8Array>> {
  const client = new EchoClient(`127.0.0.1:${port}`, grpc.credentials.createInsecure());
  await promisify(client.waitForReady.bind(client))(Date.now() + 10_000);
  const echo = client as unknown as EchoCalls;
  return {
    call: (bytes) =>
      new Promise((resolve, reject) => {
        echo.Echo({ bytes }, (error, reply) => {
          if (error === null) resolve(reply.bytes);
          else reject(error);
        });
      }),
    close: () => client.close(),
  };
}
