import { VirtualClock } from "@leveros/protocol/clock/virtual-clock.ts";
import fc from "fast-check";
import { expect, test } from "vitest";
import { ApiServer, type Fault } from "./api-server.fixture.ts";
import { KubeClient } from "./kube-client.ts";
import { type KubeObject, pods } from "./kube-object.ts";
import { Reflector } from "./reflector.ts";
import { runFor } from "./run-clock.fixture.ts";

const names = ["a", "b", "c", "d", "e", "f"];

type Step =
  | { readonly do: "put" | "remove"; readonly name: string }
  | { readonly do: "pass" | "compact" | "bookmark" | "cut" | "close" | "expire" }
  | { readonly do: "wait"; readonly ms: number };

const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 6, arbitrary: fc.record({ do: fc.constant("put" as const), name: fc.constantFrom(...names) }) },
  { weight: 3, arbitrary: fc.record({ do: fc.constant("remove" as const), name: fc.constantFrom(...names) }) },
  {
    weight: 3,
    arbitrary: fc.record({
      do: fc.constantFrom(...(["pass", "compact", "bookmark", "cut", "close", "expire"] as const)),
    }),
  },
  { weight: 4, arbitrary: fc.record({ do: fc.constant("wait" as const), ms: fc.constantFrom(0, 10, 700, 9000) }) },
);

const fault: fc.Arbitrary<Fault | undefined> = fc.oneof(
  { weight: 6, arbitrary: fc.constant(undefined) },
  {
    weight: 6,
    arbitrary: fc.constantFrom<Fault>(
      { status: 500, reason: "InternalError" },
      { status: 429, reason: "TooManyRequests", retryAfter: 1 },
      { status: 410, reason: "Expired" },
      { status: 200, body: "<html>" },
      { status: 503 },
      { reset: "before" },
      { reset: "after" },
      { silent: "before" },
      { delayMs: 300, answerDelayMs: 300 },
      { delayMs: 5_000 },
    ),
  },
  {
    weight: 6,
    arbitrary: fc.record({
      afterLines: fc.nat(3),
      watchFault: fc.constantFrom(
        "close" as const,
        "reset" as const,
        "silence" as const,
        { line: "no JSON" },
        { line: '{"type":"RENAMED","object":{}}' },
        { partOfLine: '{"type":"DELETED","obj' },
      ),
    }),
  },
);

/** Versions that one name had, as handlers heard of them; a copy that went back would show here. */
class Witness {
  readonly copy = new Map<string, KubeObject>();
  lastVersion = 0;

  onUpsert = (object: KubeObject, old: KubeObject | undefined): void => {
    expect(old?.metadata.resourceVersion).toBe(this.copy.get(object.metadata.name)?.metadata.resourceVersion);
    const version = Number(object.metadata.resourceVersion);
    if (old !== undefined) expect(version).toBeGreaterThan(Number(old.metadata.resourceVersion));
    this.copy.set(object.metadata.name, object);
  };

  onDelete = (old: KubeObject): void => {
    expect(this.copy.get(old.metadata.name)?.metadata.resourceVersion).toBe(old.metadata.resourceVersion);
    this.copy.delete(old.metadata.name);
  };
}

test("whatever goes wrong, in the end the copy is what the server has, and so is what handlers were told", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(step, { maxLength: 40 }),
      fc.array(fault, { maxLength: 30 }),
      fc.integer({ min: 1, max: 4 }),
      async (steps, faults, pageItems) => {
        const clock = new VirtualClock();
        const server = new ApiServer(clock);
        const errors: unknown[] = [];
        const reflector = new Reflector<KubeObject>({
          client: new KubeClient({ transport: server.transport(), clock }),
          kind: pods,
          clock,
          random: () => 0.5,
          pageItems,
          onError: (error) => errors.push(error),
        });
        const witness = new Witness();
        reflector.subscribe(witness);
        const left = [...faults];
        server.fault = ({ path }) => {
          const next = left.shift();
          // What only a watch can suffer is nothing to a list.
          return next !== undefined && "watchFault" in next && !path.includes("watch=true") ? undefined : next;
        };
        let puts = 0;
        reflector.start();
        for (const one of steps) {
          if (one.do === "put") {
            server.put(pods, { metadata: { namespace: "shop", name: one.name, labels: { n: `${++puts}` } } });
          } else if (one.do === "remove") server.remove(pods, "shop", one.name);
          else if (one.do === "wait") await runFor(clock, one.ms);
          else if (one.do === "pass") server.pass();
          else if (one.do === "compact") server.compact();
          else if (one.do === "bookmark") server.sendBookmarks();
          else if (one.do === "expire") server.expireWatches();
          else server.endWatches(one.do === "cut" ? "reset" : "close");
        }
        server.fault = () => undefined;
        await runFor(clock, 200_000);
        const wanted = server.objects(pods).sort(byName);
        expect([...reflector.values()].sort(byName)).toEqual(wanted);
        expect([...witness.copy.values()].sort(byName)).toEqual(wanted);
        expect(reflector.counts.handlerErrors).toBe(0);
        await reflector.close();
        await runFor(clock, 0);
        expect(server.watcherCount).toBe(0);
      },
    ),
    { numRuns: 150 },
  );
});

function byName(a: KubeObject, b: KubeObject): number {
  return a.metadata.name < b.metadata.name ? -1 : 1;
}
