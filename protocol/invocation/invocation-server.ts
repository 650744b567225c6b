/**
 * Invocations at the end that runs them: gathers the arguments of each stream that the peer opens, has the host run the
 * method, and answers. The host (a client library) knows the methods; this file knows what an answer has to say.
 *
 * Invariant: REFUSE is sent only for a method that was not entered; after that every answer says `ran`. A stream counts
 * against the session's limit until its method has returned, whatever the peer does meanwhile.
 */

import { Channel, RawChannel } from "../channel/channel.ts";
import { DeadlineEntry, type DeadlineWheel } from "../deadline/deadline-wheel.ts";
import { decodeFault, encodeFault } from "../error/fault.ts";
import { LeverError } from "../error/lever-error.ts";
import { MethodError } from "../error/method-error.ts";
import { Flag, FrameType, replyLoadBytes } from "../frame/frame.ts";
import { keptPayload } from "../frame/kept-payload.ts";
import type { Gate } from "../session/gate.ts";
import { decodeFields, FieldKey, type RoutingFields, routingFixedBytes } from "../session/routing-header.ts";
import type { OpenFrame, Session } from "../session/session.ts";
import { flowCost, Phase, type Stream, type StreamHandler } from "../session/stream.ts";
import type { Target } from "../target/target.ts";
import { copyBytes } from "../value/copy-bytes.ts";
import { type Encoded, encodeMessage, encodeResult } from "../value/form.ts";
import { Assembly, type AssemblyBudget } from "./assembly.ts";
import { argsBytesHardMax, errorValueBytesMax, resultBytesHardMax } from "./item-limits.ts";
import { fromOutside, type Outcome, type OutcomeListener, type TokenCall, type TokenMemory } from "./token-memory.ts";

/** Who has the methods. */
export interface MethodHost {
  /**
   * Before `prepare`, for what names a resource or has a token: what it throws refuses it, with effect `none`. It
   * returns the memory of tokens that the call falls into; a channel's token is not remembered. One that is waited for
   * may be done with (`isDone`) when it comes.
   */
  admit?(invocation: Invocation): TokenMemory | undefined | Promise<TokenMemory | undefined>;
  /** Just before a method that `admit` was asked for is entered: what it throws refuses the call, with effect `none`. */
  enters?(invocation: Invocation): void;
  /**
   * Finds the method and checks the arguments; what it throws refuses the call, with effect `none`. The function that
   * it returns enters the method; its result, or what it throws, is the method's own. It may take its time (validators
   * may be asynchronous), and then gives a promise.
   */
  prepare(invocation: Invocation, args: Encoded): (() => unknown) | Promise<() => unknown>;
  /** As `prepare`, for a streaming method. */
  prepareChannel(
    invocation: Invocation,
    args: Encoded,
  ): ((channel: Channel) => unknown) | Promise<(channel: Channel) => unknown>;
  /** The method threw something that is no MethodError: what the caller may read of it. To be logged there. */
  describeThrown(invocation: Invocation, thrown: unknown): string;
}

export interface InvocationServerOptions {
  readonly host: MethodHost;
  readonly wheel: DeadlineWheel;
  readonly budget: AssemblyBudget;
  now(): number;
}

/** An app leaves its load 0; its agent fills it in. */
const noLoad = new Uint8Array(replyLoadBytes);

export class InvocationServer {
  readonly options: InvocationServerOptions;
  #running = 0;
  /** Taken from the peer, and not answered to the end yet. */
  #unanswered = 0;
  #whenIdle: (() => void)[] = [];

  constructor(options: InvocationServerOptions) {
    this.options = options;
  }

  /** Calls and channels whose methods run. */
  get running(): number {
    return this.#running;
  }

  /** For the session's handler. */
  onOpen(stream: Stream, open: OpenFrame): void {
    const invocation = new Invocation(this, stream, open.target, open.timeoutMs);
    stream.handler = invocation;
    this.#unanswered++;
    const { frame, payloadAt, flags } = open;
    if (payloadAt > routingFixedBytes) {
      const fields = frame.subarray(routingFixedBytes, payloadAt);
      try {
        // An agent puts the caller in front of every call, and most methods never ask for it. What others may have
        // written is decoded now: a call with fields that are none is refused, instead of failing within the method.
        if (isCallerOnly(fields)) invocation.encodedCaller = fields;
        else invocation.fields = decodeFields(fields);
      } catch (error) {
        return invocation.refuse(LeverError.from(error));
      }
    }
    invocation.onArgs(flags, frame.subarray(payloadAt), flowCost(frame));
  }

