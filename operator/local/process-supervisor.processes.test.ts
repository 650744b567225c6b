/** What happens to the instances when their supervisor is killed, stalled or loses its guardian. */

import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { afterEach, describe, expect, test } from "vitest";
import { processesWith, recordingSupervisor, spec, uniqueSleep, until } from "./supervised-processes.fixture.ts";

const parents: ChildProcess[] = [];

afterEach(() => {
  for (const parent of parents.splice(0)) parent.kill("SIGKILL");
});

function startParent(count: number, command: string, gracePeriodMs = 30_000) {
  const fixture = path.join(import.meta.dirname, "supervisor-parent.fixture.ts");
  const parent = spawn(process.execPath, [fixture, String(count), String(gracePeriodMs)], {
    env: { ...process.env, SUPERVISED_COMMAND: command },
    stdio: ["ignore", "pipe", "inherit"],
  });
  parents.push(parent);
  const output = { text: "" };
  parent.stdout.on("data", (chunk: Buffer) => {
    output.text += chunk.toString();
  });
  const exited = new Promise<void>((resolve) => parent.once("exit", () => resolve()));
  return { parent, output, exited };
}

/** The processes whose parent is `pid`, with their command lines. */
function childrenOf(pid: number): { pid: number; args: string }[] {
  return processesWith("").flatMap((child) => {
    try {
      const ppid = readFileSync(`/proc/${child}/stat`, "latin1").split(") ")[1]?.split(" ")[1];
      return Number(ppid) === pid ? [{ pid: child, args: readFileSync(`/proc/${child}/cmdline`, "utf8") }] : [];
    } catch {
      return [];
    }
  });
}

const guardianOf = (pid: number) => childrenOf(pid).find(({ args }) => args.includes("signal_all"))?.pid;

describe("a supervisor that is SIGKILLed", () => {
  test("leaves no instance, grandchild or guardian, whether they heed SIGTERM or not", async () => {
    const mark = uniqueSleep();
    const command = `trap '' TERM; (sleep ${mark}; sleep ${mark}) & sleep ${mark}; sleep ${mark}`;
    const { parent, output, exited } = startParent(4, command);
    await until(() => output.text.includes("up") && processesWith(mark).length >= 16);
    const guardian = guardianOf(parent.pid as number) as number;
    expect(guardian).toBeTypeOf("number");
    parent.kill("SIGKILL");
    await exited;
    await until(() => processesWith(mark).length === 0);
    await until(() => !processesWith("signal_all").includes(guardian));
  });

  test("at any moment of starting: no instance is left", async () => {
    const mark = uniqueSleep();
    const directory = mkdtempSync(path.join(tmpdir(), "lever-supervisor-"));
    const ran = path.join(directory, "ran");
    const rounds = 20;
    for (let round = 0; round < rounds; round++) {
      const { parent, output, exited } = startParent(8, `echo ran >> '${ran}'; exec sleep ${mark}`);
      await until(() => output.text.includes("ready"));
      await sleep(round * 3);
      // On a busy machine nothing may have run so far: at least the last round comes late enough. Else it has shown nothing.
      if (round === rounds - 1) await until(() => existsSync(ran));
      parent.kill("SIGKILL");
      await exited;
      await until(() => processesWith(mark).length === 0);
    }
    rmSync(directory, { recursive: true });
  });

  test("while it stops: no instance is left", async () => {
    const mark = uniqueSleep();
    const { parent, output, exited } = startParent(3, `trap '' TERM; sleep ${mark}; sleep ${mark}`);
    await until(() => output.text.includes("up") && processesWith(mark).length >= 6);
    parent.kill("SIGTERM");
    await sleep(200);
    expect(processesWith(mark).length).toBeGreaterThan(0);
    parent.kill("SIGKILL");
    await exited;
    await until(() => processesWith(mark).length === 0);
  });

  test("the control: without the guardian, instances do survive", async () => {
    const mark = uniqueSleep();
    const { parent, output, exited } = startParent(2, `exec sleep ${mark}`);
    await until(() => output.text.includes("up") && processesWith(mark).length >= 2);
    const guardian = guardianOf(parent.pid as number) as number;
    parent.kill("SIGSTOP"); // So that it starts no other guardian.
    process.kill(guardian, "SIGKILL");
    parent.kill("SIGKILL");
    await exited;
    await sleep(3000);
    const survivors = processesWith(mark);
    for (const pid of survivors) process.kill(pid, "SIGKILL");
    expect(survivors).toHaveLength(2);
  });

  test("a guardian that is killed is replaced", async () => {
    const mark = uniqueSleep();
    const { parent, output, exited } = startParent(2, `exec sleep ${mark}`);
    await until(() => output.text.includes("up") && processesWith(mark).length >= 2);
    const guardian = guardianOf(parent.pid as number) as number;
    process.kill(guardian, "SIGKILL");
    await until(() => ![undefined, guardian].includes(guardianOf(parent.pid as number)));
    expect(processesWith(mark)).toHaveLength(2);
    parent.kill("SIGKILL");
    await exited;
    await until(() => processesWith(mark).length === 0);
  });
});

