import { describe, expect, test } from "vitest";
import type { ContainerStatus, TerminatedState } from "./kubernetes-object.ts";
import { at, type PodShape, pod, running, startedAt } from "./objects.fixture.ts";
import { processEnds } from "./process-end.ts";

const ended = (name: string, finishedMs: number, fields: Partial<TerminatedState> = {}): ContainerStatus => ({
  name,
  ready: false,
  restartCount: 0,
  state: { terminated: { exitCode: 1, startedAt: at(0), finishedAt: at(finishedMs), ...fields } },
});

const restarted = (name: string, finishedMs: number, sinceMs: number): ContainerStatus => ({
  ...running(name, sinceMs),
  restartCount: 1,
  lastState: { terminated: { exitCode: 1, startedAt: at(0), finishedAt: at(finishedMs) } },
});

/** In ms from `startedAt`. */
function endsOf(shape: PodShape) {
  const relative = (ms: number | undefined) => (ms === undefined ? undefined : ms - startedAt);
  const { app, agent } = processEnds(pod(shape));
  return { app: relative(app), agent: relative(agent) };
}

const nothing = { app: undefined, agent: undefined };
const all = { app: Number.POSITIVE_INFINITY, agent: Number.POSITIVE_INFINITY };
const over = { app: ended("app", 9000), agent: ended("lever-agent", 10_000) };
const failed: PodShape["status"] = { phase: "Failed" };

describe("what is proven", () => {
  test.each<[string, PodShape, ReturnType<typeof endsOf>]>([
    ["of a pod that runs: nothing", {}, nothing],
    [
      "the app's container terminated: what began more than a second before",
      { app: ended("app", 9000) },
      { app: 8000, agent: undefined },
    ],
    ["the agent's likewise", { agent: ended("lever-agent", 9000) }, { app: undefined, agent: 8000 }],
    [
      "it waits to be started again",
      { app: { ...restarted("app", 9000, 0), state: { waiting: { reason: "CrashLoopBackOff" } } } },
      { app: 8000, agent: undefined },
    ],
    ["it was started again", { app: restarted("app", 9000, 9000) }, { app: 8000, agent: undefined }],
    [
      "it was started again, by a clock that has been set back: nothing of what runs now",
      { app: restarted("app", 9000, 2000), agent: restarted("lever-agent", 9000, 3000) },
      { app: 2000, agent: 3000 },
    ],
    [
      "of two ends the later",
      { app: { ...ended("app", 20_000), lastState: { terminated: { finishedAt: at(9000) } } } },
      { app: 19_000, agent: undefined },
    ],
    ["the kubelet ended the pod: all of it", { ...over, status: failed }, all],
    ["it succeeded", { ...over, status: { phase: "Succeeded" } }, all],
    [
      "deleted, all containers terminated, but started again perhaps: only what began before",
      { ...over, meta: { deletionTimestamp: at(8000) } },
      { app: 8000, agent: 9000 },
    ],
  ])("%s", (_, shape, expected) => {
    expect(endsOf(shape)).toEqual(expected);
  });
});

describe("what is no proof", () => {
  test.each<[string, PodShape]>([
    ["not ready", { ready: false }],
    ["being deleted", { meta: { deletionTimestamp: at(0) } }],
    ["being deleted by force", { meta: { deletionTimestamp: at(0) }, ready: false, status: { reason: "NodeLost" } }],
    ["phase Failed, written by the garbage collector over what the kubelet last said", { status: failed }],
    ["phase Succeeded, while a container runs", { status: { phase: "Succeeded" } }],
    ["phase Unknown", { status: { phase: "Unknown" } }],
    ["no status at all", { status: { phase: "Failed", containerStatuses: [], initContainerStatuses: [] } }],
    ["a container that the kubelet did not find", { app: ended("app", 9000, { reason: "ContainerStatusUnknown" }) }],
    ["an end that nobody saw", { app: { name: "app", state: { terminated: { exitCode: 137 } } } }],
    ["an end in 1970, or at no time", { app: ended("app", 0, { finishedAt: "1970-01-01T00:00:00Z" }) }],
    ["an end at what is no time", { app: ended("app", 0, { finishedAt: "soon" }) }],
    [
      "an end in a PID namespace that the pod's containers share",
      { ...over, spec: { shareProcessNamespace: true }, status: failed },
    ],
    ["an end in the node's PID namespace", { ...over, spec: { hostPID: true } }],
    ["waiting, never started", { app: { name: "app", state: { waiting: { reason: "ContainerCreating" } } } }],
    [
      "another container's end",
      {
        spec: { containers: [{ name: "app" }, { name: "proxy" }] },
        meta: { annotations: { "leveros.dev/app-container": "app" } },
        status: { containerStatuses: [running("app"), ended("proxy", 9000)] },
      },
    ],
    [
      "an end where the pod does not say which container is the app's",
      {
        spec: { containers: [{ name: "app" }, { name: "proxy" }] },
        status: { containerStatuses: [ended("app", 9000), ended("proxy", 9000)] },
      },
    ],
  ])("%s", (_, shape) => {
    expect(endsOf(shape)).toEqual(nothing);
  });

  test("a Failed pod of which one container was not seen to end: only the other's end is told", () => {
    expect(endsOf({ ...over, agent: running("lever-agent"), status: failed })).toEqual({ app: 8000, agent: undefined });
    const unknown = ended("lever-agent", 9000, { reason: "ContainerStatusUnknown" });
    expect(endsOf({ ...over, agent: unknown, status: failed })).toEqual({ app: 8000, agent: undefined });
    const shape = { ...over, spec: { containers: [{ name: "app" }, { name: "proxy" }] }, status: failed };
    expect(endsOf({ ...shape, meta: { annotations: { "leveros.dev/app-container": "app" } } })).toEqual({
      app: 8000,
      agent: 9000,
    });
  });

  test("a pod that the garbage collector took, however dead its containers looked", () => {
    const conditions = [{ type: "DisruptionTarget", status: "True", reason: "DeletionByPodGC" }];
    expect(endsOf({ ...over, status: { ...failed, conditions } })).toEqual({ app: 8000, agent: 9000 });
    // Evicted, and then ended by the kubelet itself.
    const evicted = [{ type: "DisruptionTarget", status: "True", reason: "TerminationByKubelet" }];
    expect(endsOf({ ...over, status: { ...failed, conditions: evicted } })).toEqual(all);
  });
});
