/**
 * The agent's core: a library without I/O, hosted by the sidecar, the gateway and `lever dev`.
 *
 * It owns the sessions with the app, with peer agents and with clients outside, the views of the services that are
 * called from here, and the limits over all of them. One call is a relay (relay.ts at the caller's agent,
 * inbound-relay.ts at the instance's). Time, chance, transports and discovery are given to it.
 */

import type { Channel } from "@leveros/protocol/channel/channel.ts";
import type { Clock, Random } from "@leveros/protocol/clock/clock.ts";
import type { LeaseClock } from "@leveros/protocol/clock/lease-clock.ts";
import {
  type AccessPolicy,
  type AllowedMethods,
  allowedMethods,
  isMethodAllowed,
} from "@leveros/protocol/control/access.ts";
import {
  defaultServicePolicy,
  operatorEnvironment,
  type ServiceLimits,
  type ServiceTable,
} from "@leveros/protocol/control/discovery.ts";
import { agentService, decodeAppHolder, handOverMethod, ownershipMethod } from "@leveros/protocol/control/ownership.ts";
import { decodeRegistration, type Registration } from "@leveros/protocol/control/registration.ts";
import { DeadlineWheel } from "@leveros/protocol/deadline/deadline-wheel.ts";
import { encodeFault } from "@leveros/protocol/error/fault.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { AssemblyBudget, assemblyBytesMax } from "@leveros/protocol/invocation/assembly.ts";
import { type Invocation, InvocationServer, type MethodHost } from "@leveros/protocol/invocation/invocation-server.ts";
import { describeIdentity, type Hello, type Identity } from "@leveros/protocol/session/hello.ts";
import { defaultSessionLimits, type SessionLimits } from "@leveros/protocol/session/limits.ts";
import { Places } from "@leveros/protocol/session/places.ts";
import {
  type Caller,
  encodeFields,
  FieldKey,
  routingFixedBytes,
  type ScannedFields,
  scanFields,
  withField,
} from "@leveros/protocol/session/routing-header.ts";
import { type OpenFrame, Session } from "@leveros/protocol/session/session.ts";
import { flowCost, type Stream } from "@leveros/protocol/session/stream.ts";
import type { Target } from "@leveros/protocol/target/target.ts";
import type { Transport } from "@leveros/protocol/transport/transport.ts";
import { decodeArgs } from "@leveros/protocol/value/decode.ts";
import type { Encoded } from "@leveros/protocol/value/form.ts";
import { reportedLoad } from "./balancer/endpoint-load.ts";
import { chainTo, hookChain, resourceIdentity } from "./call-chain.ts";
import { type AppConnection, InboundRelay, type ResourceCall } from "./inbound-relay.ts";
import { type AgentLimits, defaultAgentLimits } from "./limits.ts";
import { type AgentObserver, silentObserver } from "./observer.ts";
import {
  type ChainStart,
  type OutgoingCall,
  outgoingCall,
  type ParentInvocation,
  plainCall,
} from "./outgoing-fields.ts";
import { type ServedSlot, SlotHolder } from "./ownership/slot-holder.ts";
import type { LinkHost } from "./peer-link.ts";
import { OutboundRelay } from "./relay.ts";
import { type MethodRoute, permissionDenied, ServiceView } from "./service-view.ts";

/** Where tables come from, and where the app's registration goes. */
export interface Discovery {
  /**
   * Calls `onTable` with each new table, and `onUnavailable` from time to time while there is none, until the returned
   * function is called. Throws OVERLOADED when too many services are subscribed to.
   */
  subscribe(
    environment: string,
    service: string,
    onTable: (table: ServiceTable) => void,
    onUnavailable: (error: LeverError) => void,
  ): () => void;
  /** The app serves this, and takes calls. */
  register(registration: Registration): void;
  /** The app has gone. */
  unregister(): void;
  /** The app takes no new calls. */
  draining(): void;
}

