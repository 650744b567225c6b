import { VirtualClock } from "@leveros/protocol/clock/virtual-clock.ts";
import { expect, test } from "vitest";
import { ApiServer } from "./api-server.fixture.ts";
import { EventRecorder, type EventToRecord } from "./event-recorder.ts";
import { KubeClient } from "./kube-client.ts";
import { events, type KubeObject, leverServices } from "./kube-object.ts";
import { runFor } from "./run-clock.fixture.ts";

interface FoundEvent extends KubeObject {
  readonly reason: string;
  readonly note: string;
  readonly series?: { readonly count: number; readonly lastObservedTime: string };
}

function world() {
  const clock = new VirtualClock();
  const server = new ApiServer(clock);
  const errors: unknown[] = [];
  const recorder = new EventRecorder({
    client: new KubeClient({ transport: server.transport(), clock }),
    clock,
    random: () => 0.5,
    wallMs: () => 1_764_000_000_000 + clock.now(),
    instance: "operator-0",
    onError: (error) => errors.push(error),
  });
  const found = () => server.objects<FoundEvent>(events);
  return { clock, server, recorder, errors, found };
}

function service(name = "chat"): KubeObject {
  return { metadata: { namespace: "shop", name, uid: `uid-of-${name}`, resourceVersion: "7" } };
}

const invalid: EventToRecord = { type: "Warning", reason: "InvalidSpec", note: "spec.slots: expected 1 to 4096" };

test("an event is what the API wants", async () => {
  const { clock, recorder, found } = world();
  recorder.record(leverServices, service(), invalid);
  await runFor(clock, 0);
  expect(found()).toHaveLength(1);
  expect(found()[0]).toMatchObject({
    apiVersion: "events.k8s.io/v1",
    kind: "Event",
    metadata: { namespace: "shop", name: expect.stringMatching(/^chat\.[0-9a-f]+\.1$/) },
    eventTime: "2025-11-24T16:00:00.000000Z",
    reportingController: "leveros.dev/operator",
    reportingInstance: "operator-0",
    type: "Warning",
    reason: "InvalidSpec",
    action: "Reconcile",
    note: "spec.slots: expected 1 to 4096",
    regarding: {
      apiVersion: "leveros.dev/v1alpha1",
      kind: "LeverService",
      namespace: "shop",
      name: "chat",
      uid: "uid-of-chat",
      resourceVersion: "7",
    },
  });
  expect(found()[0]).not.toHaveProperty("series");
  expect(recorder.counts).toEqual({ created: 1, updated: 0, dropped: 0, failed: 0 });
});

test("repeats are one object whose count grows, written now and then", async () => {
  const { clock, server, recorder, found } = world();
  for (let second = 0; second < 100; second++) {
    recorder.record(leverServices, service(), invalid);
    await runFor(clock, 1000);
  }
  await runFor(clock, 60_000);
  expect(found()).toHaveLength(1);
  expect(found()[0]?.series).toEqual({ count: 100, lastObservedTime: "2025-11-24T16:01:39.000000Z" });
  expect(server.requests.length).toBeLessThan(7);
  expect(clock.timerCount).toBe(0);
});

test("another object, reason or note is another event; after minutes of quiet so is the same one", async () => {
  const { clock, recorder, found } = world();
  recorder.record(leverServices, service(), invalid);
  recorder.record(leverServices, service("billing"), invalid);
  recorder.record(leverServices, service(), { ...invalid, note: "another" });
  recorder.record(leverServices, service(), { ...invalid, reason: "QuotaExceeded" });
  await runFor(clock, 360_001);
  expect(found()).toHaveLength(4);
  recorder.record(leverServices, service(), invalid);
  await runFor(clock, 0);
  expect(found()).toHaveLength(5);
});