test("SIGTERM ends all and then the supervisor itself; nothing holds it", async () => {
  const mark = uniqueSleep();
  const { parent, output, exited } = startParent(4, `sleep ${mark} & sleep ${mark}; echo never`);
  await until(() => output.text.includes("up") && processesWith(mark).length >= 12);
  const guardian = guardianOf(parent.pid as number) as number;
  parent.kill("SIGTERM");
  await exited;
  expect(parent.exitCode).toBe(0);
  expect(processesWith(mark)).toEqual([]);
  await until(() => !processesWith("signal_all").includes(guardian));
  expect(output.text).not.toContain("never");
});

test("a second SIGTERM kills at once what has an hour left", async () => {
  const mark = uniqueSleep();
  const { parent, output, exited } = startParent(3, `trap '' TERM; sleep ${mark}; sleep ${mark}`, 3_600_000);
  await until(() => output.text.includes("up") && processesWith(mark).length >= 6);
  parent.kill("SIGTERM");
  await sleep(300);
  expect(parent.exitCode).toBeNull();
  parent.kill("SIGTERM");
  await exited;
  expect(processesWith(mark)).toEqual([]);
});

test("output that nobody reads stalls its writers, not the supervisor's memory", async () => {
  const mark = uniqueSleep();
  const { parent, output, exited } = startParent(3, `echo up; exec yes ${mark} ${"x".repeat(100)}`);
  await until(() => output.text.includes("up"));
  parent.stdout?.pause();
  const residentKiB = () => {
    const status = readFileSync(`/proc/${parent.pid}/status`, "utf8");
    return Number(/VmRSS:\s+(\d+)/.exec(status)?.[1]);
  };
  await sleep(1500);
  const beforeKiB = residentKiB();
  await sleep(3000);
  // Unread, three times `yes` would write gigabytes in this time.
  expect(residentKiB() - beforeKiB).toBeLessThan(16 * 1024);
  expect(processesWith(`yes ${mark}`)).toHaveLength(3);
  // The supervisor itself is not stalled: it stops its instances.
  parent.kill("SIGTERM");
  await until(() => processesWith(`yes ${mark}`).length === 0);
  parent.stdout?.resume();
  await exited;
});

test("a hundred instances with a hundred lines each: every line is whole, and there", async () => {
  const { supervisor, stdout } = recordingSupervisor();
  const script = 'i=0; while [ $i -lt 100 ]; do printf "line $i "; printf "%0100d\\n" $i; i=$((i+1)); done';
  const instances = Array.from({ length: 100 }, () => supervisor.start(spec(script)));
  await Promise.all(instances.map(({ exited }) => exited));
  const lines = stdout.text.split("\n").slice(0, -1);
  expect(lines).toHaveLength(10_000);
  const next = new Map<string, number>();
  for (const line of lines) {
    const [, id, index, padded] = /^(\S+) \| line (\d+) (\d{100})$/.exec(line) ?? [];
    expect(Number(index)).toBe(Number(padded));
    expect(Number(index)).toBe(next.get(id as string) ?? 0);
    next.set(id as string, Number(index) + 1);
  }
  expect(next.size).toBe(100);
  await supervisor.stopAll();
});

test("what left its group by intent holds neither its exit nor stopAll", async () => {
  const { supervisor } = recordingSupervisor();
  const mark = uniqueSleep();
  const exit = await supervisor.start(spec(`setsid sleep ${mark} & sleep 0.2; exit 7`)).exited;
  expect(exit.code).toBe(7);
  await supervisor.stopAll();
  const escaped = processesWith(mark);
  for (const pid of escaped) process.kill(pid, "SIGKILL");
  expect(escaped).toHaveLength(1);
});
