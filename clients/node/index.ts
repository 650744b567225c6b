/**
 * Lever for Node: call services, and serve methods.
 *
 *     import { Client, serve } from "leveros";
 */

export { Channel, type ChannelState, type SendOptions } from "@leveros/protocol/channel/channel.ts";
export type { Effect, ErrorCode, ErrorKind, Reason } from "@leveros/protocol/error/catalogue.ts";
export { LeverError } from "@leveros/protocol/error/lever-error.ts";
export { MethodError } from "@leveros/protocol/error/method-error.ts";
export type { Caller } from "@leveros/protocol/session/routing-header.ts";
export type { CallOptions } from "./call-options.ts";
export { Client, type ClientOptions } from "./client.ts";
export { type CallContext, context } from "./context.ts";
export type { ErrorFacts, ErrorReporter } from "./method-server.ts";
export { handOver, open } from "./resources/hooks.ts";
export type { ResourceClass, ResourceMemory } from "./resources/resource-methods.ts";
export { type ServeOptions, type Server, serve } from "./serve.ts";
export type { Remote } from "./service-proxy.ts";
export { mintToken } from "./token.ts";
export { type StandardSchema, validated, validatedChannel } from "./validated.ts";
