/** A machine of its own on virtual time: clocks that go wrong, a process that can be stopped, a suspended machine. */

import type { Clock, TimerHandle } from "@leveros/protocol/clock/clock.ts";
import type { ClockReading, LeaseClock } from "@leveros/protocol/clock/lease-clock.ts";
import type { VirtualClock } from "@leveros/protocol/clock/virtual-clock.ts";
import type { KubeTransport } from "./kube-transport.ts";

export class Machine implements Clock, LeaseClock {
  readonly #base: VirtualClock;
  readonly #rate: number;
  #wallAheadMs = 1_764_000_000_000;
  /** Of virtual time: for how long the machine has been suspended. */
  #suspendedMs = 0;
  #isStopped = false;
  #held: (() => void)[] = [];

  /** Its clocks go `rate` times as fast as time. */
  constructor(base: VirtualClock, rate = 1) {
    this.#base = base;
    this.#rate = rate;
  }

  now(): number {
    return (this.#base.now() - this.#suspendedMs) * this.#rate;
  }

  read(): ClockReading {
    const bootMs = this.#base.now() * this.#rate;
    return { monotonicMs: this.now(), bootMs, wallMs: this.#wallAheadMs + bootMs };
  }

  setWall(byMs: number): void {
    this.#wallAheadMs += byMs;
  }

  /** The process does nothing until `resume`; its clocks go on, or its monotonic one stands still: a suspended machine. */
  async stopFor(ms: number, isSuspend: boolean): Promise<void> {
    this.#isStopped = true;
    await new Promise<void>((resolve) => void this.#base.setTimer(resolve, ms));
    if (isSuspend) this.#suspendedMs += ms;
    this.#isStopped = false;
    for (const callback of this.#held.splice(0)) callback();
  }

  setTimer(callback: () => void, delayMs: number): TimerHandle {
    const handle: { timer: TimerHandle; isCleared: boolean } = { timer: undefined, isCleared: false };
    handle.timer = this.#base.setTimer(
      () =>
        this.#whenRunning(() => {
          if (!handle.isCleared) callback();
        }),
      delayMs / this.#rate,
    );
    return handle;
  }

  clearTimer(handle: TimerHandle): void {
    const known = handle as { timer: TimerHandle; isCleared: boolean };
    known.isCleared = true;
    this.#base.clearTimer(known.timer);
  }

  defer(callback: () => void): void {
    this.#base.defer(() => this.#whenRunning(callback));
  }

  /** A process that is stopped hears of no answer. */
  transport(transport: KubeTransport): KubeTransport {
    const running = () => new Promise<void>((resolve) => this.#whenRunning(resolve));
    return {
      send: (request, signal) =>
        transport.send(request, signal).then(
          (response) => running().then(() => response),
          (error: unknown) =>
            running().then(() => {
              throw error;
            }),
        ),
      close: () => transport.close(),
    };
  }

  #whenRunning(callback: () => void): void {
    if (this.#isStopped) this.#held.push(callback);
    else callback();
  }
}
