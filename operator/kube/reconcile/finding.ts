/** What a reconciler found: the status, reason and message of a condition. */

export interface Finding {
  readonly status: "True" | "False" | "Unknown";
  /** One CamelCase word, stable, for programs. */
  readonly reason: string;
  /** For people: what was found, and what to do where somebody has to. */
  readonly message: string;
}

/** A condition's message may have 32 KiB; more than this nobody reads. */
export const findingCharsMax = 1000;
/** Of what others say within a message. */
const quotedCharsMax = 500;

export function finding(status: Finding["status"], reason: string, message: string): Finding {
  return { status, reason, message: oneLine(message, findingCharsMax) };
}

/** What somebody else has said, as a part of a sentence; never changes how a terminal shows the rest. */
export function quoted(text: string | undefined): string {
  return oneLine(text ?? "", quotedCharsMax).replace(/[.\s]+$/, "");
}

function oneLine(text: string, charsMax: number): string {
  const line = text.replace(/[\p{Cc}\p{Cf}\u2028\u2029]+/gu, " ").trim();
  return line.length > charsMax ? `${line.slice(0, charsMax - 1)}…` : line;
}
