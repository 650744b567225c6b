import { expect, test } from "vitest";
import { hello, serviceObject, serviceUid } from "./objects.fixture.ts";
import { observeService } from "./observed-service.ts";

test("is read as manifests are, without what the server sets", () => {
  const object = serviceObject(`${hello}replicas: 3\nlimits: { argsBytes: 2Mi }`, {
    generation: 4,
    resourceVersion: "17",
    labels: { tier: "web" },
    annotations: { "leveros.dev/dev-command": "node main.ts" },
    creationTimestamp: "2026-03-01T12:00:00Z",
  });
  const observed = observeService({ ...object, status: { replicas: 2 } });
  expect(observed).toMatchObject({
    name: "hello",
    namespace: "shop",
    uid: serviceUid,
    generation: 4,
    isDeleting: false,
    status: { replicas: 2 },
    problems: [],
    service: {
      metadata: { name: "hello", namespace: "shop", labels: { tier: "web" } },
      spec: { replicas: 3, limits: { argsBytes: 2 * 1024 ** 2, resultBytes: 1024 ** 2 }, methods: [] },
    },
  });
  expect(observeService(serviceObject(hello)).status).toEqual({});
  expect(observeService(serviceObject(hello, { deletionTimestamp: "2026-03-01T12:00:00Z" })).isDeleting).toBe(true);
});

test("fields that a later version knows are passed over; of the pod template all are kept", () => {
  const { service, problems } = observeService(
    serviceObject(`
scaling: { min: 0 }
agent: { mode: Sidecar, resources: { requests: { cpu: 20m, disk: 1Gi } } }
methods: [{ name: say, hedgeAfterMilliseconds: 50 }]
template: { spec: { later: { a: 1 }, containers: [{ name: app, later: true }] } }`),
  );
  expect(problems).toEqual([]);
  expect(service?.spec).not.toHaveProperty("scaling");
  expect(service?.spec.agent).toEqual({ resources: { requests: { cpu: "20m" } } });
  expect(service?.spec.methods).toEqual([{ name: "say" }]);
  expect(service?.spec.template.spec).toEqual({ later: { a: 1 }, containers: [{ name: "app", later: true }] });
});

test("a null is nothing, wherever it stands", () => {
  const { service } = observeService(
    serviceObject(`
ownership: null
template:
  metadata: { creationTimestamp: null }
  spec: { nodeSelector: null, volumes: [{ name: data, emptyDir: null }], containers: [{ name: app, env: null }] }`),
  );
  expect(service?.spec).not.toHaveProperty("ownership");
  expect(service?.spec.template).toEqual({
    metadata: {},
    spec: { volumes: [{ name: "data" }], containers: [{ name: "app" }] },
  });
});

test.each([
  ["replicas: -1", "spec.replicas: found -1, expected an integer from 0 to 1000."],
  [
    "agent: { resources: { limits: { memory: 1Mi } } }",
    /^spec\.agent\.resources\.limits\.memory: found "1Mi", expected .* Write/,
  ],
  ["methods: [{ name: a }, { name: a }]", /^spec\.methods\[1\]\.name: found "a", expected a method's name/],
])("with %s it cannot be read, and why not is a sentence", (fields, problem) => {
  const { service, problems } = observeService(serviceObject(hello + fields));
  expect(service).toBe(undefined);
  expect(problems).toEqual([typeof problem === "string" ? problem : expect.stringMatching(problem)]);
});

test("what is no spec at all is problems, and no exception", () => {
  for (const spec of [undefined, null, 7, [], "a", { template: [] }, { template: { spec: { containers: {} } } }]) {
    const { service, problems } = observeService({ metadata: { name: "hello", namespace: "shop" }, spec });
    expect(service).toBe(undefined);
    expect(problems.length).toBeGreaterThan(0);
    for (const problem of problems) expect(problem).toMatch(/^spec.*: found .*, expected .*\.$/);
  }
});

test("of many problems a few are told", () => {
  const methods = Array.from({ length: 50 }, () => ({ name: "_" }));
  expect(observeService(serviceObject(`${hello}methods: ${JSON.stringify(methods)}`)).problems).toHaveLength(5);
});
