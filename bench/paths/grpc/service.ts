/** The service of `grpc`, from echo.proto. */

import { fileURLToPath } from "node:url";
import grpc, { type ServiceClientConstructor } from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

export interface EchoMessage {
  readonly bytes: Uint8Array;
}

const definition = loadSync(fileURLToPath(new URL("./echo.proto", import.meta.url)), { keepCase: true });
const loaded = grpc.loadPackageDefinition(definition) as unknown as {
  lever: { bench: { Echo: ServiceClientConstructor } };
};

export const EchoClient = loaded.lever.bench.Echo;
