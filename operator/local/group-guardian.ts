/**
 * Ends the guarded process groups when this process is gone, however it ended: also by SIGKILL, which it cannot see.
 *
 * One small `sh` holds the reading end of a pipe whose writing end only this process has. It is told each group when it
 * starts and when it is gone; at the end of the input it sends SIGTERM to the groups that are left, and 2 s later
 * SIGKILL. It runs in a session of its own, so that Ctrl-C and a closed terminal do not reach it.
 *
 * Invariant: `guard` calls back when the group's id is in the pipe, so that it is acted on even if this process dies
 * at that moment. Who starts a group lets its command run only then.
 */

import { type ChildProcess, spawn } from "node:child_process";

/** POSIX sh; only `sleep` is not built in. */
const script = `
trap '' HUP INT TERM
groups=
while read -r op group; do
  case $op in
    +) groups="$groups $group" ;;
    -) left=
       for g in $groups; do [ "$g" = "$group" ] || left="$left $g"; done
       groups=$left ;;
  esac
done
signal_all() { for g in $groups; do kill -s "$1" -- "-$g" 2>/dev/null && found=1; done; }
found=
signal_all TERM
[ -n "$found" ] || exit 0
for _ in 1 2; do
  sleep 1
  found=
  signal_all 0
  [ -n "$found" ] || exit 0
done
signal_all KILL
`;

export class GroupGuardian {
  readonly #groups = new Set<number>();
  #process: ChildProcess | undefined;
  #isClosed = false;

  /** The guardian's process id, while it runs. */
  get pid(): number | undefined {
    return this.#process?.pid;
  }

  /** Guards the group from the time of the callback on. The callback's error says why it cannot be guarded. */
  guard(groupId: number, callback: (error?: Error) => void): void {
    this.#groups.add(groupId);
    let isCalled = false;
    const callOnce = (error?: Error | null) => {
      if (isCalled) return;
      isCalled = true;
      callback(error ?? undefined);
    };
    const guardian = this.#process ?? this.#start(callOnce);
    guardian.stdin?.write(`+ ${groupId}\n`, callOnce);
  }

  /** To be called when nothing is left of the group: from then on its id may be given to others. */
  release(groupId: number): void {
    this.#groups.delete(groupId);
    this.#process?.stdin?.write(`- ${groupId}\n`);
  }

  /** Ends the guardian. Groups still guarded are ended by it. */
  close(): void {
    this.#isClosed = true;
    this.#process?.stdin?.end();
  }

  #start(onFailure: (error: Error) => void): ChildProcess {
    const guardian = spawn("/bin/sh", ["-c", script], {
      cwd: "/",
      env: { PATH: process.env["PATH"] ?? "/usr/bin:/bin" },
      detached: true,
      stdio: ["pipe", "ignore", "ignore"],
    });
    this.#process = guardian;
    const onEnd = () => {
      if (this.#process !== guardian) return;
      this.#process = undefined;
      // Someone ended it, or the machine is short of processes; the groups need another.
      if (guardian.pid === undefined || this.#isClosed || this.#groups.size === 0) return;
      const next = this.#start(() => {});
      for (const groupId of this.#groups) next.stdin?.write(`+ ${groupId}\n`);
    };
    guardian.once("error", (error) => {
      onEnd();
      onFailure(error);
    });
    guardian.once("exit", onEnd);
    // A write to a guardian that ended: `exit` follows and its successor is told.
    guardian.stdin?.on("error", () => {});
    guardian.unref();
    (guardian.stdin as unknown as { unref?: () => void } | null)?.unref?.();
    return guardian;
  }
}