  /** Nothing runs, and nothing is still to be answered. */
  get isIdle(): boolean {
    return this.#unanswered === 0;
  }

  /** Resolves when every method has returned, and what it answered has been handed to the transport. */
  idle(): Promise<void> {
    if (this.#unanswered === 0) return Promise.resolve();
    return new Promise((resolve) => this.#whenIdle.push(resolve));
  }

  entered(): void {
    this.#running++;
  }

  left(): void {
    this.#running--;
  }

  answered(): void {
    this.#unanswered--;
    if (this.#unanswered > 0 || this.#whenIdle.length === 0) return;
    const waiting = this.#whenIdle;
    this.#whenIdle = [];
    for (const resolve of waiting) resolve();
  }
}

const noFields: RoutingFields = {};

function isCallerOnly(fields: Uint8Array): boolean {
  return fields[0] === FieldKey.Caller && fields.length === 3 + (((fields[1] ?? 0) << 8) | (fields[2] ?? 0));
}

/** One call or channel at the instance. */
export class Invocation extends DeadlineEntry implements StreamHandler {
  readonly target: Target;
  /** The fields of a call that has no others, until they are asked for. */
  encodedCaller: Uint8Array | undefined;
  #fields: RoutingFields = noFields;
  /** When the caller stops waiting, on the `now` of the server; undefined: never, or the channel is open. */
  readonly deadlineAt: number | undefined;
  /** As `deadlineAt`, of a channel too: until then its arguments have to be there. */
  readonly openDeadlineAt: number | undefined;
  /** For the host. */
  attachment: unknown = undefined;
  /** Called once, when the method has returned or thrown, or is not entered. Must not throw. */
  onReturned: (() => void) | undefined = undefined;
  /** Called once, after `onReturned`, when all that the method said has been handed to the transport, or never will be. */
  onAnswered: (() => void) | undefined = undefined;
  /** At `onReturned`: its stream had ended before the method did. */
  hasLostCaller = false;
  readonly #server: InvocationServer;
  readonly #stream: Stream;
  #assembly: Assembly | undefined;
  #controller: AbortController | undefined;
  #abortedWith: LeverError | MethodError | undefined;
  #isDone = false;
  #isAnswered = false;
  #isAdmitted = false;
  #raw: RawChannel | undefined;
  #isCursorTaken = false;
  /** The token that this invocation runs for. */
  #token: { readonly memory: TokenMemory; readonly call: TokenCall } | undefined;
  /** Lets go of what waits for another run with the same token. */
  #stopWaiting: (() => void) | undefined;

  constructor(server: InvocationServer, stream: Stream, target: Target, timeoutMs: number) {
    super();
    this.#server = server;
    this.#stream = stream;
    this.target = target;
    this.openDeadlineAt = timeoutMs === 0 ? undefined : server.options.now() + timeoutMs;
    this.deadlineAt = stream.isChannel ? undefined : this.openDeadlineAt;
  }

  get session(): Session {
    return this.#stream.session;
  }

  get streamId(): number {
    return this.#stream.id;
  }

  /** The stream has ended; the method may run nevertheless. */
  get isStreamClosed(): boolean {
    return this.#stream.isClosed;
  }

  /** This end has nothing more to say on the stream: the other one may end it at any moment. */
  get isOutputEnded(): boolean {
    return this.#stream.isClosed || this.#stream.outPhase === Phase.Done;
  }

  /** As of `Stream`: asked for all that the method says to its caller. */
  set gate(gate: Gate) {
    this.#stream.gate = gate;
  }

  /** The cursor with which the channel was opened again: from here on the method is taken to go on behind it. */
  takeCursor(): string | undefined {
    this.#isCursorTaken = true;
    return this.fields.cursor;
  }

  /** Ends the call or channel for the method: its signal is aborted; a channel is reset. */
  abort(error: LeverError): void {
    this.#abort(error);
    this.#raw?.cancel(error);
  }

  /** What came in the routing header. Never throws: a caller that cannot be read is none. */
  get fields(): RoutingFields {
    const encoded = this.encodedCaller;
    if (encoded !== undefined) {
      this.encodedCaller = undefined;
      try {
        this.#fields = decodeFields(encoded);
      } catch {
        // Only an agent's bug, or a peer that is none: nobody is believed to be somebody for it.
      }
    }
    return this.#fields;
  }

  set fields(fields: RoutingFields) {
    this.#fields = fields;
  }

  /** Aborted when the caller cancels, its deadline passes, or the way to it is lost. Made when first asked for. */
  get signal(): AbortSignal {
    let controller = this.#controller;
    if (controller === undefined) {
      controller = new AbortController();
      this.#controller = controller;
      if (this.#abortedWith !== undefined) controller.abort(this.#abortedWith);
      else if (this.deadlineAt !== undefined && !this.#isDone) this.#server.options.wheel.add(this, this.deadlineAt);
    }
    return controller.signal;
  }

  /** The method has returned or thrown, or was refused. */
  get isDone(): boolean {
    return this.#isDone;
  }

  override onDeadline(): void {
    const error = new LeverError("DEADLINE_EXCEEDED", `the deadline of ${this.target.text} has passed`);
    if (this.#stopWaiting !== undefined) this.#answerWith(fault(error));
    else if (this.#assembly === undefined) this.#abort(error);
    else this.refuse(error);
  }

  // ---------------------------------------------------------------- the stream

  onFrame(_stream: Stream, type: number, flags: number, payload: Uint8Array): void {
    if (type === FrameType.Open) this.onArgs(flags, payload, flowCost(payload));
    else if (type === FrameType.Reset) this.#abort(decodeFault(payload));
  }

  onWritable(): void {
    if (this.#isDone) this.#answered();
  }

  onLost(_stream: Stream, error: LeverError): void {
    this.#abort(error);
  }

  #answered(): void {
    if (this.#isAnswered) return;
    this.#isAnswered = true;
    this.#server.answered();
    this.onAnswered?.();
  }

  #abort(error: LeverError | MethodError): void {
    // What is left of the answer is dropped with the stream.
    if (this.#isDone) return this.#answered();
    if (this.#assembly !== undefined || this.#stopWaiting !== undefined) {
      // Not entered yet: nothing else will let go of the stream.
      this.#assembly?.drop();
      this.#assembly = undefined;
      this.#giveUp();
    }
    if (this.#abortedWith !== undefined) return;
    this.#abortedWith = error;
    this.#controller?.abort(error);
  }

  /** A fragment of the arguments. */
  onArgs(flags: number, fragment: Uint8Array, cost: number): void {
    const stream = this.#stream;
    stream.consume(cost);
    if ((flags & Flag.More) !== 0) {
      if (this.#assembly === undefined) {
        this.#assembly = new Assembly(this.#server.options.budget);
        // Arguments that never end must not be held for ever.
        if (this.openDeadlineAt !== undefined) this.#server.options.wheel.add(this, this.openDeadlineAt);
      }
      if (this.#assembly.bytes + fragment.length > argsBytesHardMax) {
        return this.refuse(
          new LeverError("ARGS_TOO_LARGE", `the arguments are larger than ${argsBytesHardMax} bytes; use a channel`),
        );
      }
      if (!this.#assembly.add(fragment)) {
        this.refuse(new LeverError("OVERLOADED", "too many large arguments are being received at once"));
      }
      return;
    }
    let bytes = fragment;
    if (this.#assembly !== undefined) {
      bytes = this.#assembly.finish(fragment);
      this.#assembly = undefined;
      if (stream.isChannel) this.#server.options.wheel.remove(this);
    }
    const args: Encoded = { bytes, form: (flags & Flag.Bytes) !== 0 ? "bytes" : "value" };
    const { resource, token } = this.#fields;
    if (resource !== undefined || token !== undefined) this.#admit(args);
    else this.#run(args);
  }

  refuse(error: LeverError): void {
    this.#assembly?.drop();
    this.#assembly = undefined;
    this.#stream.refuse(encodeFault(error.withEffect("none")));
    this.#giveUp();
  }

  /** The method is not entered. */
  #giveUp(): void {
    this.#letGo();
    this.#stream.release();
    this.#answered();
  }

  #letGo(): void {
    this.#isDone = true;
    this.#server.options.wheel.remove(this);
    this.#stopWaiting?.();
    this.#stopWaiting = undefined;
    const token = this.#token;
    this.#token = undefined;
    token?.memory.abandon(token.call);
    this.onReturned?.();
  }

  #run(args: Encoded): void {
    if (this.#stream.isChannel) this.#runChannel(args);
    else this.#runCall(args);
  }

  // ---------------------------------------------------------------- resources and tokens

  #admit(args: Encoded): void {
    const { host, budget } = this.#server.options;
    if (host.admit === undefined) return this.#run(args);
    this.#isAdmitted = true;
    let memory: ReturnType<NonNullable<MethodHost["admit"]>>;
    try {
      memory = host.admit(this);
    } catch (error) {
      return this.refuse(LeverError.from(error));
    }
    if (!(memory instanceof Promise)) return this.#remember(memory, args);
    const kept = keep(args, budget);
    if (kept === undefined) {
      // Nobody waits for it any more, and nothing may come of it.
      memory.catch(() => {});
      return this.refuse(tooManyArguments());
    }
    this.#afterPrepared(
      memory.finally(() => kept.drop()),
      (found) => this.#remember(found, kept.args),
    );
  }

  /** Runs the call, unless its token has done so. */
  #remember(memory: TokenMemory | undefined, args: Encoded): void {
    const { token, tokenTime, resource = "" } = this.#fields;
    if (memory === undefined || token === undefined || this.#stream.isChannel) return this.#run(args);
    const { budget, wheel } = this.#server.options;
    const { environment, method } = this.target;
    const { caller } = this.fields;
    // Whoever guesses a token of another environment, or from outside one from within, must not get what its call came to.
    const fromElsewhere = caller?.environment === environment ? undefined : caller?.environment;
    const from = caller?.outside === true ? fromOutside : fromElsewhere;
    const call: TokenCall = { resource, method, token, from, timeMs: tokenTime };
    let kept: ReturnType<typeof keep>;
    const onOutcome: OutcomeListener = (outcome) => {
      this.#stopWaiting?.();
      this.#stopWaiting = undefined;
      wheel.remove(this);
      if (outcome !== undefined) this.#answerWith(outcome);
      else if (!this.#isDone) this.#remember(memory, kept?.args ?? args);
    };
    let decision: ReturnType<TokenMemory["begin"]>;
    try {
      decision = memory.begin(call, onOutcome);
    } catch (error) {
      const refusal = LeverError.from(error);
      // REFUSE would say that the method has not run.
      return refusal.effect === "none" ? this.refuse(refusal) : this.#answerWith(fault(refusal));
    }
    if (decision === "run") {
      this.#token = { memory, call };
      return this.#run(args);
    }
    if (decision !== "wait") return this.#answerWith(decision);
    kept = keep(args, budget);
    this.#stopWaiting = () => {
      memory.stopWaiting(call, onOutcome);
      kept?.drop();
    };
    if (kept === undefined) return this.refuse(tooManyArguments());
    if (this.deadlineAt !== undefined) wheel.add(this, this.deadlineAt);
  }

  /** Answers a call whose method is not entered, though it may have run before. */
  #answerWith({ flags, bytes }: Outcome): void {
    if (this.#isDone) return;
    this.#letGo();
    this.#sendReply(flags, bytes);
  }

  // ---------------------------------------------------------------- calls

  #runCall(args: Encoded): void {
    let enter: ReturnType<MethodHost["prepare"]>;
    try {
      enter = this.#server.options.host.prepare(this, args);
    } catch (error) {
      return this.refuse(LeverError.from(error));
    }
    if (enter instanceof Promise) this.#afterPrepared(enter, (method) => this.#enterCall(method));
    else this.#enterCall(enter);
  }

  #afterPrepared<Enter>(prepared: Promise<Enter>, enter: (method: Enter) => void): void {
    prepared.then(
      (method) => {
        // The caller may be gone by now: then the method is not entered at all.
        if (this.#abortedWith === undefined) enter(method);
        else this.#giveUp();
      },
      (error: unknown) => this.refuse(LeverError.from(error)),
    );
  }

  /** False if it was refused at the last moment. */
  #mayEnter(): boolean {
    if (!this.#isAdmitted) return true;
    try {
      this.#server.options.host.enters?.(this);
      return true;
    } catch (error) {
      this.refuse(LeverError.from(error));
      return false;
    }
  }

  #enterCall(enter: () => unknown): void {
    if (!this.#mayEnter()) return;
    this.#server.entered();
    let result: unknown;
    let promise: Promise<unknown> | undefined;
    try {
      result = enter();
      promise = promised(result);
    } catch (error) {
      return this.#threw(error);
    }
    if (promise === undefined) this.#returned(result);
    else promise.then(this.#onResult, this.#onThrown);
  }

  readonly #onResult = (result: unknown) => this.#returned(result);
  readonly #onThrown = (error: unknown) => this.#threw(error);

  #returned(result: unknown): void {
    let encoded: Encoded;
    try {
      encoded = encodeResult(result, "result");
      if (encoded.bytes.length > resultBytesHardMax) throw tooLarge("result", encoded.bytes.length, resultBytesHardMax);
    } catch (error) {
      return this.#reply(Flag.Fault, encodeFault(LeverError.from(error).withEffect("ran")));
    }
    this.#reply(encoded.form === "bytes" ? Flag.Bytes : 0, encoded.bytes);
  }

  #threw(thrown: unknown): void {
    const ended = this.#endedBefore(thrown);
    const { flags, bytes } = ended === undefined ? this.#describe(thrown) : fault(ended.withEffect("ran"));
    this.#reply(flags, bytes);
  }

  /** Why the call had ended for its caller already, if what the method threw came of that and is no error of its own. */
  #endedBefore(thrown: unknown): LeverError | undefined {
    const { deadlineAt } = this;
    const aborted = this.#abortedWith;
    if (aborted !== undefined && isDueTo(thrown, aborted)) return LeverError.from(aborted);
    // A nested call has the same deadline, and may find it passed a moment before this one does.
    const isLate = LeverError.is(thrown) && thrown.reason === "DEADLINE_EXCEEDED" && deadlineAt !== undefined;
    return isLate && this.#server.options.now() >= deadlineAt ? thrown : undefined;
  }

  #reply(flags: number, bytes: Uint8Array): void {
    this.hasLostCaller = this.#stream.isClosed;
    const token = this.#token;
    this.#token = undefined;
    this.#leave();
    // A method's result may be memory that it goes on using.
    if (token !== undefined) token.memory.finish(token.call, { flags, bytes: copyBytes(bytes) });
    this.#sendReply(flags, bytes);
  }

  #sendReply(flags: number, bytes: Uint8Array): void {
    const stream = this.#stream;
    if (!stream.isClosed) {
      const item = new Uint8Array(replyLoadBytes + bytes.length);
      item.set(bytes, replyLoadBytes);
      stream.send(FrameType.Reply, flags, item);
    }
    stream.release();
    if (!stream.hasQueue) this.#answered();
  }

