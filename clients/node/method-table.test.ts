import { describe, expect, it } from "vitest";
import { methodTable, registeredMethods } from "./method-table.ts";

function names(methods: object): string[] {
  return [...methodTable(methods).keys()].sort();
}

class Base {
  inherited() {
    return "base";
  }
  overridden() {
    return "base";
  }
}

class Service extends Base {
  count = 41;
  arrow = () => this.count;
  hidden: unknown = 5;
  override overridden() {
    return "service";
  }
  next() {
    this.count++;
    return this.count;
  }
  get computed(): () => number {
    throw new Error("a getter must not run");
  }
  _private() {}
  toJSON() {}
  // biome-ignore lint/suspicious/noThenProperty: that such a name is not served is the point.
  then() {}
  with() {}
  [Symbol.for("x")]() {}
  listChan() {}
  list_chan() {}
  chan() {}
  static create() {}
}
// What an instance has of its own hides what its class has.
Object.defineProperty(Base.prototype, "hidden", { value: () => "hidden" });

describe("methodTable", () => {
  it("has the functions of an object, of its class and of the classes above, below Object.prototype", () => {
    expect(names(new Service())).toEqual(["arrow", "chan", "inherited", "listChan", "list_chan", "next", "overridden"]);
  });

  it("calls them on their object, the nearest first", () => {
    const table = methodTable(new Service());
    expect(table.get("next")?.call([])).toBe(42);
    expect(table.get("next")?.call([])).toBe(43);
    expect(table.get("arrow")?.call([])).toBe(43);
    expect(table.get("overridden")?.call([])).toBe("service");
    expect(table.get("inherited")?.call([])).toBe("base");
  });

  it("takes objects without a prototype, and frozen ones", () => {
    expect(names(Object.assign(Object.create(null), { a() {}, __proto__() {} }))).toEqual(["a"]);
    expect(names(Object.freeze({ b() {}, $c() {} }))).toEqual(["$c", "b"]);
  });

  it("leaves out what is no function, what is a getter and names that no URL has", () => {
    const methods = {
      ok() {},
      text: "text",
      nested: { inner() {} },
      get dynamic() {
        throw new Error("a getter must not run");
      },
      "with-dash"() {},
      "1st"() {},
      größe() {},
      ["x".repeat(129)]() {},
      constructor() {},
    };
    expect(names(methods)).toEqual(["ok"]);
  });

  it("is case-sensitive and knows kinds by names", () => {
    const table = methodTable({ echo() {}, Echo() {}, echoChan() {}, echochan() {}, Chan() {}, echoChannel() {} });
    expect(registeredMethods(table)).toEqual([
      { name: "echo", kind: "call" },
      { name: "Echo", kind: "call" },
      { name: "echoChan", kind: "channel" },
      { name: "echochan", kind: "call" },
      { name: "Chan", kind: "channel" },
      { name: "echoChannel", kind: "call" },
    ]);
  });

  it.each([
    ["nothing to call", { _a() {}, b: 1 }, /without a function/],
    ["an empty object", {}, /without a function/],
    ["null", null, /got null/],
    ["a class", Service, /class Service; make an instance/],
    ["text", "hello", /got hello/],
    ["too many", Object.fromEntries(Array.from({ length: 1025 }, (_, i) => [`m${i}`, () => i])), /1025 methods.* 1024/],
  ])("refuses %s", (_what, methods, message) => {
    expect(() => methodTable(methods as object)).toThrow(
      expect.objectContaining({ reason: "INVALID_OPTION", message: expect.stringMatching(message) }),
    );
  });
});
