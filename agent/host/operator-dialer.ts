/**
 * Connections to the operator, which has one address or several: replicas behind a name.
 *
 * The name is resolved at each try. Agents spread over the replicas, since each tries them in an order of its own; one that
 * could not be reached comes last for a while. Invariant: a replica that does not answer delays no connection by more than
 * `staggerMs`: then the next one is tried beside it, and whichever is there first is taken.
 *
 * Source: RFC 8305 ("Happy Eyeballs").
 */

import { lookup } from "node:dns/promises";
import { isIP } from "node:net";
import type { Random } from "@leveros/protocol/clock/clock.ts";
import type { Transport } from "@leveros/protocol/transport/transport.ts";
import { dialTcp } from "./socket.ts";

/** After this the next replica is tried too. */
const staggerMs = 250;
/** How long one that could not be reached comes last. */
const avoidMs = 10_000;
/** Addresses of a name that are tried: there are a handful of replicas. */
const addressesMax = 16;

export interface OperatorDialerOptions {
  /** `host:port`; an IPv6 address in brackets. */
  readonly operator: string;
  readonly timeoutMs: number;
  readonly random: Random;
  readonly dial?: (address: string, timeoutMs: number) => Promise<Transport>;
  /** All addresses of a name. */
  readonly resolve?: (host: string) => Promise<readonly string[]>;
  readonly now?: () => number;
}

export class OperatorDialer {
  readonly #options: Required<OperatorDialerOptions>;
  readonly #host: string;
  readonly #port: string;
  /** Until when each address comes last. */
  readonly #avoided = new Map<string, number>();

  constructor(options: OperatorDialerOptions) {
    this.#options = { dial: dialTcp, resolve: addressesOf, now: () => performance.now(), ...options };
    const colon = options.operator.lastIndexOf(":");
    this.#host = options.operator.slice(0, colon).replace(/^\[|\]$/g, "");
    this.#port = options.operator.slice(colon + 1);
  }

  /** Any replica. Rejects with the last one's error if none can be reached. */
  async any(): Promise<Transport> {
    return await this.#first(await this.#addresses());
  }

  /** The replica at this address, or any if it cannot be reached soon. */
  async at(address: string): Promise<Transport> {
    // What the name says is asked for only if it is needed.
    return await this.#first([address], () => this.#addresses());
  }

  async #addresses(): Promise<string[]> {
    const { resolve, random, now } = this.#options;
    const hosts = isIP(this.#host) === 0 ? await resolve(this.#host) : [this.#host];
    const addresses = hosts
      .slice(0, addressesMax)
      .map((host) => (host.includes(":") ? `[${host}]:${this.#port}` : `${host}:${this.#port}`));
    const nowMs = now();
    for (const [address, untilMs] of this.#avoided) if (untilMs <= nowMs) this.#avoided.delete(address);
    const order = addresses.map((address) => ({ address, rank: (this.#avoided.has(address) ? 1 : 0) + random() / 2 }));
    return order.sort((a, b) => a.rank - b.rank).map(({ address }) => address);
  }

  #first(addresses: readonly string[], more?: () => Promise<readonly string[]>): Promise<Transport> {
    const { dial, timeoutMs, now } = this.#options;
    return new Promise((resolve, reject) => {
      const waiting = [...addresses];
      const tried = new Set<string>();
      let underWay = 0;
      let isOver = false;
      let timer: NodeJS.Timeout | undefined;
      let lastError: unknown = new Error(`${this.#host} has no address`);
      const next = () => {
        clearTimeout(timer);
        if (isOver) return;
        const address = waiting.shift();
        if (address === undefined) {
          if (more !== undefined) return addMore();
          if (underWay > 0) return;
          isOver = true;
          return reject(lastError);
        }
        if (tried.has(address)) return next();
        tried.add(address);
        underWay++;
        timer = setTimeout(next, staggerMs);
        dial(address, timeoutMs).then(
          (transport) => {
            underWay--;
            this.#avoided.delete(address);
            if (isOver) return transport.destroy();
            isOver = true;
            clearTimeout(timer);
            resolve(transport);
          },
          (error: unknown) => {
            underWay--;
            lastError = error;
            this.#avoided.set(address, now() + avoidMs);
            next();
          },
        );
      };
      const addMore = () => {
        const ask = more as () => Promise<readonly string[]>;
        more = undefined;
        underWay++;
        ask().then(
          (found) => {
            underWay--;
            waiting.push(...found);
            next();
          },
          (error: unknown) => {
            underWay--;
            lastError = error;
            next();
          },
        );
      };
      next();
    });
  }
}

async function addressesOf(host: string): Promise<string[]> {
  return (await lookup(host, { all: true })).map(({ address }) => address);
}
