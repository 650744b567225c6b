import { writeFileSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import type { ProcessSupervisor } from "./process-supervisor.ts";
import { processesWith, recordingSupervisor, spec, uniqueSleep, until } from "./supervised-processes.fixture.ts";

let used: ProcessSupervisor[] = [];

function newSupervisor() {
  const recording = recordingSupervisor();
  used.push(recording.supervisor);
  return recording;
}

afterEach(async () => {
  await Promise.all(used.map((supervisor) => supervisor.killAll()));
  used = [];
});

describe("an instance", () => {
  test("gets its variables and directory; each line of its output has its id; its exit is seen", async () => {
    process.env["LEVER_AGENT_OF_SOMEONE_ELSE"] = "x";
    const { supervisor, stdout, stderr } = newSupervisor();
    const started: string[] = [];
    const exited: string[] = [];
    const command = `pwd; echo "$LEVER_ENVIRONMENT $LEVER_SERVICE $LEVER_INSTANCE $OWN"; env | grep -c ^LEVER_; printf oops >&2; exit 3`;
    const directory = path.join(import.meta.dirname, "..");
    const instance = supervisor.start(spec(command, { id: "hello-2-x7k2", directory, env: { OWN: "a b" } }), {
      onStart: ({ id }) => started.push(id),
      onExit: ({ id }) => {
        exited.push(id);
        // The last lines are there before the news.
        expect(stdout.text).toContain("dev hello");
      },
    });
    expect(supervisor.instances).toEqual([instance]);
    const exit = await instance.exited;
    delete process.env["LEVER_AGENT_OF_SOMEONE_ELSE"];
    expect(exit).toEqual({ code: 3, signal: null, uptimeMs: expect.any(Number) });
    expect(stdout.text.split("\n")).toEqual([
      `hello-2-x7k2 | ${directory}`,
      "hello-2-x7k2 | dev hello hello-2-x7k2 a b",
      "hello-2-x7k2 | 3",
      "",
    ]);
    expect(stderr.text).toBe("hello-2-x7k2 | oops\n");
    expect([started, exited]).toEqual([["hello-2-x7k2"], ["hello-2-x7k2"]]);
    expect(supervisor.instances).toEqual([]);
  });

  test("sees no pipe or child that is not its own", async () => {
    const { supervisor, stdout } = newSupervisor();
    await supervisor.start(spec("if (: <&3) 2>/dev/null; then echo open; else echo closed; fi; wait; jobs; echo done"))
      .exited;
    expect(stdout.text.replace(/^\S+ \| /gm, "")).toBe("closed\ndone\n");
  });

  test("a signal that ended it is told", async () => {
    const { supervisor } = newSupervisor();
    const exit = await supervisor.start(spec("kill -s USR1 $$")).exited;
    expect(exit).toMatchObject({ code: null, signal: "SIGUSR1" });
  });

  test("what cannot be started says why, and later ones run", async () => {
    const { supervisor, stderr } = newSupervisor();
    const missing = path.join(import.meta.dirname, "nowhere");
    const file = path.join(import.meta.dirname, "process-supervisor.ts");
    const startError = async (overrides: Parameters<typeof spec>[1], command = "true") => {
      let exits = 0;
      const instance = supervisor.start(spec(command, overrides), { onExit: () => exits++ });
      expect(exits).toBe(0);
      const exit = await instance.exited;
      expect(exit).toMatchObject({ code: null, signal: null, uptimeMs: 0 });
      await until(() => exits === 1);
      return exit.startError;
    };
    expect(await startError({ directory: missing })).toBe(`the directory ${missing} is not there`);
    expect(await startError({ directory: file })).toBe(`${file} is not a directory`);
    expect(await startError({ env: { BAD: "a\0b" } })).toContain("null bytes");
    expect(await startError({ env: { HUGE: "x".repeat(4 * 1024 ** 2) } })).toContain("E2BIG");
    const running = supervisor.start(spec("sleep 100", { id: "same" }));
    expect(await startError({ id: "same" })).toBe("the id same is in use");
    expect(supervisor.instances).toEqual([running]);

    expect(await supervisor.start(spec("no-such-command-here")).exited).toMatchObject({ code: 127 });
    expect(stderr.text).toContain("no-such-command-here");
    expect((await supervisor.start(spec("true")).exited).code).toBe(0);
  });

  test("a script that may not be executed ends with 126", async () => {
    const { supervisor } = newSupervisor();
    const directory = await mkdtemp(path.join(tmpdir(), "lever-"));
    writeFileSync(path.join(directory, "script"), "#!/bin/sh\n", { mode: 0o644 });
    expect((await supervisor.start(spec("./script", { directory })).exited).code).toBe(126);
    await rm(directory, { recursive: true });
  });
});

describe("stop", () => {
  test("reaches grandchildren, also those whose parent ended first", async () => {
    const { supervisor, stdout } = newSupervisor();
    const mark = uniqueSleep();
    // The first process ends at once by SIGTERM; its grandchild takes a moment to end.
    const grandchild = `sh -c 'trap "sleep 0.2; echo bye; exit" TERM; echo up; while :; do sleep 0.05; done # ${mark}'`;
    const instance = supervisor.start(spec(`${grandchild} & exec sleep ${mark}`));
    await until(() => stdout.text.includes("up"));
    await Promise.all([supervisor.stop(instance), supervisor.stop(instance)]);
    expect(stdout.text).toContain("bye");
    expect(processesWith(mark)).toEqual([]);
    expect(await instance.exited).toMatchObject({ signal: "SIGTERM" });
    await supervisor.stop(instance);
  });

  test("what ignores SIGTERM gets SIGKILL after the grace period", async () => {
    const { supervisor, stdout } = newSupervisor();
    const mark = uniqueSleep();
    const command = `trap '' TERM; sleep ${mark} & echo up; wait; sleep ${mark}`;
    const instance = supervisor.start(spec(command, { gracePeriodMs: 100 }));
    await until(() => stdout.text.includes("up"));
    await supervisor.stop(instance);
    expect(await instance.exited).toMatchObject({ code: null, signal: "SIGKILL" });
    expect(processesWith(mark)).toEqual([]);
  });

  test("an instance whose first process ended takes along what it left behind", async () => {
    const { supervisor } = newSupervisor();
    const mark = uniqueSleep();
    const exit = await supervisor.start(spec(`sleep ${mark} & exit 5`)).exited;
    expect(exit).toMatchObject({ code: 5 });
    expect(processesWith(mark)).toEqual([]);
  });

  test("right after start the command never runs", async () => {
    const { supervisor, stdout } = newSupervisor();
    let isStarted = false;
    const instance = supervisor.start(spec("echo ran"), {
      onStart: () => {
        isStarted = true;
      },
    });
    await supervisor.stop(instance);
    expect(isStarted).toBe(false);
    expect(stdout.text).toBe("");
  });

  test("all: side by side, nothing is left, nothing starts any more; killAll cuts it short", async () => {
    const { supervisor, stdout } = newSupervisor();
    const mark = uniqueSleep();
    for (let index = 0; index < 5; index++) {
      supervisor.start(
        spec(`trap '' TERM; sleep ${mark} & echo up; wait; sleep ${mark}`, { gracePeriodMs: 3_600_000 }),
      );
    }
    await until(() => stdout.text.split("up").length === 6);
    const stopped = supervisor.stopAll();
    expect(supervisor.stopAll()).toBe(stopped);
    const late = await supervisor.start(spec("true")).exited;
    expect(late.startError).toBe("all instances are being stopped");
    await supervisor.killAll();
    await stopped;
    expect(processesWith(mark)).toEqual([]);
    expect(supervisor.instances).toEqual([]);
  });
});