  #leave(): void {
    this.#isDone = true;
    this.#server.options.wheel.remove(this);
    this.#server.left();
    this.onReturned?.();
  }

  // ---------------------------------------------------------------- channels

  #runChannel(args: Encoded): void {
    let enter: ReturnType<MethodHost["prepareChannel"]>;
    try {
      enter = this.#server.options.host.prepareChannel(this, args);
    } catch (error) {
      return this.refuse(LeverError.from(error));
    }
    if (enter instanceof Promise) this.#afterPrepared(enter, (method) => this.#enterChannel(method));
    else this.#enterChannel(enter);
  }

  #enterChannel(enter: (channel: Channel) => unknown): void {
    if (!this.#mayEnter()) return;
    const stream = this.#stream;
    const raw = new RawChannel(stream, this.#server.options.budget);
    if (this.#fields.cursor !== undefined) raw.continues = () => this.#isCursorTaken;
    this.#raw = raw;
    stream.handler = raw;
    this.#server.entered();
    const onAbort = () => {
      // A method that has had enough of its channel may go on with other work.
      if (raw.error !== undefined && !raw.isCancelledHere) this.#abort(raw.error);
    };
    raw.signal.addEventListener("abort", onAbort, { once: true });
    // Before the method's first synchronous part, which may send: nothing may stand before ACCEPT.
    stream.accept(noLoad);
    let promise: Promise<unknown> | undefined;
    try {
      promise = promised(enter(new Channel(raw, "method")));
    } catch (error) {
      return this.#channelEnded(raw, { error });
    }
    if (promise === undefined) this.#channelEnded(raw, undefined);
    else {
      promise.then(
        () => this.#channelEnded(raw, undefined),
        (error) => this.#channelEnded(raw, { error }),
      );
    }
  }

  #channelEnded(raw: RawChannel, thrown: { error: unknown } | undefined): void {
    this.hasLostCaller = this.#stream.isClosed;
    if (thrown === undefined) raw.close();
    else if (raw.error === undefined || !isDueTo(thrown.error, raw.error)) {
      // Also when nobody is told any more: what is no MethodError has to be reported.
      const { flags, bytes } = this.#describe(thrown.error);
      if ((flags & Flag.Fault) === 0) raw.fail({ bytes, form: (flags & Flag.Bytes) !== 0 ? "bytes" : "value" });
      else raw.failWith(decodeFault(bytes));
    }
    this.#leave();
    this.#stream.release();
    raw.whenSent(() => this.#answered());
  }

  /** What the caller gets for what a method threw. */
  #describe(thrown: unknown): { flags: number; bytes: Uint8Array } {
    if (MethodError.is(thrown)) {
      try {
        const encoded =
          thrown.value === undefined ? encodeResult(undefined, "error") : encodeMessage(thrown.value, "error");
        if (encoded.bytes.length <= errorValueBytesMax) {
          return { flags: Flag.Error | (encoded.form === "bytes" ? Flag.Bytes : 0), bytes: encoded.bytes };
        }
        return fault(tooLarge("error's value", encoded.bytes.length, errorValueBytesMax));
      } catch (error) {
        const refusal = LeverError.from(error);
        return fault(
          new LeverError("RESULT_NOT_ENCODABLE", refusal.rawMessage, { effect: "ran", details: refusal.details }),
        );
      }
    }
    let text = "the method threw";
    try {
      text = this.#server.options.host.describeThrown(this, thrown);
    } catch {
      // A log that fails is no reason to leave the caller without an answer.
    }
    return fault(new LeverError("METHOD_THREW", text, { effect: "ran" }));
  }
}

