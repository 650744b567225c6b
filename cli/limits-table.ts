/** The one table of limits, `docs/limits.md`: every figure is read from the code that enforces it. */

import { chainResourcesMax } from "@leveros/agent/core/call-chain.ts";
import { defaultAgentLimits } from "@leveros/agent/core/limits.ts";
import { movedRefusalsMax } from "@leveros/agent/core/retry/retry-policy.ts";
import { adminConnectionLimits, adminRequestMsMax } from "@leveros/agent/host/admin-server.ts";
import { handshakesMaxDefault, handshakesOfAddressMaxDefault, handshakeTimeoutMs } from "@leveros/agent/host/tls.ts";
import { lingerMsMax } from "@leveros/gateway/http/answer.ts";
import { bodyBytesMaxDefault, defaultDoorLimits as door } from "@leveros/gateway/http/door.ts";
import {
  gracePeriodSecondsDefault,
  gracePeriodSecondsMin,
  idleSecondsDefault,
  idleSecondsMax,
  timeoutMillisecondsMax,
} from "@leveros/operator/api/v1alpha1/lever-service.ts";
import { documentsMax, fileBytesMax } from "@leveros/operator/api/yaml-document.ts";
import { leavingMax, rebalancingMax } from "@leveros/operator/core/ownership/service-slots.ts";
import {
  agentSessionsMax,
  agentSessionsOfPeerMax,
  peopleSessionsMax,
} from "@leveros/operator/discovery/operator-server.ts";
import {
  addressRate,
  podRate,
  reviewRate,
  reviewsAtOnceMax,
  strangerLimits,
} from "@leveros/operator/identity/issue-limits.ts";
import { authorityLifeMs, certificateLifeMs } from "@leveros/operator/identity/lifetimes.ts";
import { watchedFoldersMax } from "@leveros/operator/local/folder-watch.ts";
import { replicasMax as localReplicasMax, replacementMsMax } from "@leveros/operator/local/local-workload.ts";
import { allowedCallersMax, exposedMethodsMax } from "@leveros/protocol/control/access.ts";
import {
  defaultServicePolicy,
  instancesPerServiceMax,
  slotsDefault,
  slotsMax,
  subscriptionsMax,
} from "@leveros/protocol/control/discovery.ts";
import {
  handOverKeepMs,
  hookTimeoutMs,
  leaseMsDefault,
  leaseMsMax,
  leaseTimes,
  rebalanceDrainMs,
  resourceStateBytesMax,
} from "@leveros/protocol/control/lease.ts";
import { registeredMethodsMax } from "@leveros/protocol/control/registration.ts";
import { faultDetailsBytesMax, faultMessageBytesMax } from "@leveros/protocol/error/fault.ts";
import { framePayloadBytesMax } from "@leveros/protocol/frame/frame.ts";
import { assemblyBytesMax } from "@leveros/protocol/invocation/assembly.ts";
import {
  argsBytesHardMax,
  errorValueBytesMax,
  messageBytesHardMax,
  resultBytesHardMax,
} from "@leveros/protocol/invocation/item-limits.ts";
import {
  strangersShare,
  tokenBytesMaxOfSlot,
  tokenBytesOfProcessMax,
  tokenSkewMs,
  tokensMax,
  tokensOfProcessMax,
  tokenWindowMs,
} from "@leveros/protocol/invocation/token-memory.ts";
import {
  controlBacklogBytesMax,
  defaultSessionLimits,
  headerFieldsBytesMax,
  helloBytesMax,
  operatorLinkTimes,
  pingsPerSecondMax,
  queuedAnswerBytesMax,
  targetBytesMax,
  writeHighWaterBytes,
} from "@leveros/protocol/session/limits.ts";
import { cursorBytesMax, tokenBytesMax } from "@leveros/protocol/session/routing-header.ts";
import { methodCharsMax, resourceBytesMax, urlCharsMax } from "@leveros/protocol/target/lever-url.ts";
import { valueDepthMax, valueElementsMax } from "@leveros/protocol/value/limits.ts";
import { resumeTimeoutMsDefault } from "../clients/node/call-options.ts";
import { resourcesMaxDefault, resourcesMaxMax } from "../clients/node/method-server.ts";
import { drainTimeoutMsDefault } from "../clients/node/serve.ts";
import { filesMax, foldersMax } from "./manifest-files.ts";

