/**
 * The network between machines: streams of bytes as TCP gives them, and what goes wrong with them.
 *
 * A direction that is silent loses nothing: what was written waits until it is healed or until an end gives up, as bytes
 * that TCP sends again and again do. What has been handed to a live machine leaves it even when its process has died or
 * stands still; a machine without power sends nothing any more.
 *
 * Invariant: bytes of one direction arrive in order, at their process only (`SimProcess.run`), and never in the turn in
 * which they were written.
 */

import type { Transport, TransportEvents } from "@leveros/protocol/transport/transport.ts";
import type { Machine } from "./machine.ts";
import type { SimProcess } from "./sim-process.ts";
import type { World } from "./world.ts";

/** What a machine's kernel takes of a connection before the other end has read it. */
const kernelBufferBytes = 512 * 1024;
/** On one machine. */
const localLatencyMs = 0.05;

/** One way between two machines. */
class Direction {
  /** Faults that keep it silent. */
  silences = 0;
  extraLatencyMs = 0;

  get isSilent(): boolean {
    return this.silences > 0;
  }
}

/** Both ways between two machines. */
export class Link {
  readonly latencyMs: number;
  readonly directions: readonly [Direction, Direction] = [new Direction(), new Direction()];
  /** Who dials is refused. */
  refuses = false;
  readonly ends = new Set<SimTransport>();

  constructor(latencyMs: number) {
    this.latencyMs = latencyMs;
  }
}

export type Accept = (transport: Transport) => void;

interface Listener {
  readonly process: SimProcess;
  readonly accept: Accept;
}

/** Sees what a process writes towards another machine, at the moment when it does. */
export type WireTap = (from: SimProcess, chunks: readonly Uint8Array[]) => void;

export class Network {
  readonly world: World;
  /** By address, or by the path of a local socket. */
  readonly #listeners = new Map<string, Listener>();
  readonly #machines = new Map<string, Machine>();
  readonly #links = new Map<string, Link>();
  readonly #numbers = new Map<Machine, number>();
  readonly #off = new Set<Machine>();
  onWrite: WireTap = () => {};
  bytesSent = 0;

  constructor(world: World) {
    this.world = world;
  }

  /** Where `dial` finds the machine: its listeners may come and go. */
  place(address: string, machine: Machine): void {
    this.#machines.set(address, machine);
  }

  /** Takes connections for as long as the process lives. */
  listen(address: string, process: SimProcess, accept: Accept): void {
    this.place(address, process.machine);
    const listener: Listener = { process, accept };
    this.#listeners.set(address, listener);
    process.onDeath.add(() => {
      if (this.#listeners.get(address) === listener) this.#listeners.delete(address);
    });
  }

  #numberOf(machine: Machine): number {
    let number = this.#numbers.get(machine);
    if (number === undefined) {
      number = this.#numbers.size;
      this.#numbers.set(machine, number);
    }
    return number;
  }

