/**
 * Payments that are made once, whatever is repeated and whatever crashes: Lever answers a repeated token from memory, and
 * the ledger's unique key does when that memory is gone.
 *
 *     lever invoke lever://dev/payments/account-7/charge 1250 --token order-4711
 */

import { context, MethodError } from "leveros";
import type { Ledger, Receipt } from "./ledger.ts";

export class Account {
  readonly #name: string;
  readonly #ledger: Ledger;
  /** Of this holder: what an earlier one has still to write does not land after the claim. */
  readonly #epoch: number;

  constructor(name: string, ledger: Ledger) {
    this.#name = name;
    this.#ledger = ledger;
    this.#epoch = context().epoch;
    ledger.claim(name, this.#epoch);
  }

  charge(cents: number): Receipt {
    if (!Number.isSafeInteger(cents) || cents <= 0) throw new MethodError({ error: "NO_AMOUNT", found: cents });
    const { token } = context();
    if (token === undefined) throw new MethodError({ error: "NO_TOKEN" });
    return this.#ledger.charge(this.#name, this.#epoch, token, cents);
  }

  /** Whether the payment was made: for who got TOKEN_MEMORY_LOST after a crash. */
  receipt(token: string): Receipt | null {
    return this.#ledger.find(this.#name, token) ?? null;
  }

  total(): number {
    return this.#ledger.total(this.#name);
  }
}