interface Limit {
  readonly what: string;
  readonly value: string;
  /** Who sets it, or `fixed`. */
  readonly setBy: string;
  /** What exceeding it gives. */
  readonly gives: string;
}

function bytes(count: number): string {
  if (count % (1024 * 1024) === 0) return `${count / (1024 * 1024)} MiB`;
  return count % 1024 === 0 ? `${count / 1024} KiB` : `${count} B`;
}

function time(ms: number): string {
  if (ms % 60_000 === 0) return `${ms / 60_000} min`;
  return ms >= 1000 ? `${ms / 1000} s` : `${ms} ms`;
}

function count(number: number): string {
  return number.toLocaleString("en-US");
}

const { limits: service, methods } = defaultServicePolicy;
const session = defaultSessionLimits;
const agent = defaultAgentLimits;
const lease = leaseTimes(leaseMsDefault);

// biome-ignore format: a table is read by its rows.
const groups: readonly (readonly [title: string, limits: readonly Limit[]])[] = [
  [
    "What a service's manifest sets",
    [
      { what: "arguments of a call or channel", value: bytes(service.argsBytes), setBy: `spec.limits.argsBytes, at most ${bytes(argsBytesHardMax)}`, gives: "ARGS_TOO_LARGE" },
      { what: "result of a call", value: bytes(service.resultBytes), setBy: `spec.limits.resultBytes, at most ${bytes(resultBytesHardMax)}`, gives: "RESULT_TOO_LARGE" },
      { what: "message of a channel", value: bytes(service.messageBytes), setBy: `spec.limits.messageBytes, at most ${bytes(messageBytesHardMax)}`, gives: "MESSAGE_TOO_LARGE; the channel ends" },
      { what: "calls that run in an instance", value: count(service.inFlightPerInstance), setBy: "spec.limits.inFlightPerInstance", gives: "OVERLOADED; tried elsewhere" },
      { what: "channels open with an instance", value: count(service.channelsPerInstance), setBy: "spec.limits.channelsPerInstance", gives: "OVERLOADED; tried elsewhere" },
      { what: "time of a call whose caller sets none", value: time(methods[0]?.timeoutMs ?? 0), setBy: `spec.methods, at most ${time(timeoutMillisecondsMax)}`, gives: "DEADLINE_EXCEEDED" },
      { what: "callers of other environments", value: count(allowedCallersMax), setBy: "spec.access.callers", gives: "the manifest is refused" },
      { what: "methods that the gateway exposes", value: count(exposedMethodsMax), setBy: "spec.access.gateway.methods", gives: "the manifest is refused" },
      { what: "time that an instance has to end", value: time(gracePeriodSecondsDefault * 1000), setBy: `spec.template.spec.terminationGracePeriodSeconds, at least ${time(gracePeriodSecondsMin * 1000)}`, gives: "what runs still is killed" },
    ],
  ],
  [
    "Values and names",
    [
      { what: "nesting of a value", value: count(valueDepthMax), setBy: "fixed", gives: "VALUE_NOT_ENCODABLE, INVALID_VALUE_ENCODING" },
      { what: "elements of a value", value: count(valueElementsMax), setBy: "fixed", gives: "VALUE_NOT_ENCODABLE, INVALID_VALUE_ENCODING" },
      { what: "error's value (what a method throws, or a channel fails with)", value: bytes(errorValueBytesMax), setBy: "fixed", gives: "RESULT_TOO_LARGE" },
      { what: "text, and details, of an error", value: `${bytes(faultMessageBytesMax)}, ${bytes(faultDetailsBytesMax)}`, setBy: "fixed", gives: "cut, left out" },
      { what: "Lever URL", value: `${count(urlCharsMax)} characters`, setBy: "fixed", gives: "INVALID_URL" },
      { what: "method's name", value: `${methodCharsMax} characters`, setBy: "fixed", gives: "INVALID_URL" },
      { what: "routing header (resource, token, trace, metadata)", value: bytes(headerFieldsBytesMax), setBy: "fixed", gives: "HEADER_TOO_LARGE" },
      { what: "methods of an app", value: count(registeredMethodsMax), setBy: "fixed", gives: "INVALID_OPTION" },
    ],
  ],
  [
    "A session",
    [
      { what: "payload of a frame", value: bytes(framePayloadBytesMax), setBy: "fixed", gives: "PROTOCOL_VIOLATION; the session ends" },
      { what: "credit of a stream, each direction", value: bytes(session.streamWindowBytes), setBy: "HELLO", gives: "the sender waits" },
      { what: "credit of a session, each direction", value: bytes(session.sessionWindowBytes), setBy: "HELLO; 4 MiB for clients outside", gives: "the sender waits; half is kept for calls" },
      { what: "streams that the peer has open", value: count(session.streamsMax), setBy: "HELLO; 1,000 for clients outside", gives: "OVERLOADED" },
      { what: "targets with a number", value: count(session.targetsMax), setBy: "HELLO", gives: "further targets travel as text" },
      { what: "HELLO, and a target's text", value: `${bytes(helloBytesMax)}, ${bytes(targetBytesMax)}`, setBy: "fixed", gives: "PROTOCOL_VIOLATION; the session ends" },
      { what: "time until the peer's HELLO", value: time(session.helloTimeoutMs), setBy: "fixed", gives: "CONNECTION_LOST" },
      { what: "PING after, dead after", value: `${time(session.pingIntervalMs)}, ${time(session.silenceMs)}`, setBy: `fixed; dead after 15 s for clients outside; ${time(operatorLinkTimes.pingIntervalMs)}, ${time(operatorLinkTimes.silenceMs)} with the operator; none on a Unix socket`, gives: "CONNECTION_LOST" },
      { what: "PINGs answered in a second", value: count(pingsPerSecondMax), setBy: "fixed", gives: "PROTOCOL_VIOLATION; the session ends" },
      { what: "unwritten bytes before streams wait", value: bytes(writeHighWaterBytes), setBy: "fixed", gives: "frames wait in their streams" },
      { what: "answers that the peer does not read", value: `${bytes(controlBacklogBytesMax)} of control frames, ${bytes(queuedAnswerBytesMax)} of replies`, setBy: "fixed", gives: "the session ends; new streams are OVERLOADED" },
      { what: "unfinished items that are being put together", value: bytes(assemblyBytesMax), setBy: "fixed, for a process", gives: "OVERLOADED" },
      { what: "streams after a GOAWAY", value: time(session.goAwayGraceMs), setBy: "fixed", gives: "CONNECTION_LOST" },
    ],
  ],
  [
    "Resources",
    [
      { what: "resource", value: bytes(resourceBytesMax), setBy: "fixed", gives: "INVALID_URL" },
      { what: "slots of a service", value: count(slotsDefault), setBy: `spec.ownership.slots, at most ${count(slotsMax)}; never changes`, gives: "a problem with its place" },
      { what: "resources of an instance", value: count(resourcesMaxDefault), setBy: `serve(…, { resourcesMax }), at most ${count(resourcesMaxMax)}`, gives: "OVERLOADED" },
      { what: "a resource without calls or channels", value: time(idleSecondsDefault * 1000), setBy: `spec.ownership.idleSeconds, at most ${count(idleSecondsMax)} s`, gives: "it is closed, and made anew by the next call" },
      { what: "lease of an instance that does not renew", value: time(leaseMsDefault), setBy: `spec.ownership.leaseSeconds, at most ${time(leaseMsMax)}`, gives: `nothing is admitted and methods are aborted after ${time(lease.admitMs)}, nothing leaves after ${time(lease.gateMs)} (LEASE_LAPSED), others serve after ${time(lease.leaseMs)} to 16.5 s` },
      { what: "hook of a resource (constructor, hand-over, disposal)", value: time(hookTimeoutMs), setBy: "fixed", gives: "HOOK_FAILED; it is handed over without state" },
      { what: "methods that run while a slot is moved for balance", value: time(rebalanceDrainMs), setBy: "fixed", gives: "the move is called off" },
      { what: "methods that run while their instance is to end", value: time(drainTimeoutMsDefault), setBy: "serve(…, { drainTimeoutMs })", gives: "they are cut off" },
      { what: "slots of a service that move at a time", value: `${rebalancingMax} for balance, ${leavingMax} of instances that end`, setBy: "fixed", gives: "the others wait" },
      { what: "state that a resource hands over", value: bytes(resourceStateBytesMax), setBy: "fixed", gives: "its slot is handed over without state: \"lost\"" },
      { what: "state handed over by an agent, together; kept for", value: `${bytes(agent.handOverBytesMax)}, ${time(handOverKeepMs)}`, setBy: "fixed", gives: "slots are handed over without state: \"lost\"" },
      { what: "refusals of a call whose resource moves", value: count(movedRefusalsMax), setBy: "fixed; the deadline usually comes first", gives: "MOVED" },
      { what: "resources in a chain of calls that a hook began", value: count(chainResourcesMax), setBy: "fixed", gives: "HOOK_REENTRY" },
      { what: "cursor of a channel's message", value: bytes(cursorBytesMax), setBy: "fixed", gives: "INVALID_OPTION" },
      { what: "a channel with resume that is opened again", value: time(resumeTimeoutMsDefault), setBy: "resumeTimeoutMs", gives: "the error that ended it" },
    ],
  ],
  [
    "Idempotency tokens",
    [
      { what: "token", value: bytes(tokenBytesMax), setBy: "fixed", gives: "INVALID_OPTION" },
      { what: "for how long an outcome is remembered", value: time(tokenWindowMs), setBy: "fixed", gives: "a repeat later is TOKEN_MEMORY_LOST if it says when its token was made, else it runs" },
      { what: "clocks of who makes tokens and who remembers them apart by", value: time(tokenSkewMs), setBy: "fixed", gives: "behind: TOKEN_MEMORY_LOST after a crash, where the token may have run; ahead: INVALID_OPTION" },
      { what: "outcomes remembered for a slot", value: `${count(tokensMax)}, ${bytes(tokenBytesMaxOfSlot)}`, setBy: "fixed", gives: "new tokens are OVERLOADED; none is forgotten early" },
      { what: "outcomes remembered by a process", value: `${count(tokensOfProcessMax)}, ${bytes(tokenBytesOfProcessMax)}`, setBy: "fixed", gives: "new tokens are OVERLOADED; none is forgotten early" },
      { what: "of a slot's, those of callers from outside and of other environments", value: `${count(tokensMax * strangersShare)}, ${bytes(tokenBytesMaxOfSlot * strangersShare)}`, setBy: "fixed", gives: "their new tokens are OVERLOADED" },
      { what: "of a process's, those of callers from outside and of other environments", value: `${count(tokensOfProcessMax * strangersShare)}, ${bytes(tokenBytesOfProcessMax * strangersShare)}`, setBy: "fixed", gives: "their new tokens are OVERLOADED" },
    ],
  ],
  [
    "An agent",
    [
      { what: "calls that wait for a table, a connection or a resource's holder", value: count(agent.heldCallsMax), setBy: "fixed", gives: "OVERLOADED" },
      { what: "arguments kept for a retry, together", value: bytes(agent.retainedBytesMax), setBy: "fixed", gives: "no retry after the call has left" },
      { what: "attempts of a call", value: count(agent.attemptsMax), setBy: "fixed", gives: "the last error" },
      { what: "connecting to a peer", value: time(agent.dialTimeoutMs), setBy: "fixed", gives: "INSTANCE_UNREACHABLE; tried elsewhere" },
      { what: "sessions: of apps, of peers, of clients outside, each", value: count(agent.sessionsMax), setBy: "fixed", gives: "the connection is closed" },
      { what: "sessions of one peer that has proven who it is", value: count(agent.sessionsOfPeerMax), setBy: "fixed", gives: "the connection is closed" },
      { what: "connections at the admin port (of agents, gateways and the operator), of one address", value: `${count(adminConnectionLimits.max)}, ${count(adminConnectionLimits.ofKeyMax)}`, setBy: "fixed", gives: "the oldest that waits for no answer is closed" },
      { what: "time for a request at the admin port", value: time(adminRequestMsMax), setBy: "fixed", gives: "the connection is closed" },
      { what: "services subscribed to", value: count(subscriptionsMax), setBy: "fixed", gives: "OVERLOADED" },
      {
        what: "sessions at a replica of a cluster's operator: agents and gateways, people",
        value: `${count(agentSessionsMax)}, ${count(peopleSessionsMax)}`,
        setBy: "fixed",
        gives: "OVERLOADED",
      },
      { what: "the same of one agent or gateway", value: count(agentSessionsOfPeerMax), setBy: "fixed", gives: "the oldest of them is ended: OVERLOADED" },
      { what: "instances of a service", value: count(instancesPerServiceMax), setBy: "fixed", gives: "OVERLOADED, at the operator" },
    ],
  ],
  [
    "Identity, in a cluster",
    [
      { what: "life of a certificate", value: time(certificateLifeMs), setBy: "fixed; renewed after two thirds", gives: "connections are refused" },
      { what: "life of a CA that Lever makes", value: time(authorityLifeMs), setBy: "fixed; the next one is made when a third is left", gives: "the next one signs" },
      { what: "requests for certificates of one pod", value: `${podRate.burst}, then one in ${time(1000 / podRate.ratePerSecond)}`, setBy: "fixed", gives: "OVERLOADED" },
      { what: "requests for certificates at one replica", value: `${count(reviewRate.burst)}, then ${count(reviewRate.ratePerSecond)} a second, ${count(reviewsAtOnceMax)} at once`, setBy: "fixed", gives: "OVERLOADED" },
      { what: "the same from one address", value: `${count(addressRate.burst)}, then ${count(addressRate.ratePerSecond)} a second`, setBy: "fixed", gives: "OVERLOADED, before anything is looked at" },
      { what: "a session without a certificate", value: `${time(strangerLimits.sessionMsMax)}, ${count(strangerLimits.sessionsMax)} at once`, setBy: "fixed", gives: "it is ended" },
      { what: "sessions without a certificate from one address", value: count(strangerLimits.sessionsOfPeerMax), setBy: "fixed", gives: "the oldest of them is ended: OVERLOADED" },
      { what: "a TLS handshake", value: time(handshakeTimeoutMs), setBy: "fixed", gives: "the connection is closed" },
      { what: "TLS handshakes under way at a port", value: count(handshakesMaxDefault), setBy: "fixed", gives: "the connection is closed, or one that is under way for over 3 s" },
      { what: "the same from one address", value: count(handshakesOfAddressMaxDefault), setBy: "fixed", gives: "the same, of this address alone" },
    ],
  ],
  [
    "The gateway's HTTP, manifests, `lever dev`",
    [
      { what: "body of a request, line of an exchange", value: bytes(bodyBytesMaxDefault), setBy: "LEVER_BODY_BYTES_MAX", gives: "ARGS_TOO_LARGE, MESSAGE_TOO_LARGE" },
      { what: "a channel over HTTP", value: time(door.exchangeMsMax), setBy: "fixed", gives: "CHANNEL_TIME_LIMIT" },
      { what: "request line and headers", value: `${bytes(door.headerBytesMax)}, ${count(door.headersMax)} headers`, setBy: "fixed", gives: "HEADER_TOO_LARGE" },
      { what: "time for a request's headers, for its body", value: `${time(door.headersMsMax)}, ${time(door.bodyMsMax)}`, setBy: "fixed", gives: "HTTP_REQUEST_TIMEOUT" },
      { what: "bodies and results held for HTTP clients, together", value: bytes(door.heldBytesMax), setBy: "fixed", gives: "OVERLOADED" },
      { what: "HTTP connections", value: count(door.connectionsMax), setBy: "fixed", gives: "the connection is closed" },
      { what: "an HTTP connection without a request", value: time(door.idleMsMax), setBy: "fixed", gives: "the connection is closed" },
      { what: "rest of a body after an early answer", value: time(lingerMsMax), setBy: "fixed", gives: "the connection is closed" },
      { what: "a manifest file", value: `${bytes(fileBytesMax)}, ${count(documentsMax)} documents`, setBy: "fixed", gives: "a problem with its place" },
      { what: "manifests, and folders that are searched for them", value: `${count(filesMax)}, ${count(foldersMax)}`, setBy: "fixed", gives: "INVALID_OPTION" },
      { what: "a line of the input of `lever chan`", value: bytes(messageBytesHardMax), setBy: "fixed", gives: "INVALID_ARGUMENTS" },
      { what: "folders that `lever dev --watch` watches for a service", value: count(watchedFoldersMax), setBy: "fixed", gives: "the rest is not watched; it is said" },
      { what: "start of an instance that is to replace another", value: time(replacementMsMax), setBy: "fixed", gives: "it is given up; the other goes on" },
      { what: "local instances of a service", value: count(localReplicasMax), setBy: "fixed", gives: "an error" },
    ],
  ],
];

/** The page in Markdown. */
export function limitsPage(): string {
  const lines = [
    "# Limits",
    "",
    "Everything has a limit, and nothing grows with what a peer sends. Made by `npm run generate` from the code that enforces them.",
  ];
  for (const [title, limits] of groups) {
    lines.push("", `## ${title}`, "", "| what | limit | set by | exceeding it gives |", "|---|---|---|---|");
    for (const { what, value, setBy, gives } of limits) lines.push(`| ${what} | ${value} | ${setBy} | ${gives} |`);
  }
  return `${lines.join("\n")}\n`;
}
