/**
 * Accounts and payments in a database that all instances share. It refuses what comes from a former holder of an account
 * (a write that was under way when another instance took over), and books each token once.
 */

import { DatabaseSync } from "node:sqlite";

export interface Receipt {
  readonly payment: number;
  readonly cents: number;
}

export class Ledger {
  readonly #database: DatabaseSync;

  /** `file` may be `:memory:`. */
  constructor(file: string) {
    this.#database = new DatabaseSync(file, { timeout: 5000 });
    this.#database.exec(`
      PRAGMA journal_mode = WAL;
      CREATE TABLE IF NOT EXISTS account (name TEXT PRIMARY KEY, epoch INTEGER NOT NULL);
      CREATE TABLE IF NOT EXISTS payment (
        id INTEGER PRIMARY KEY, token TEXT NOT NULL UNIQUE, account TEXT NOT NULL, cents INTEGER NOT NULL
      );`);
  }

  /** The account's holder is the one of this epoch, unless there has been a later one. To be called before any read. */
  claim(account: string, epoch: number): void {
    const { changes } = this.#database
      .prepare(
        `INSERT INTO account (name, epoch) VALUES (?1, ?2)
         ON CONFLICT (name) DO UPDATE SET epoch = ?2 WHERE epoch <= ?2`,
      )
      .run(account, epoch);
    if (changes !== 1) throw new Error(`${account} has had a later holder than epoch ${epoch}`);
  }

  /** Books once for each token: a repeat gets the first receipt, whatever became of the first call. */
  charge(account: string, epoch: number, token: string, cents: number): Receipt {
    this.#database
      .prepare(
        `INSERT INTO payment (token, account, cents)
         SELECT ?3, name, ?4 FROM account WHERE name = ?1 AND epoch = ?2
         ON CONFLICT (token) DO NOTHING`,
      )
      .run(account, epoch, token, cents);
    const receipt = this.find(account, token);
    // Nothing was booked now, and nothing before.
    if (receipt === undefined) throw new Error(`${account} has had a later holder than epoch ${epoch}`);
    return receipt;
  }

  /** What was booked for the token. */
  find(account: string, token: string): Receipt | undefined {
    const row = this.#database.prepare("SELECT id, account, cents FROM payment WHERE token = ?").get(token);
    if (row === undefined) return undefined;
    if (row.account !== account) throw new Error(`token ${token} belongs to a payment of another account`);
    return { payment: Number(row.id), cents: Number(row.cents) };
  }

  total(account: string): number {
    const sum = this.#database.prepare("SELECT coalesce(sum(cents), 0) AS cents FROM payment WHERE account = ?");
    return Number(sum.get(account)?.cents);
  }
}
