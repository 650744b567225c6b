import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { LeverError } from "../error/lever-error.ts";
import { type FuzzRandom, fuzz } from "../vectors/fuzz.fixture.ts";
import {
  isCallableName,
  isStreamingName,
  type LeverUrl,
  methodCharsMax,
  parseUrl,
  printUrl,
  resourceBytesMax,
  urlCharsMax,
} from "./lever-url.ts";

interface Vectors {
  /** A LeverUrl with null for what is absent, its text and its canonical text. */
  readonly valid: readonly Readonly<Record<"text" | "canonical" | keyof LeverUrl, unknown>>[];
  readonly invalid: readonly { readonly text: string; readonly part: string; readonly why: string }[];
}

const vectors = JSON.parse(readFileSync(new URL("../vectors/urls.json", import.meta.url), "utf8")) as Vectors;
const valid = vectors.valid.map(({ text, canonical, environment, port, service, resource, method }) => ({
  text: text as string,
  canonical: canonical as string,
  url: {
    environment: environment ?? undefined,
    port: port ?? undefined,
    service,
    resource: resource ?? undefined,
    method,
  } as LeverUrl,
}));
const parts = ["url", "scheme", "environment", "port", "service", "resource", "method", "query", "fragment"];
const anyPort = { allowPort: true };

/** The LeverUrl, or the INVALID_URL; anything else fails the test. */
function outcomeOf<Result>(action: () => Result): Result | LeverError {
  try {
    return action();
  } catch (error) {
    if (LeverError.is(error) && error.reason === "INVALID_URL" && parts.includes(String(error.details?.["part"]))) {
      return error;
    }
    throw error;
  }
}

function partAtFault(action: () => unknown): unknown {
  const outcome = outcomeOf(action);
  if (!LeverError.is(outcome)) throw new Error(`nothing was thrown: ${JSON.stringify(outcome)}`);
  expect(outcome.effect).toBe("none");
  expect(outcome.rawMessage).toContain("expected");
  return outcome.details?.["part"];
}

describe("golden vectors", () => {
  test.each(valid)("$text", ({ text, canonical, url }) => {
    expect(parseUrl(text, anyPort)).toStrictEqual(url);
    expect(printUrl(url)).toBe(canonical);
    expect(parseUrl(canonical, anyPort)).toStrictEqual(url);
    if (url.port === undefined) expect(parseUrl(text)).toStrictEqual(url);
    else expect(partAtFault(() => parseUrl(text))).toBe("port");
  });

  test.each(vectors.invalid)("refused: $why", ({ text, part }) => {
    expect(partAtFault(() => parseUrl(text, anyPort))).toBe(part);
    expect(partAtFault(() => parseUrl(text))).toBe(part);
  });

  test("are enough", () => {
    expect(valid.length + vectors.invalid.length).toBeGreaterThanOrEqual(40);
  });
});

const label = fc.stringMatching(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/);
const url: fc.Arbitrary<LeverUrl> = fc
  .record(
    {
      environment: fc.option(label, { nil: undefined }),
      port: fc.option(fc.integer({ min: 1, max: 65_535 }), { nil: undefined }),
      service: label,
      resource: fc.option(
        fc
          .oneof(
            fc.string({ unit: "binary", minLength: 1, maxLength: 300 }),
            fc.string({
              unit: fc.constantFrom("/", ".", "%", "a", "é", "😀", "?", "#", "+", " "),
              minLength: 1,
              maxLength: 20,
            }),
            fc.constantFrom("😀".repeat(256), "r".repeat(1024)),
          )
          .map((text) => text.toWellFormed())
          .filter((text) => Buffer.byteLength(text) <= resourceBytesMax),
        { nil: undefined },
      ),
      method: fc.stringMatching(/^[A-Za-z_$][A-Za-z0-9_$]{0,127}$/),
    },
    { noNullPrototype: true },
  )
  .map((parts) => (parts.environment === undefined ? { ...parts, port: undefined } : parts));

describe("parsing and printing", () => {
  test("are inverse to each other", () => {
    fc.assert(
      fc.property(url, (parts) => {
        const text = printUrl(parts);
        expect(text).toMatch(/^[A-Za-z0-9\-._~/%:$]+$/);
        expect(text.length).toBeLessThanOrEqual(urlCharsMax);
        expect(parseUrl(text, anyPort)).toStrictEqual(parts);
      }),
      { numRuns: 1000 },
    );
  });

  test("any text is a LeverUrl or an INVALID_URL", () => {
    const text = fc.oneof(
      fc.string({ unit: "binary" }),
      fc.string({
        unit: fc.constantFrom("/", ":", "lever://", "dev", "%", "%2F", "a", "\ud800", "é", "?", "#", "1", "_", "-"),
      }),
    );
    fc.assert(fc.property(text, checkText), { numRuns: 1000 });
  });

  test("what is no text at all is an INVALID_URL", () => {
    for (const value of [undefined, null, 5, {}, [], new URL("http://a/b")]) {
      expect(partAtFault(() => parseUrl(value as never))).toBe("url");
    }
  });

  test("a long text is refused without being looked through", () => {
    expect(partAtFault(() => parseUrl("/a/".padEnd(50_000_000, "?")))).toBe("url");
  });
});