export interface AgentOptions {
  readonly clock: Clock;
  readonly random: Random;
  readonly identity: Identity;
  readonly zone?: string | undefined;
  readonly discovery: Discovery;
  /** Connects to a peer agent (`host:port`); rejects when that cannot be done. */
  dial(address: string): Promise<Transport>;
  readonly limits?: Partial<AgentLimits>;
  readonly sessionLimits?: Partial<SessionLimits>;
  readonly observer?: AgentObserver;
  /** The environment of clients outside that name none. */
  readonly defaultEnvironment?: string;
  /** Of an agent beside an app. Without it the app serves no resources. */
  readonly ownership?: AgentOwnershipOptions;
}

/** What an agent needs to hold resources for its app. */
export interface AgentOwnershipOptions {
  readonly leaseClock: LeaseClock;
  /** `host:port` where other agents reach this one. */
  readonly address: string;
  /**
   * A started session with the replica of the operator that is said to lead (`host:port`), or else with any, on the
   * dialer's side, which belongs to the agent from then on.
   */
  dialLeader(leader: string | undefined): Promise<Session>;
}

/** What a session belongs to. */
interface Link extends AppConnection {
  readonly kind: "app" | "peer" | "client";
  /** The `Caller` field for frames of this link, encoded; an app has none: its agent's peers know the agent. */
  caller: Uint8Array;
  /** Of a peer: an agent of the environment here, which may call everything. */
  isOfOwnEnvironment: boolean;
  /** What another peer may call here, by `allowedBy`; found anew when the policy is another. */
  allowed: AllowedMethods;
  allowedBy: AccessPolicy | undefined;
  /** What runs in the app of this link, by the stream's id. */
  readonly invocations: Map<number, ParentInvocation>;
}

const noField = new Uint8Array(0);
const noFields: Partial<ScannedFields> = {};
const noCounts = { misrouted: 0, lapses: 0, moved: 0 };
/** How long it is remembered, after the last call to it, that a service does not exist or has no table yet. */
const missingServiceIdleMs = 5000;
/** What a client outside may use: much less than an agent, which carries the calls of many. */
const clientSessionLimits = { sessionWindowBytes: 4 * 1024 * 1024, streamsMax: 1000, silenceMs: 15_000 };

export class Agent implements LinkHost {
  readonly clock: Clock;
  readonly random: Random;
  readonly identity: Identity;
  readonly zone: string | undefined;
  readonly limits: AgentLimits;
  readonly observer: AgentObserver;
  readonly wheel: DeadlineWheel;
  readonly #options: AgentOptions;
  readonly #sessionLimits: SessionLimits;
  readonly #views = new Map<string, { view: ServiceView; unsubscribe: () => void }>();
  /** All that are open, the dialed ones too. */
  readonly #sessions = new Set<Session>();
  readonly #accepted = { app: 0, peer: 0, client: 0, door: 0 };
  /** Those of peers that have proven who they are. */
  readonly #ofPeers: Places<Session>;
  /** The session of the app that has registered. */
  #app: { session: Session; link: Link; registration: Registration; methods: ReadonlySet<string> } | undefined;
  readonly #holder: SlotHolder | undefined;
  /** What the app, and what other agents, ask of the agent itself. */
  readonly #appServer: InvocationServer | undefined;
  readonly #peerServer: InvocationServer | undefined;
  readonly #unwatch: (() => void) | undefined;
  #ownView: ServiceView | undefined;
  #isDraining = false;
  /** The agent itself is to end, whatever its app does. */
  #isStopping = false;
  #isClosed = false;
  #held = 0;
  #retainedBytes = 0;
  #callsServed = 0;
  #channelsServed = 0;
  #whenIdle: (() => void)[] = [];
  /** Who waits for the app to come to an end with what it has. */
  #whenAppIdle: (() => void)[] = [];
  #sweepTimer: unknown;