  link(a: Machine, b: Machine): Link {
    const [low, high] = [this.#numberOf(a), this.#numberOf(b)].sort((x, y) => x - y) as [number, number];
    const key = `${low}-${high}`;
    let link = this.#links.get(key);
    if (link === undefined) {
      link = new Link(a === b ? localLatencyMs : this.world.random.between(0.1, 1.5));
      this.#links.set(key, link);
    }
    return link;
  }

  /** The way from one machine to another. */
  direction(from: Machine, to: Machine): Direction {
    return this.link(from, to).directions[this.#numberOf(from) <= this.#numberOf(to) ? 0 : 1];
  }

  /** How long something takes that is sent now. */
  latencyMs(link: Link, way: Direction): number {
    return link.latencyMs * this.world.random.between(0.8, 2) + way.extraLatencyMs;
  }

  // ---------------------------------------------------------------- faults

  /** Nothing gets through until it is healed as often as it was silenced. */
  silence(from: Machine, to: Machine, isSilent: boolean): void {
    const direction = this.direction(from, to);
    direction.silences += isSilent ? 1 : -1;
    if (direction.isSilent) return;
    for (const end of [...this.link(from, to).ends]) if (end.process.machine === from) end.flow();
  }

  slow(from: Machine, to: Machine, extraLatencyMs: number): void {
    this.direction(from, to).extraLatencyMs = extraLatencyMs;
  }

  /** Ends all connections between the two; both ends are told, what was under way is lost. */
  cut(a: Machine, b: Machine): void {
    for (const end of [...this.link(a, b).ends]) end.reset();
  }

  /** The machine loses its power: nobody is told. Its processes are to be killed. */
  powerOff(machine: Machine): void {
    this.#off.add(machine);
    for (const link of this.#links.values()) {
      for (const end of [...link.ends]) if (end.process.machine === machine) end.vanish();
    }
  }

  /** Ends all connections of one process. */
  cutProcess(process: SimProcess, isLocal: boolean): void {
    for (const link of this.#links.values()) {
      for (const end of [...link.ends]) {
        if (end.process === process && (end.peer?.process.machine === process.machine) === isLocal) end.reset();
      }
    }
  }

  // ---------------------------------------------------------------- connections

  /** Rejects when refused; hangs while either way is silent, or the machine has no power. */
  dial(from: SimProcess, address: string): Promise<Transport> {
    const { world } = this;
    return new Promise((resolve, reject) => {
      const fail = () => reject(new Error(`connect ECONNREFUSED ${address}`));
      const machine = this.#machines.get(address);
      if (machine === undefined) return from.post(localLatencyMs, fail);
      const link = this.link(from.machine, machine);
      const wayThere = this.direction(from.machine, machine);
      const wayBack = this.direction(machine, from.machine);
      const there = this.latencyMs(link, wayThere);
      const back = this.latencyMs(link, wayBack);
      const attempt = (retryMs: number) => {
        if (wayThere.isSilent || wayBack.isSilent || this.#off.has(machine)) {
          // SYNs are sent again, ever less often.
          if (from.isAlive && retryMs < 8000) world.after(retryMs, () => attempt(retryMs * 2));
          return;
        }
        const listener = this.#listeners.get(address);
        if (listener === undefined || !listener.process.isAlive || link.refuses) {
          return from.post(back, fail);
        }
        const [here, far] = this.#join(from, listener.process, address);
        // The kernel takes the connection; the process gets it when it runs.
        listener.process.run(() => listener.accept(far));
        from.post(back, () => resolve(here));
      };
      world.after(there, () => attempt(1000));
    });
  }

  #join(dialer: SimProcess, acceptor: SimProcess, address: string): [SimTransport, SimTransport] {
    const here = new SimTransport(this, dialer, acceptor, `tcp:${address}`);
    const far = new SimTransport(this, acceptor, dialer, `tcp:${dialer.name}`);
    here.join(far);
    far.join(here);
    return [here, far];
  }
}

interface Segment {
  /** Undefined: the end of the stream. */
  readonly bytes: Uint8Array | undefined;
  /** When it can be there; undefined while the way is silent. */
  arrivesAtMs: number | undefined;
}

/** One end of a connection. */
export class SimTransport implements Transport {
  readonly peerName: string;
  readonly process: SimProcess;
  peer: SimTransport | undefined;
  readonly #network: Network;
  readonly #link: Link;
  /** To the peer. */
  readonly #way: Direction;
  readonly #isLocal: boolean;
  #events: TransportEvents | undefined;
  /** On their way to the peer. */
  #wire: Segment[] = [];
  #wireBytes = 0;
  #lastArrivalMs = 0;
  #isScheduled = false;
  /** Written, and not yet taken by the kernel. */
  #unsent: { readonly bytes: number; readonly onWritten: () => void }[] = [];
  #buffered = 0;
  #isTaking = false;
  /** What came before `start`. */
  #early: Uint8Array[] = [];
  /** Nothing is written any more. */
  #isEnding = false;
  /** No event comes any more, but for the close that is under way. */
  #isClosed = false;
  #isCloseTold = false;

