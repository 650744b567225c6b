import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { describe, expect, test } from "vitest";
import { requestPlace, requestTarget, type TargetRules } from "./request-target.ts";

const local: TargetRules = { defaultEnvironment: "dev", allowForceEnv: true };
const outside: TargetRules = { allowForceEnv: false, environmentOfHost: { "shop.example.org": "shop" } };

function targetOf(rawUrl: string, host: string | undefined = "127.0.0.1:8080", rules = local) {
  const { target, resource } = requestTarget(requestPlace(rawUrl, host), rules);
  return resource === undefined ? target.text : `${target.text} of ${resource}`;
}

function errorOf(rawUrl: string, host?: string, rules?: TargetRules): LeverError {
  try {
    targetOf(rawUrl, host, rules);
  } catch (error) {
    if (LeverError.is(error)) return error;
    throw error;
  }
  throw new Error(`${rawUrl} was taken`);
}

describe("the path", () => {
  test.each([
    ["/hello/sayHello", "dev/hello/sayHello"],
    ["/chat/room-7/history", "dev/chat/history of room-7"],
    ["/chat/a/b//joinChan", "dev/chat/joinChan of a/b/"],
    ["/chat/a%2Fb/joinChan", "dev/chat/joinChan of a/b"],
    ["/chat/%2e%2e/joinChan", "dev/chat/joinChan of .."],
    ["/chat/../joinChan", "dev/chat/joinChan of .."],
    ["/chat/z%C3%BCrich/say", "dev/chat/say of zürich"],
    // As curl sends what is typed: UTF-8, which Node hands out as Latin-1.
    [
      `/chat/${Buffer.from("zürich 日", "utf8").toString("latin1").replace(" ", "%20")}/say`,
      "dev/chat/say of zürich 日",
    ],
    ["/chat/100%25/say", "dev/chat/say of 100%"],
    ["http://elsewhere/hello/sayHello", "dev/hello/sayHello"],
  ])("%s is %s", (rawUrl, expected) => {
    expect(targetOf(rawUrl)).toBe(expected);
  });

  test.each([
    ["/hello", "HTTP_PATH_INVALID", undefined],
    ["/", "HTTP_PATH_INVALID", undefined],
    ["*", "HTTP_PATH_INVALID", undefined],
    ["http://elsewhere", "HTTP_PATH_INVALID", undefined],
    ["//hello/sayHello", "INVALID_URL", "service"],
    ["/Hello/sayHello", "INVALID_URL", "service"],
    ["/hello/", "INVALID_URL", "method"],
    ["/hello/say-hello", "INVALID_URL", "method"],
    ["/hello/%73ayHello", "INVALID_URL", "method"],
    ["/hello//sayHello", "INVALID_URL", "resource"],
    ["/chat/%/say", "INVALID_URL", "resource"],
    ["/chat/%C3/say", "INVALID_URL", "resource"],
    ["/chat/\xff/say", "INVALID_URL", "resource"],
    ['/chat/"/say', "INVALID_URL", "resource"],
    ["/hello/sayHello#now", "INVALID_URL", "fragment"],
    [`/chat/${"x".repeat(1025)}/say`, "INVALID_URL", "resource"],
    [`/chat/${"x".repeat(5000)}/say`, "INVALID_URL", "url"],
  ])("%s is refused: %s, %s", (rawUrl, reason, part) => {
    expect(errorOf(rawUrl)).toMatchObject({ reason, effect: "none", ...(part && { details: { part } }) });
  });
});

describe("the environment", () => {
  test("is that of the host, then forceenv, then the default", () => {
    const all: TargetRules = { ...local, environmentOfHost: { "shop.example.org": "shop" } };
    expect(targetOf("/a/b", "shop.example.org", all)).toBe("shop/a/b");
    expect(targetOf("/a/b?forceenv=test", "shop.example.org", all)).toBe("shop/a/b");
    expect(targetOf("/a/b?forceenv=test", "127.0.0.1", all)).toBe("test/a/b");
    expect(targetOf("/a/b", "127.0.0.1", all)).toBe("dev/a/b");
    expect(targetOf("/a/b?", "127.0.0.1", all)).toBe("dev/a/b");
  });

  test.each(["shop.example.org", "SHOP.example.ORG:8443", "shop.example.org.", "shop.example.org:"])(
    "the host is compared without case, port and the root's dot: %s",
    (host) => {
      expect(targetOf("/a/b", host, outside)).toBe("shop/a/b");
    },
  );

  test("the host of an absolute request target is stronger than the header", () => {
    expect(targetOf("http://shop.example.org/a/b", "elsewhere", outside)).toBe("shop/a/b");
    expect(errorOf("http://elsewhere/a/b", "shop.example.org", outside).reason).toBe("HTTP_PATH_INVALID");
  });

  test("a name that objects inherit is no host", () => {
    expect(errorOf("/a/b", "constructor", outside).reason).toBe("HTTP_PATH_INVALID");
    expect(errorOf("/a/b", "__proto__", outside).reason).toBe("HTTP_PATH_INVALID");
  });

  test("without any, the error names the host", () => {
    expect(errorOf("/a/b", "unknown.example.org", outside).rawMessage).toContain('"unknown.example.org"');
  });

  test.each([
    ["?forceenv=Dev", "forceenv"],
    ["?forceenv=", "forceenv"],
    ["?forceenv=lever-system", "Lever's own environment"],
    ["?forceenv=a&forceenv=b", "twice"],
    ["?forcenv=test", "forcenv"],
    ["?x=1&forceenv=test", '"x"'],
  ])("%s is refused, naming %s", (query, named) => {
    const error = errorOf(`/a/b${query}`);
    expect(error.reason).toBe("INVALID_OPTION");
    expect(error.rawMessage).toContain(named);
  });

  test("where forceenv is not allowed it is refused, not overlooked", () => {
    const rules: TargetRules = { defaultEnvironment: "live", allowForceEnv: false };
    expect(errorOf("/a/b?forceenv=test", "x", rules)).toMatchObject({ reason: "INVALID_OPTION" });
    expect(targetOf("/a/b", "x", rules)).toBe("live/a/b");
  });
});
