import { expect, test } from "vitest";
import { linesToTry } from "./what-to-try.ts";

const doors = { host: "127.0.0.1", httpPort: 8080, port: 3837, adminPort: 4000 };
const hello = { environment: "dev", name: "hello", methods: ["sayHello", "divide"], resources: false };

test("for an example: by HTTP and by the command line", () => {
  expect(linesToTry([hello], doors)).toEqual([
    `curl -s 'http://127.0.0.1:8080/hello/sayHello?forceenv=dev' -H 'content-type: application/json' -d '["world"]'`,
    `npx lever invoke lever://dev/hello/sayHello '"world"'`,
    "npx lever invoke lever://dev/hello/divide 1 0",
  ]);
});

test("other ports and environments are named", () => {
  const lines = linesToTry([{ ...hello, environment: "shop" }], { ...doors, httpPort: 81, port: 82 });
  expect(lines[0]).toContain("http://127.0.0.1:81/hello/sayHello?forceenv=shop");
  expect(lines[1]).toBe(`npx lever invoke lever://shop/hello/sayHello '"world"' --gateway 127.0.0.1:82`);
});

test("another service of an example's name is a service like any: its first method that does not stream", () => {
  const own = { environment: "dev", name: "hello", methods: ["talkChan", "greet"], resources: false };
  expect(linesToTry([own], doors)).toEqual(["npx lever invoke lever://dev/hello/greet"]);
});

test("a service named as what every object has is no example", () => {
  const own = { environment: "dev", name: "constructor", methods: ["a"], resources: false };
  expect(linesToTry([own], doors)).toEqual(["npx lever invoke lever://dev/constructor/a"]);
});

test("three lines are enough for others, none for those that serve nothing", () => {
  const others = ["a", "b", "c", "d"].map((name) => ({ environment: "dev", name, methods: ["m"], resources: false }));
  expect(
    linesToTry([{ environment: "dev", name: "none", methods: [], resources: true }, ...others], doors),
  ).toHaveLength(3);
});

test("a service with resources: where one of them is, as its methods are not told apart", () => {
  const rooms = { environment: "dev", name: "rooms", methods: ["join", "memory"], resources: true };
  expect(linesToTry([rooms], doors)).toEqual(["npx lever explain lever://dev/rooms/any-name/"]);
  const chat = { environment: "dev", name: "chat", methods: ["history", "say", "joinChan"], resources: true };
  expect(linesToTry([chat], doors)).toEqual([
    `echo '"hi all"' | npx lever chan lever://dev/chat/room-7/joinChan '"Ada"'`,
    "npx lever invoke lever://dev/chat/room-7/history",
    "npx lever explain lever://dev/chat/room-7/",
  ]);
});