  constructor(options: AgentOptions) {
    this.#options = options;
    this.clock = options.clock;
    this.random = options.random;
    this.identity = options.identity;
    this.zone = options.zone;
    this.limits = { ...defaultAgentLimits, ...options.limits };
    this.#ofPeers = new Places({ ofKeyMax: this.limits.sessionsOfPeerMax });
    this.observer = options.observer ?? silentObserver;
    this.wheel = new DeadlineWheel(options.clock);
    this.#sessionLimits = { ...defaultSessionLimits, ...options.sessionLimits };
    const { environment, service } = options.identity;
    if (environment !== undefined && service !== undefined) this.#ownView = this.view(environment, service);
    const { ownership } = options;
    const { instance } = options.identity;
    if (ownership !== undefined && environment !== undefined && service !== undefined && instance !== undefined) {
      const { clock, random, wheel } = this;
      const budget = new AssemblyBudget(assemblyBytesMax);
      const runtime = { wheel, budget, now: () => clock.now() };
      const holder = new SlotHolder({
        ...ownership,
        clock,
        random,
        environment,
        service,
        instance,
        host: this,
        runtime,
        dialLeader: (leader) => ownership.dialLeader(leader),
        handOverBytesMax: this.limits.handOverBytesMax,
        onLeaving: () => this.#appDrains(),
        onEmpty: () => this.#checkIdle(),
      });
      this.#holder = holder;
      const serve = (method: string, prepare: ControlMethod) =>
        new InvocationServer({ ...runtime, host: new ControlHost(method, prepare) });
      this.#appServer = serve(ownershipMethod, (args, session) => this.#serveOwnership(holder, args, session));
      this.#peerServer = serve(handOverMethod, (args, session) => {
        this.#checkSibling(session);
        return holder.serveHandOver(args);
      });
      this.#unwatch = options.discovery.subscribe(
        environment,
        service,
        (table) => holder.onTable(table),
        () => {},
      );
    }
    this.#sweepLater();
  }

  // ---------------------------------------------------------------- state for hosts

  /** The app has registered and is taken for live: what `/readyz` says. */
  get isReady(): boolean {
    return this.#app !== undefined && !this.#isDraining;
  }

  get registration(): Registration | undefined {
    return this.#app?.registration;
  }

  get isDraining(): boolean {
    return this.#isDraining;
  }

  /** `close` was called. */
  get isClosed(): boolean {
    return this.#isClosed;
  }

  /** What replies report of the app here, 0 to 65,535. */
  get load(): number {
    return reportedLoad(this.#callsServed, this.#channelsServed);
  }

  /** As `load`, without one call that is about to be answered: it is no load any more. */
  loadWithout(isChannel: boolean): number {
    return isChannel ? this.load : reportedLoad(this.#callsServed - 1, this.#channelsServed);
  }

  /** All that are open: with apps, peers and clients outside. */
  get sessions(): ReadonlySet<Session> {
    return this.#sessions;
  }

  /** The slots that the app here serves now. */
  get heldSlots(): readonly ServedSlot[] {
    return this.#holder?.heldSlots ?? [];
  }

  /** For metrics: slots that are held now; since the start: calls refused for want of the slot, leases, slots moved away. */
  get ownership(): {
    readonly held: number;
    readonly misrouted: number;
    readonly lapses: number;
    readonly moved: number;
  } {
    const holder = this.#holder;
    return { held: holder?.heldCount ?? 0, ...(holder?.counters ?? noCounts) };
  }

  /** Calls from here that are held for each slot of a service; only slots that have some. */
  heldBySlot(environment: string, service: string): ReadonlyMap<number, number> {
    return this.#views.get(`${environment}/${service}`)?.view.slots?.heldBySlot() ?? new Map();
  }

  /** For metrics: calls and channels that the app here serves, those that went out from here, and what is kept. */
  get counts(): {
    calls: number;
    channels: number;
    outgoing: number;
    held: number;
    /** Of those, the ones that wait for the holder of a resource. */
    heldForResources: number;
    retainedBytes: number;
    sessions: number;
    views: number;
  } {
    let outgoing = 0;
    let heldForResources = 0;
    for (const { view } of this.#views.values()) {
      outgoing += view.calls;
      heldForResources += view.slots?.waiting ?? 0;
    }
    return {
      calls: this.#callsServed,
      channels: this.#channelsServed,
      outgoing,
      held: this.#held,
      heldForResources,
      retainedBytes: this.#retainedBytes,
      sessions: this.#sessions.size,
      views: this.#views.size,
    };
  }

  // ---------------------------------------------------------------- sessions

  /** The app's side: it may register, and its calls go out from here. */
  acceptApp(transport: Transport): void {
    // The operating system tells when a local app is gone; one that computes for seconds is not dead.
    this.#accept("app", transport, { ...this.#sessionLimits, silenceMs: 0, pingIntervalMs: 0 });
  }

  /** Another agent that sends calls for the app here. */
  acceptPeer(transport: Transport): void {
    this.#accept("peer", transport, this.#sessionLimits);
  }

  /**
   * A client outside: its calls go out from here, marked as such. Gives the session, for its host to end it in good
   * time, or undefined if no more are taken; then the transport is closed.
   */
  acceptClient(transport: Transport, options: { readonly onClose?: () => void } = {}): Session | undefined {
    return this.#accept("client", transport, { ...this.#sessionLimits, ...clientSessionLimits }, options.onClose);
  }

  /**
   * The host's own door, which stands for many clients outside. It is counted apart from them, so that no number of them
   * keeps it out. Undefined if the agent is closed.
   */
  acceptDoor(transport: Transport, limits: SessionLimits): Session | undefined {
    return this.#accept("client", transport, limits, undefined, "door");
  }

  /**
   * Somebody whom the host lets call as the app does, and as a client outside serve nothing: who works on the services.
   * For those who are called it is the agent's own service that calls.
   */
  acceptCaller(transport: Transport): void {
    this.#accept("client", transport, this.#sessionLimits);
  }

  #accept(
    kind: Link["kind"],
    transport: Transport,
    limits: SessionLimits,
    onClose?: () => void,
    countedAs: Link["kind"] | "door" = kind,
  ): Session | undefined {
    const proven = kind === "peer" ? transport.provenPeer?.identity : undefined;
    const peer = proven && describeIdentity(proven);
    const isFull =
      this.#accepted[countedAs] >= this.limits.sessionsMax ||
      (peer !== undefined && this.#ofPeers.inTheWayOf(peer) !== undefined);
    if (this.#isClosed || isFull) {
      transport.destroy();
      return undefined;
    }
    this.#accepted[countedAs]++;
    const link: Link = {
      kind,
      caller: noField,
      isOfOwnEnvironment: false,
      allowed: "none",
      allowedBy: undefined,
      invocations: new Map(),
      app: undefined,
    };
    const session: Session = new Session({
      transport,
      clock: this.clock,
      side: "acceptor",
      identity: this.identity,
      limits,
      handler: {
        onHello: (hello) => {
          if (kind !== "app") link.caller = callerField(kind, hello);
          const { environment } = this.identity;
          link.isOfOwnEnvironment =
            hello.role === "agent" && environment !== undefined && hello.environment === environment;
        },
        onOpen: (stream, open) => {
          if (kind === "peer") this.#onPeerOpen(link, session, stream, open);
          else this.#onCallerOpen(link, session, stream, open);
        },
        ...(kind === "app" ? { onRegister: (payload: Uint8Array) => this.#onRegister(session, payload) } : {}),
        onGoAway: () => {
          if (this.#app?.session === session) this.#appDrains();
        },
        onClose: () => {
          this.#accepted[countedAs]--;
          this.#ofPeers.free(session);
          this.#onSessionClose(session);
          onClose?.();
        },
      },
    });
    session.owner = link;
    this.#sessions.add(session);
    if (peer !== undefined) this.#ofPeers.take(peer, session);
    return session;
  }

  #onSessionClose(session: Session): void {
    this.#sessions.delete(session);
    if (this.#app?.session !== session) return;
    this.#app = undefined;
    if (!this.#isDraining) this.#options.discovery.unregister();
  }

  #onRegister(session: Session, payload: Uint8Array): void {
    const registration = decodeRegistration(payload);
    const other = this.#app?.session;
    // One that is about to stop only finishes what it has.
    if (other !== undefined && !other.isClosed && !other.isPeerGoingAway) {
      return session.close(
        new LeverError(
          "INVALID_OPTION",
          "another process has registered at this agent and is still connected; one app serves per instance",
        ),
      );
    }
    this.#holder?.replaceApp();
    const methods = new Set(registration.methods.map((method) => method.name));
    this.#app = { session, link: session.owner as Link, registration, methods };
    // Nothing is to be sent here any more, whatever the app does.
    if (this.#isStopping) return;
    // An app that was stopped for a restart is there again.
    this.#isDraining = false;
    for (const resolve of this.#whenAppIdle.splice(0)) resolve();
    this.#options.discovery.register(registration);
  }

  /** It takes no new calls; what it holds it serves until it has moved away. */
  #appDrains(): void {
    this.#holder?.leave();
    if (this.#isDraining) return;
    this.#isDraining = true;
    this.#options.discovery.draining();
  }

  #serveOwnership(holder: SlotHolder, args: readonly unknown[], session: Session): (channel: Channel) => Promise<void> {
    const identity = decodeAppHolder(args);
    if (this.#app?.session !== session || !this.#app.registration.resources) {
      throw new LeverError("PROTOCOL_VIOLATION", "the app has not registered that it serves resources", {
        effect: "none",
      });
    }
    const { link } = this.#app;
    return (channel) => holder.serveApp(identity, channel, link);
  }

  /** What the resources of a service had is for its other instances alone. */
  #checkSibling({ provenIdentity: peer }: Session): void {
    const { environment, service } = this.identity;
    if (peer === undefined || (peer.environment === environment && peer.service === service)) return;
    const who = describeIdentity(peer);
    throw new LeverError("IDENTITY_DENIED", `${who} is no instance of ${environment}/${service}`, { effect: "none" });
  }

  /** For links: connects to a peer agent. */
  dial(address: string): Promise<Transport> {
    return this.#options.dial(address);
  }

  /** For links: a session on the dialer's side. */
  openLink(transport: Transport, onHello: () => void, onClose: (error: LeverError) => void): Session {
    const session: Session = new Session({
      transport,
      clock: this.clock,
      side: "dialer",
      identity: this.identity,
      // A channel goes on for as long as it likes after its instance has left the table.
      limits: { ...this.#sessionLimits, goAwayGraceMs: Number.POSITIVE_INFINITY },
      handler: {
        onHello,
        onClose: (error) => {
          this.#sessions.delete(session);
          onClose(error);
        },
      },
    });
    this.#sessions.add(session);
    return session;
  }

  // ---------------------------------------------------------------- calls from here

  #onCallerOpen(link: Link, session: Session, stream: Stream, open: OpenFrame): void {
    if (link.kind === "app" && this.#appServer !== undefined && isOfAgent(open.target)) {
      return this.#appServer.onOpen(stream, open);
    }
    let frame = open.frame;
    const cost = flowCost(frame);
    const argsBytes = frame.length - open.payloadAt;
    let call: OutgoingCall = plainCall;
    const isClient = link.kind === "client";
    if (isClient || open.payloadAt > routingFixedBytes) {
      try {
        ({ call, frame } = outgoingCall(frame, open.payloadAt, {
          environment: this.#environmentOf(open.target, session.hello, link.kind),
          service: open.target.service,
          caller: isClient ? link.caller : noField,
          invocations: isClient ? undefined : link.invocations,
          hookOf: isClient ? undefined : this.#hookOf,
          // Only of an app that serves resources is known what runs in it though its stream has ended.
          areAllKnown: link.app !== undefined,
        }));
      } catch (error) {
        return this.#refuseCaller(link, session, stream, open.target, LeverError.from(error));
      }
    }
    let route = open.target.route as MethodRoute | undefined;
    if (route === undefined || route.policyVersion !== route.view.policyVersion) {
      try {
        route = this.#resolve(open.target, session.hello, link.kind);
      } catch (error) {
        return this.#refuseCaller(link, session, stream, open.target, LeverError.from(error));
      }
      // A target lives as long as its session, and must not keep the view of a service that there is not.
      if (route.view.exists) open.target.route = route;
    }
    new OutboundRelay(this, stream, route, open.timeoutMs, call).begin(open.flags, frame, argsBytes, cost);
  }

  /** Where the calls of a hook of the app's resource come from. */
  readonly #hookOf = (resource: Uint8Array): ChainStart => {
    const { environment = "", service = "" } = this.identity;
    return {
      chain: chainTo(hookChain, resourceIdentity(environment, service, resource)),
      gate: this.#holder?.gateOf(resource),
    };
  };

  #refuseCaller(link: Link, session: Session, stream: Stream, target: Target, error: LeverError): void {
    refuse(stream, error);
    const environment = this.#environmentOf(target, session.hello, link.kind);
    if (stream.isChannel) this.observer.channelOpened(environment, target.service, error.code, 0);
    else this.observer.callEnded(environment, target.service, error.code, 0);
  }

  #resolve(target: Target, hello: Hello | undefined, kind: Link["kind"]): MethodRoute {
    const environment = this.#environmentOf(target, hello, kind);
    if (environment !== "") return this.view(environment, target.service).route(target.method);
    throw new LeverError(
      "INVALID_URL",
      `${target.text} names no environment, and the client has none either; write lever://<environment>${target.text.slice(target.text.indexOf("/"))}`,
      { effect: "none" },
    );
  }

  #environmentOf(target: Target, hello: Hello | undefined, kind: Link["kind"]): string {
    if (target.environment !== "") return target.environment;
    // A client outside says its environment in HELLO; an app's is the agent's, whatever it says.
    const own = kind === "client" ? hello?.environment : this.identity.environment;
    return own ?? this.#options.defaultEnvironment ?? "";
  }

  /** The view of a service, subscribed to from now on. */
  view(environment: string, service: string): ServiceView {
    const key = `${environment}/${service}`;
    const known = this.#views.get(key);
    if (known !== undefined) return known.view;
    const view = new ServiceView(this, environment, service);
    view.lastUsedAt = this.clock.now();
    const subscribe = () =>
      this.#options.discovery.subscribe(
        environment,
        service,
        (table) => view.update(table),
        (error) => view.unavailable(error),
      );
    let unsubscribe: () => void;
    try {
      unsubscribe = subscribe();
    } catch {
      // Names of services that there are not, however many are asked for, must not keep others out.
      this.#sweep(0);
      unsubscribe = subscribe();
    }
    this.#views.set(key, { view, unsubscribe });
    return view;
  }

  /** Ends subscriptions to services that are no longer called: soon where there is no such service. */
  #sweep(missingIdleMs: number): void {
    const now = this.clock.now();
    for (const [key, { view, unsubscribe }] of this.#views) {
      const idleMs = view.exists ? this.limits.subscriptionIdleMs : missingIdleMs;
      if (view === this.#ownView || view.calls > 0 || now - view.lastUsedAt < idleMs) continue;
      this.#views.delete(key);
      unsubscribe();
      view.close();
    }
  }

  #sweepLater(): void {
    this.#sweepTimer = this.clock.setTimer(() => {
      this.#sweep(missingServiceIdleMs);
      this.#sweepLater();
    }, missingServiceIdleMs);
  }

  // ---------------------------------------------------------------- calls to the app here

  #onPeerOpen(link: Link, session: Session, stream: Stream, open: OpenFrame): void {
    const { target } = open;
    let { frame } = open;
    const cost = flowCost(frame);
    const { environment, service, instance = "this instance" } = this.identity;
    try {
      if (target.environment !== environment || target.service !== service) {
        if (this.#peerServer !== undefined && isOfAgent(target)) {
          // What lies in a slot is for the instances of the service alone.
          if (!link.isOfOwnEnvironment || session.hello?.service !== service) throw this.#denied(session.hello);
          return this.#peerServer.onOpen(stream, open);
        }
        throw new LeverError(
          "INSTANCE_UNREACHABLE",
          `${target.text} was sent to ${instance} of ${environment ?? "-"}/${service ?? "-"}; the table is old`,
        );
      }
      if (!link.isOfOwnEnvironment) this.#checkAccess(link, session.hello, target.method);
      const hasFields = open.payloadAt > routingFixedBytes;
      const { resource, epoch, chain } = hasFields ? scanFields(frame, routingFixedBytes, open.payloadAt) : noFields;
      const call = resource === undefined ? undefined : this.#admit(resource, epoch ?? 0, chain !== undefined);
      if (call === undefined && this.#isDraining) throw new LeverError("DRAINING", `${instance} takes no new calls`);
      const app = this.#app;
      if (app === undefined) throw new LeverError("NO_INSTANCES", `the app of ${instance} has not registered`);
      // Which methods a resource has is known to the app alone.
      if (call === undefined && !app.methods.has(target.method)) {
        throw new LeverError(
          "METHOD_NOT_FOUND",
          `${environment}/${service} has no method ${target.method}; it has ${listed(shownMethods(link, app.methods))}`,
        );
      }
      const limits = this.#ownView?.limits ?? defaultServicePolicy.limits;
      this.#checkLimits(stream, limits);
      // A gateway says who calls; for anybody else it is the peer itself.
      if (session.hello?.role !== "gateway") frame = withField(frame, FieldKey.Caller, link.caller);
      // What came is a view of a chunk.
      const kept = chain === undefined ? undefined : chain.slice();
      const relay = new InboundRelay(this, stream, limits, app.link, call, kept);
      relay.start(app.session, target, open.flags, frame, cost);
    } catch (error) {
      const refusal = LeverError.from(error);
      refuse(stream, refusal);
      this.observer.served(refusal.code, 0);
    }
  }

  /** Throws PERMISSION_DENIED. */
  #checkAccess(link: Link, hello: Hello | undefined, method: string): void {
    const access = this.#ownView?.access;
    const { environment = "" } = this.identity;
    if (access === undefined || hello === undefined) {
      // It may well be allowed, and others may know.
      throw new LeverError(
        "DISCOVERY_UNAVAILABLE",
        `${this.identity.instance ?? "this instance"} has not heard from the operator yet who may call it`,
        { effect: "none" },
      );
    }
    if (link.allowedBy !== access) {
      link.allowedBy = access;
      link.allowed = allowedMethods(access, environment, hello);
    }
    if (!isMethodAllowed(link.allowed, method)) throw this.#denied(hello);
  }

  #denied(hello: Hello | undefined): LeverError {
    const { environment = "-", service = "-" } = this.identity;
    const caller = `${hello?.environment ?? hello?.role ?? "-"}${hello?.service === undefined ? "" : `/${hello.service}`}`;
    return permissionDenied(caller, `${environment}/${service}`);
  }

  #admit(resource: Uint8Array, epoch: number, isNested: boolean): ResourceCall {
    const holder = this.#holder;
    if (holder === undefined || this.#app?.registration.resources === false) {
      throw new LeverError(
        "NO_RESOURCES",
        "the call names a resource, and the app of the instance serves none; leave it out of the URL",
        { effect: "none" },
      );
    }
    return { holder, slot: holder.admit(resource, epoch, isNested) };
  }

  #checkLimits(stream: Stream, limits: ServiceLimits): void {
    const { instance = "this instance" } = this.identity;
    if (stream.isChannel) {
      if (this.#channelsServed < limits.channelsPerInstance) return;
      throw overloaded(instance, "channelsPerInstance", limits.channelsPerInstance, "channels are open");
    }
    if (this.#callsServed < limits.inFlightPerInstance) return;
    throw overloaded(instance, "inFlightPerInstance", limits.inFlightPerInstance, "calls run");
  }

  /** A relay has taken a call or channel to the app. */
  entered(isChannel: boolean): void {
    if (isChannel) this.#channelsServed++;
    else this.#callsServed++;
  }

  left(isChannel: boolean): void {
    if (isChannel) this.#channelsServed--;
    else this.#callsServed--;
    this.#checkIdle();
  }

  /** Nothing runs in the app, and it holds nothing. */
  get #isIdle(): boolean {
    return this.#callsServed + this.#channelsServed === 0 && this.#holder?.isBusy !== true;
  }

  #checkIdle(): void {
    const waiting = this.#whenIdle.length + this.#whenAppIdle.length;
    if (waiting === 0 || !this.#isIdle) return;
    for (const resolve of [...this.#whenIdle.splice(0), ...this.#whenAppIdle.splice(0)]) resolve();
  }

  // ---------------------------------------------------------------- what is held

  /** A call begins to wait here; false above the limit. */
  hold(): boolean {
    if (this.#held >= this.limits.heldCallsMax) return false;
    this.#held++;
    return true;
  }

  unhold(): void {
    this.#held--;
  }

  /** Keeps arguments for a retry; false above the limit. */
  retain(bytes: number): boolean {
    if (this.#retainedBytes + bytes > this.limits.retainedBytesMax) return false;
    this.#retainedBytes += bytes;
    return true;
  }

  release(bytes: number): void {
    this.#retainedBytes -= bytes;
  }

  // ---------------------------------------------------------------- the end

  /**
   * The app is about to be stopped: as `drain`, but undone when an app registers again, which has taken its place in the
   * pod; then it resolves too (R22).
   */
  drainApp(): Promise<void> {
    if (this.#app !== undefined) this.#appDrains();
    if (this.#isIdle) return Promise.resolve();
    return new Promise((resolve) => this.#whenAppIdle.push(resolve));
  }

  /** Takes no new calls for the app, and gives up what it holds; resolves when none runs and nothing is held. */
  drain(): Promise<void> {
    this.#isStopping = true;
    this.#holder?.stop();
    if (!this.#isDraining) {
      this.#isDraining = true;
      if (this.#app !== undefined) this.#options.discovery.draining();
    }
    if (this.#isIdle) return Promise.resolve();
    return new Promise((resolve) => this.#whenIdle.push(resolve));
  }

  /** Ends everything now. */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.clock.clearTimer(this.#sweepTimer);
    this.#unwatch?.();
    this.#holder?.close();
    for (const { view, unsubscribe } of this.#views.values()) {
      unsubscribe();
      view.close();
    }
    this.#views.clear();
    const error = new LeverError(
      "CONNECTION_LOST",
      `the agent of ${this.identity.instance ?? this.identity.role} has ended`,
    );
    // The app last: who waits for an answer of its learns that the agent has ended.
    const app = this.#app?.session;
    for (const session of [...this.#sessions]) if (session !== app) session.close(error);
    app?.close(error);
  }
}

type ControlMethod = (args: readonly unknown[], session: Session) => (channel: Channel) => Promise<void>;

/** The one method that an agent itself has for an app, or for other agents. */
class ControlHost implements MethodHost {
  readonly #method: string;
  readonly #prepare: ControlMethod;

  constructor(method: string, prepare: ControlMethod) {
    this.#method = method;
    this.#prepare = prepare;
  }

  prepare({ target }: Invocation): never {
    throw new LeverError("METHOD_NOT_FOUND", `the agent has no method ${target.method}`, { effect: "none" });
  }

  prepareChannel(invocation: Invocation, args: Encoded): (channel: Channel) => Promise<void> {
    if (invocation.target.method !== this.#method) return this.prepare(invocation);
    if (args.form === "bytes") throw new LeverError("ARGS_FORM", `${this.#method} takes one JSON value, got bytes`);
    return this.#prepare(decodeArgs(args.bytes), invocation.session);
  }

  describeThrown(_invocation: Invocation, thrown: unknown): string {
    return LeverError.from(thrown).message;
  }
}

function isOfAgent({ environment, service }: Target): boolean {
  return environment === operatorEnvironment && service === agentService;
}

/** Who calls over a link, by its peer's HELLO. */
function callerField(kind: "peer" | "client", { environment, service, instance }: Hello): Uint8Array {
  const caller: Caller = {
    ...(environment !== undefined && { environment }),
    ...(kind === "client"
      ? { outside: true }
      : { ...(service !== undefined && { service }), ...(instance !== undefined && { instance }) }),
  };
  return encodeFields({ caller });
}

/** Those that the peer may call. */
function shownMethods({ isOfOwnEnvironment, allowed }: Link, methods: ReadonlySet<string>): string[] {
  return [...methods].filter((method) => isOfOwnEnvironment || isMethodAllowed(allowed, method));
}

/** Nothing of the stream has gone anywhere. */
function refuse(stream: Stream, error: LeverError): void {
  stream.refuse(encodeFault(error.withEffect("none")));
  stream.release();
}

function overloaded(instance: string, limit: string, max: number, what: string): LeverError {
  return new LeverError("OVERLOADED", `${max} ${what} in ${instance}, the most allowed (${limit})`, {
    effect: "none",
    details: { limit, [limit]: max },
  });
}

function listed(names: string[]): string {
  const shown = names.slice(0, 20).join(", ");
  return names.length > 20 ? `${shown} and ${names.length - 20} more` : shown === "" ? "none" : shown;
}
