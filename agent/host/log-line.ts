/**
 * A line of a process's log. Invariant: it is one line, and changes nothing of how a terminal shows it, whatever is in its
 * text: names in it come from peers, from the cluster and from systems' errors.
 */

export function logLine(level: "info" | "warn", text: string): string {
  return `${new Date().toISOString()} ${level} ${logText(text)}`;
}

/** Without line breaks, control characters (C0 and C1: terminals' escapes begin with them) and those that reorder text. */
export function logText(text: string): string {
  return text.replace(/[\s\p{Cc}\p{Cf}]+/gu, " ").trim();
}