test("one object that has ever new ones is held back, others are not", async () => {
  const { clock, recorder, found } = world();
  for (let i = 0; i < 50; i++) recorder.record(leverServices, service(), { ...invalid, note: `${i}` });
  recorder.record(leverServices, service("billing"), invalid);
  await runFor(clock, 0);
  expect(found()).toHaveLength(21);
  expect(recorder.counts.dropped).toBe(30);
  await runFor(clock, 60_000);
  recorder.record(leverServices, service(), { ...invalid, note: "a minute later" });
  await runFor(clock, 0);
  expect(found()).toHaveLength(22);
});

test("while the server is away so many wait, and no more; they come when it is back", async () => {
  const { clock, server, recorder, found, errors } = world();
  server.fault = () => ({ reset: "before" });
  for (let i = 0; i < 500; i++) recorder.record(leverServices, service(`s${i}`), invalid);
  await runFor(clock, 2000);
  expect(recorder.counts.dropped).toBe(500 - 201);
  server.fault = () => undefined;
  await runFor(clock, 10_000);
  expect(found()).toHaveLength(201);
  expect(errors).toEqual([]);
});

test("gives up what is refused at once, and what fails again and again; both are counted", async () => {
  const { clock, server, recorder, errors } = world();
  server.fault = () => ({ status: 403, reason: "Forbidden" });
  recorder.record(leverServices, service(), invalid);
  await runFor(clock, 0);
  expect(recorder.counts.failed).toBe(1);
  server.fault = () => ({ status: 500 });
  recorder.record(leverServices, service("billing"), invalid);
  await runFor(clock, 60_000);
  expect(recorder.counts).toEqual({ created: 0, updated: 0, dropped: 0, failed: 2 });
  expect(server.requests).toHaveLength(1 + 5);
  expect(errors).toHaveLength(2);
});

test("a create that had no answer and was done is not doubled", async () => {
  const { clock, server, recorder, found } = world();
  const left = [{ reset: "after" as const }];
  server.fault = () => left.shift();
  recorder.record(leverServices, service(), invalid);
  await runFor(clock, 10_000);
  expect(found()).toHaveLength(1);
  expect(recorder.counts).toEqual({ created: 1, updated: 0, dropped: 0, failed: 0 });
});

test("an event that the server has forgotten is made anew, with its count", async () => {
  const { clock, server, recorder, found } = world();
  recorder.record(leverServices, service(), invalid);
  await runFor(clock, 1000);
  server.remove(events, "shop", found()[0]?.metadata.name ?? "");
  recorder.record(leverServices, service(), invalid);
  await runFor(clock, 60_000);
  expect(found()[0]?.series?.count).toBe(2);
});

test("what is too long is cut off", async () => {
  const { clock, recorder, found } = world();
  recorder.record(leverServices, service("x".repeat(253)), { ...invalid, note: "ß€".repeat(500) });
  await runFor(clock, 0);
  const note = found()[0]?.note ?? "";
  expect(Buffer.byteLength(note)).toBeGreaterThan(1020);
  expect(Buffer.byteLength(note)).toBeLessThanOrEqual(1024);
  expect(note).toMatch(/^(ß€)+ß?…$/);
  expect(found()[0]?.metadata.name.length).toBeLessThan(254);
});

test("an object without a namespace has its events in the default one", async () => {
  const { clock, recorder, found } = world();
  recorder.record({ ...leverServices, isNamespaced: false }, { metadata: { name: "node-1" } }, invalid);
  await runFor(clock, 0);
  expect(found()[0]?.metadata.namespace).toBe("default");
});

test("closed, nothing is left", async () => {
  const { clock, server, recorder } = world();
  server.fault = () => ({ silent: "before" });
  recorder.record(leverServices, service(), invalid);
  recorder.record(leverServices, service("billing"), invalid);
  await runFor(clock, 100);
  const closed = recorder.close();
  await runFor(clock, 0);
  await closed;
  recorder.record(leverServices, service("third"), invalid);
  await runFor(clock, 60_000);
  expect(server.requests).toHaveLength(1);
  expect(clock.timerCount).toBe(0);
});
