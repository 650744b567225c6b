import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { LeverError } from "../error/lever-error.ts";
import { isCallableName, isStreamingName } from "../target/lever-url.ts";
import { encodeValue } from "../value/encode.ts";
import { decodeRegistration, encodeRegistration, type Registration } from "./registration.ts";

const valid: Registration = {
  methods: [
    { name: "say", kind: "call" },
    { name: "upChan", kind: "channel" },
  ],
  resources: false,
  library: "leveros",
  version: "0.1.0",
};

function refusal(run: () => unknown): LeverError {
  try {
    run();
  } catch (error) {
    if (LeverError.is(error)) return error;
    throw error;
  }
  throw new Error("nothing was refused");
}

describe("a registration", () => {
  it("is read from bytes made by hand", () => {
    // fixmap 4; methods: fixarray 1 of fixmap 2; resources true; a key of a later version between.
    const text = (s: string) => [0xa0 | s.length, ...new TextEncoder().encode(s)];
    const bytes = Uint8Array.from([
      0x85,
      ...[...text("methods"), 0x91, 0x82, ...text("name"), ...text("chan"), ...text("kind"), ...text("channel")],
      ...[...text("resources"), 0xc3],
      ...[...text("colour"), ...text("blue")],
      ...[...text("library"), ...text("lever-go")],
      ...[...text("version"), ...text("2.0.0")],
    ]);
    expect(decodeRegistration(bytes)).toEqual({
      methods: [{ name: "chan", kind: "channel" }],
      resources: true,
      library: "lever-go",
      version: "2.0.0",
    });
  });

  it("comes back as it was", () => {
    const name = fc
      .stringMatching(/^[A-Za-z$][A-Za-z0-9_$]{0,20}(Chan|_chan)?$/)
      .filter((text) => isCallableName(text));
    const method = name.map((text) => ({ name: text, kind: isStreamingName(text) ? "channel" : "call" }) as const);
    const registration = fc.record({
      methods: fc.uniqueArray(method, { selector: (entry) => entry.name, maxLength: 30 }),
      resources: fc.boolean(),
      library: fc.stringMatching(/^[a-z/.-]{0,64}$/),
      version: fc.stringMatching(/^[0-9.]{0,64}$/),
    });
    fc.assert(
      fc.property(registration, (entry) => {
        expect(decodeRegistration(encodeRegistration(entry))).toEqual(entry);
      }),
    );
  });

  const method = valid.methods[0];
  const invalid: [string, unknown, string][] = [
    ["no map", [valid], "registration"],
    ["no methods", { ...valid, methods: undefined }, "registration.methods"],
    ["methods that are a map", { ...valid, methods: {} }, "registration.methods"],
    [
      "1,025 methods",
      { ...valid, methods: Array.from({ length: 1025 }, (_, n) => ({ name: `m${n}`, kind: "call" })) },
      "registration.methods",
    ],
    ["a method that is text", { ...valid, methods: ["say"] }, "registration.methods[0]"],
    ["a method without a name", { ...valid, methods: [{ kind: "call" }] }, "registration.methods[0].name"],
    ["a private name", { ...valid, methods: [method, { name: "_x", kind: "call" }] }, "registration.methods[1].name"],
    [
      "a name that promises use",
      { ...valid, methods: [{ name: "then", kind: "call" }] },
      "registration.methods[0].name",
    ],
    ["a method twice", { ...valid, methods: [method, method] }, "registration.methods[1].name"],
    [
      "a kind that the name denies",
      { ...valid, methods: [{ name: "upChan", kind: "call" }] },
      "registration.methods[0].kind",
    ],
    ["an unknown kind", { ...valid, methods: [{ name: "say", kind: "cast" }] }, "registration.methods[0].kind"],
    ["resources as text", { ...valid, resources: "no" }, "registration.resources"],
    ["no library", { ...valid, library: null }, "registration.library"],
    ["a version of 65 characters", { ...valid, version: "1".repeat(65) }, "registration.version"],
  ];
  it.each(invalid)("with %s is refused at both ends, by field", (_, value, field) => {
    expect(refusal(() => decodeRegistration(encodeValue(value, "test")))).toMatchObject({
      reason: "PROTOCOL_VIOLATION",
      effect: "none",
      details: { field },
    });
    const own = refusal(() => encodeRegistration(value as Registration));
    expect(own).toMatchObject({ reason: "INVALID_OPTION", details: { field } });
    expect(own.rawMessage).toContain(field);
  });

  it("of any bytes gives a typed error or a registration", () => {
    const bytes = encodeRegistration(valid);
    const mutated = fc.tuple(fc.nat(bytes.length - 1), fc.nat(255), fc.nat(bytes.length)).map(([at, value, length]) => {
      const copy = bytes.slice(0, length);
      if (at < length) copy[at] = value;
      return copy;
    });
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array({ maxLength: 200 }), mutated), (input) => {
        try {
          const registration = decodeRegistration(input);
          expect(decodeRegistration(encodeRegistration(registration))).toEqual(registration);
        } catch (error) {
          if (!LeverError.is(error)) throw error;
          expect(error.reason).toBe("PROTOCOL_VIOLATION");
        }
      }),
      { numRuns: 1000 },
    );
  });
});