/** Whatever the text is. A URL that came out of it prints canonically, and that is a fixed point. */
function checkText(text: string): void {
  const outcome = outcomeOf(() => parseUrl(text, anyPort));
  if (LeverError.is(outcome)) {
    if (outcome.message.length > 1000) throw new Error(`a message of ${outcome.message.length} characters`);
    return;
  }
  const canonical = printUrl(outcome);
  const again = parseUrl(canonical, anyPort);
  expect(again).toStrictEqual(outcome);
  if (printUrl(again) !== canonical) throw new Error(`not a fixed point: ${canonical}`);
  if (outcome.method.length > methodCharsMax || Buffer.byteLength(outcome.resource ?? "x") > resourceBytesMax) {
    throw new Error(`a part is too long: ${canonical}`);
  }
}

describe("printing", () => {
  const good: LeverUrl = { environment: "dev", port: undefined, service: "chat", resource: undefined, method: "say" };
  test.each([
    ["environment", { environment: "Dev" }],
    ["environment", { environment: "" }],
    ["environment", { environment: "dev:1" }],
    ["environment", { environment: null }],
    ["port", { port: 0 }],
    ["port", { port: 65_536 }],
    ["port", { port: 1.5 }],
    ["port", { port: Number.NaN }],
    ["port", { port: "80" }],
    ["port", { environment: undefined, port: 80 }],
    ["service", { service: "" }],
    ["service", { service: "a/b" }],
    ["service", { service: undefined }],
    ["resource", { resource: "" }],
    ["resource", { resource: "\ud800" }],
    ["resource", { resource: "a\udc00" }],
    ["resource", { resource: "r".repeat(1025) }],
    ["resource", { resource: "é".repeat(513) }],
    ["resource", { resource: 7 }],
    ["method", { method: "" }],
    ["method", { method: "a/b" }],
    ["method", { method: "a-b" }],
    ["method", { method: "m".repeat(129) }],
    ["method", { method: "say\n" }],
    ["method", { method: undefined }],
  ])("refuses a wrong %s: %j", (part, change) => {
    expect(partAtFault(() => printUrl({ ...good, ...change } as LeverUrl))).toBe(part);
  });
});

describe("names", () => {
  test.each(["chan", "joinChan", "Chan", "join_chan", "_chan", "aChan"])("%s is streaming", (name) => {
    expect(isStreamingName(name)).toBe(true);
  });

  test.each(["channel", "joinchan", "chans", "CHAN", "JoinCHAN", "Chan1", "chan_", "", "xchan"])(
    "%s is not",
    (name) => {
      expect(isStreamingName(name)).toBe(false);
    },
  );

  test.each(["say", "$", "sayHello", "a_", "toString", "Then", "Constructor", "m".repeat(128)])(
    "%s is callable",
    (name) => {
      expect(isCallableName(name)).toBe(true);
    },
  );

  test.each([
    "_say",
    "_",
    "__proto__",
    "constructor",
    "then",
    "toJSON",
    "with",
    "",
    "1a",
    "a-b",
    "a b",
    "é",
    "m".repeat(129),
  ])("%s is not callable", (name) => {
    expect(isCallableName(name)).toBe(false);
  });
});

/** A valid URL with one or two changes, or text of chance. */
function anyText(random: FuzzRandom): string {
  const pieces = [
    "/",
    "//",
    ":",
    "%",
    "%2f",
    "%C3",
    "%ED%A0%80",
    "?",
    "#",
    "\ud83d",
    "😀",
    "é",
    " ",
    "\u0000",
    "-",
    "_",
    "A",
    "1",
    "lever://",
  ];
  if (random.oneIn(2)) {
    return Array.from({ length: random.below(30) }, () =>
      random.oneIn(3) ? random.pick(pieces) : String.fromCharCode(random.below(random.oneIn(2) ? 128 : 0x10000)),
    ).join("");
  }
  let { text } = random.pick(valid);
  for (let change = 0; change <= random.below(2); change++) {
    const at = random.below(text.length + 1);
    text = text.slice(0, at) + (random.oneIn(2) ? random.pick(pieces) : "") + text.slice(at + random.below(3));
  }
  return text;
}

test("fuzz: the URL parser", () => {
  fuzz((random) => checkText(anyText(random)));
});
