/** The server of `grpc`. */

import { promisify } from "node:util";
import grpc, { type ServerUnaryCall, type sendUnaryData } from "@grpc/grpc-js";
import { ready } from "../../control/probe.ts";
import { EchoClient, type EchoMessage } from "./service.ts";

const server = new grpc.Server();
server.addService(EchoClient.service, {
  Echo: (call: ServerUnaryCall<EchoMessage, EchoMessage>, reply: sendUnaryData<EchoMessage>) =>
    reply(null, call.request),
});
ready(await promisify(server.bindAsync.bind(server))("127.0.0.1:0", grpc.ServerCredentials.createInsecure()));
