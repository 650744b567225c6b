/** Checks one after another, as they are printed: what is well, what should be looked at, what is wrong. */

import type { Check } from "@leveros/operator/admin/admin-report.ts";
import { LeverError } from "leveros";
import type pc from "picocolors";
import { remedyOf } from "./output.ts";

export interface ListedCheck extends Check {
  /** It is not well, and nothing is broken: the exit code stays 0. */
  readonly isWarning: boolean;
}

/** Undefined: well. */
export type Verdict = { readonly failed: string } | { readonly warning: string } | undefined;

export class CheckList {
  readonly checks: ListedCheck[] = [];
  #category = "";

  /** The heading of those that follow. */
  heading(category: string): void {
    this.#category = category;
  }

  /** Those made elsewhere, with their own headings. */
  add(checks: readonly Check[]): void {
    this.checks.push(...checks.map((check) => ({ ...check, isWarning: false })));
  }

  say(what: string, verdict: Verdict): void {
    const isWarning = verdict !== undefined && "warning" in verdict;
    const hint = verdict === undefined ? null : "failed" in verdict ? verdict.failed : verdict.warning;
    this.checks.push({ category: this.#category, what, isOk: verdict === undefined, isWarning, hint });
  }

  /**
   * Looks, and says what was found. What may not be looked at is no fault of what is there: a warning. True if it is well,
   * or no worse than a warning.
   */
  async look(what: string, look: () => Promise<Verdict>): Promise<boolean> {
    const verdict = await look().catch(verdictOf);
    this.say(what, verdict);
    return verdict === undefined || "warning" in verdict;
  }

  /** `isOk` of all. */
  get isOk(): boolean {
    return this.checks.every(({ isOk, isWarning }) => isOk || isWarning);
  }
}

export function verdictOf(thrown: unknown): Verdict {
  const error = LeverError.from(thrown);
  const remedy = remedyOf(error);
  const text = remedy === undefined ? error.rawMessage : `${error.rawMessage}. ${remedy}`;
  return error.code === "PERMISSION_DENIED" ? { warning: `it cannot be looked at: ${text}` } : { failed: text };
}

export function checksText(
  checks: readonly ListedCheck[],
  colours: Pick<typeof pc, "red" | "green" | "yellow" | "bold">,
): string {
  const lines: string[] = [];
  let heading: string | undefined;
  for (const check of checks) {
    if (check.category !== heading) {
      if (heading !== undefined) lines.push("");
      lines.push(colours.bold(check.category), "-".repeat(check.category.length));
    }
    heading = check.category;
    lines.push(`${markOf(check, colours)} ${check.what}`);
    if (check.hint !== null) lines.push(`    ${check.hint}`);
  }
  const failed = checks.filter(({ isOk, isWarning }) => !isOk && !isWarning).length;
  const warnings = checks.filter(({ isOk, isWarning }) => !isOk && isWarning).length;
  const outcome = failed === 0 ? "all is well" : `${failed} of ${checks.length} checks failed`;
  const also = warnings === 0 ? "" : `, ${warnings} warning${warnings === 1 ? "" : "s"}`;
  return [...lines, "", failed === 0 ? colours.green(outcome + also) : colours.red(outcome + also)].join("\n");
}

function markOf({ isOk, isWarning }: ListedCheck, colours: Pick<typeof pc, "red" | "green" | "yellow">): string {
  return isOk ? colours.green("√") : isWarning ? colours.yellow("‼") : colours.red("×");
}