/** Arguments that have to wait, counted with those that are not complete; undefined if there are too many. */
function keep({ bytes, form }: Encoded, budget: AssemblyBudget): { args: Encoded; drop: () => void } | undefined {
  const kept = keptPayload(bytes);
  const counted = kept.length;
  if (budget.bytes + counted > budget.bytesMax) return undefined;
  budget.bytes += counted;
  let isKept = true;
  const drop = () => {
    if (isKept) budget.bytes -= counted;
    isKept = false;
  };
  return { args: { bytes: kept, form }, drop };
}

function tooManyArguments(): LeverError {
  return new LeverError("OVERLOADED", "too many arguments of calls that have to wait are held at once", {
    effect: "none",
  });
}

function fault(error: LeverError): { flags: number; bytes: Uint8Array } {
  return { flags: Flag.Fault, bytes: encodeFault(error) };
}

function tooLarge(what: string, bytes: number, bytesMax: number): LeverError {
  return new LeverError(
    "RESULT_TOO_LARGE",
    `the ${what} takes ${bytes} bytes, at most ${bytesMax} can be sent; ` +
      "stream it over a channel (a method whose name ends in Chan)",
    { effect: "ran", details: { limit: "resultBytes", bytes, bytesMax } },
  );
}

/** Whether `thrown` says no more than that: the error itself, or what others make of an AbortSignal's reason. */
function isDueTo(thrown: unknown, error: LeverError | MethodError): boolean {
  if (thrown === error) return true;
  return typeof thrown === "object" && thrown !== null && (thrown as { cause?: unknown }).cause === error;
}

/** The promise that a method returned; undefined if it returned a value. Throws what a hostile `then` throws. */
function promised(result: unknown): Promise<unknown> | undefined {
  if (typeof result !== "object" || result === null) return undefined;
  if (result instanceof Promise) return result;
  // A thenable that is no promise may do anything, settle twice too.
  return typeof (result as { then?: unknown }).then === "function" ? Promise.resolve(result) : undefined;
}