  constructor(network: Network, process: SimProcess, peerProcess: SimProcess, peerName: string) {
    const link = network.link(process.machine, peerProcess.machine);
    this.#network = network;
    this.#link = link;
    this.#way = network.direction(process.machine, peerProcess.machine);
    this.#isLocal = process.machine === peerProcess.machine;
    this.process = process;
    this.peerName = peerName;
    link.ends.add(this);
    process.onDeath.add(this.#onDeath);
  }

  join(peer: SimTransport): void {
    this.peer = peer;
  }

  get bufferedBytes(): number {
    return this.#buffered;
  }

  start(events: TransportEvents): void {
    this.#events = events;
    const early = this.#early;
    this.#early = [];
    for (const bytes of early) this.process.post(0, () => this.#deliver(bytes));
    if (this.#isClosed) this.#tellClosed();
  }

  write(chunks: readonly Uint8Array[], onWritten: () => void): void {
    if (this.#isClosed || this.#isEnding) return;
    if (!this.#isLocal) this.#network.onWrite(this.process, chunks);
    let length = 0;
    for (const chunk of chunks) length += chunk.length;
    const bytes = new Uint8Array(length);
    let at = 0;
    for (const chunk of chunks) {
      bytes.set(chunk, at);
      at += chunk.length;
    }
    this.#network.bytesSent += length;
    this.process.world.trace.mix(length);
    this.#buffered += length;
    this.#unsent.push({ bytes: length, onWritten });
    this.#send(bytes);
    this.#takeLater();
    this.process.wrote();
  }

  end(): void {
    if (this.#isClosed || this.#isEnding) return;
    this.#isEnding = true;
    this.#send(undefined);
    // Closed when the peer has closed too, or after a while.
    this.process.post(this.#network.world.random.between(1, 20), () => this.#close());
  }

  destroy(): void {
    if (this.#isClosed) return;
    if (!this.#isEnding) {
      // A reset may overtake what is under way.
      if (this.#network.world.random.chance(0.3)) this.#dropWire();
      this.#send(undefined);
    }
    this.#close();
  }

  /** The process is dead; its kernel is not. */
  readonly #onDeath = (): void => {
    if (this.#isClosed) return;
    if (!this.#isEnding) this.#send(undefined);
    this.#over();
  };

  /** Something on the way has ended the connection. */
  reset(): void {
    this.#dropWire();
    this.#close();
  }

  /** The machine is gone without a word. */
  vanish(): void {
    this.#dropWire();
    this.#over();
  }

  #close(): void {
    if (this.#isClosed) return;
    this.#over();
    if (this.#events !== undefined) this.#tellClosed();
  }

  #over(): void {
    this.#isClosed = true;
    this.process.onDeath.delete(this.#onDeath);
    this.#forget();
  }

  /** What was written before the end still has to arrive. */
  #forget(): void {
    if (this.#isClosed && this.#wire.length === 0) this.#link.ends.delete(this);
  }

  #tellClosed(): void {
    if (this.#isCloseTold) return;
    this.#isCloseTold = true;
    this.process.post(0, () => this.#events?.onClose(undefined));
  }

  // ---------------------------------------------------------------- the wire

  #dropWire(): void {
    this.#wire = [];
    this.#wireBytes = 0;
  }

  #send(bytes: Uint8Array | undefined): void {
    this.#wire.push({ bytes, arrivesAtMs: undefined });
    this.#wireBytes += bytes?.length ?? 0;
    this.flow();
  }

  /** The way is open again, or something was written. */
  flow(): void {
    const { peer } = this;
    if (peer === undefined || this.#way.isSilent) return;
    const now = this.#network.world.now();
    for (const segment of this.#wire) {
      if (segment.arrivesAtMs !== undefined) continue;
      const earliest = now + this.#network.latencyMs(this.#link, this.#way);
      segment.arrivesAtMs = Math.max(earliest, this.#lastArrivalMs);
      this.#lastArrivalMs = segment.arrivesAtMs;
    }
    this.#schedule();
  }

  #schedule(): void {
    const next = this.#wire[0];
    if (this.#isScheduled || next?.arrivesAtMs === undefined) return;
    this.#isScheduled = true;
    const { world } = this.#network;
    world.after(Math.max(next.arrivesAtMs - world.now(), 0), () => this.#arrive());
  }

  #arrive(): void {
    this.#isScheduled = false;
    const { peer } = this;
    const segment = this.#wire[0];
    if (peer === undefined || segment === undefined) return;
    if (this.#way.isSilent) {
      for (const waiting of this.#wire) waiting.arrivesAtMs = undefined;
      return;
    }
    if (segment.arrivesAtMs === undefined || segment.arrivesAtMs > this.#network.world.now()) return this.#schedule();
    this.#wire.shift();
    this.#forget();
    const { bytes } = segment;
    if (bytes === undefined) {
      peer.process.run(() => peer.#close());
      return;
    }
    peer.process.run(() => {
      this.#wireBytes -= bytes.length;
      if (this.#unsent.length > 0) this.#takeLater();
      peer.#deliver(bytes);
    });
    this.#schedule();
  }

  #deliver(bytes: Uint8Array): void {
    if (this.#isClosed) return;
    if (this.#events === undefined) this.#early.push(bytes);
    else this.#events.onData(bytes);
  }

  /** The kernel takes what has room. */
  #takeLater(): void {
    if (this.#isTaking) return;
    this.#isTaking = true;
    this.process.post(0, () => {
      this.#isTaking = false;
      if (this.#isClosed) return;
      while (this.#wireBytes - this.#buffered <= kernelBufferBytes) {
        const taken = this.#unsent.shift();
        if (taken === undefined) break;
        const { bytes, onWritten } = taken;
        this.#buffered -= bytes;
        onWritten();
      }
      if (this.#buffered === 0) this.#events?.onDrain();
    });
  }
}
