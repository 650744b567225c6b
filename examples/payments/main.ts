import { tmpdir } from "node:os";
import path from "node:path";
import { serve } from "leveros";
import { Account } from "./account.ts";
import { Ledger } from "./ledger.ts";

// All instances of one machine share it. In a cluster this is a database server.
const ledger = new Ledger(process.env.LEDGER ?? path.join(tmpdir(), "lever-example-ledger.sqlite"));

class LedgerAccount extends Account {
  constructor(name: string) {
    super(name, ledger);
  }
}

await serve({}, { resource: LedgerAccount });
