import { readFile } from "node:fs/promises";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { expect, test } from "vitest";
import { gatewaySettings } from "./settings.ts";

const least = { LEVER_OPERATOR: "lever-operator.lever-system:3837" };

test("the least that has to be set, and what the rest is by default", () => {
  expect(gatewaySettings(least)).toEqual({
    drainTimeoutMs: 25_000,
    gateway: {
      operator: least.LEVER_OPERATOR,
      host: "0.0.0.0",
      httpPort: 8080,
      port: 3837,
      adminPort: 3838,
      portNames: { http: "LEVER_HTTP_PORT", native: "LEVER_PORT", admin: "LEVER_ADMIN_PORT" },
      environmentOfHost: {},
      allowForceEnv: false,
      corsOrigins: [],
      bodyBytesMax: 524_288,
    },
  });
});

test("all of it", () => {
  const { gateway, drainTimeoutMs } = gatewaySettings({
    LEVER_OPERATOR: "[::1]:4000",
    LEVER_HOST: "::",
    LEVER_HTTP_PORT: "80",
    LEVER_PORT: "0",
    LEVER_ADMIN_PORT: "65535",
    LEVER_DEFAULT_ENVIRONMENT: "shop",
    LEVER_ENVIRONMENT_HOSTS: "shop.example.org=shop, blog.example.org=blog",
    LEVER_ALLOW_FORCE_ENV: "true",
    LEVER_CORS_ORIGINS: "https://app.example.org, http://localhost:5173",
    LEVER_BODY_BYTES_MAX: "1048576",
    LEVER_DRAIN_TIMEOUT_MS: "5000",
    LEVER_INSTANCE: "gateway-1",
    LEVER_ZONE: "z1",
  });
  expect(gateway).toMatchObject({
    operator: "[::1]:4000",
    host: "::",
    httpPort: 80,
    port: 0,
    adminPort: 65_535,
    defaultEnvironment: "shop",
    environmentOfHost: { "shop.example.org": "shop", "blog.example.org": "blog" },
    allowForceEnv: true,
    corsOrigins: ["https://app.example.org", "http://localhost:5173"],
    bodyBytesMax: 1_048_576,
    instance: "gateway-1",
    zone: "z1",
  });
  expect(drainTimeoutMs).toBe(5000);
});

test("what is empty is not set", () => {
  const empty = Object.fromEntries(
    ["LEVER_HOST", "LEVER_HTTP_PORT", "LEVER_CORS_ORIGINS", "LEVER_ALLOW_FORCE_ENV", "LEVER_ZONE"].map((name) => [
      name,
      "",
    ]),
  );
  expect(gatewaySettings({ ...least, ...empty })).toEqual(gatewaySettings(least));
});

test.each([
  ["LEVER_OPERATOR", ""],
  ["LEVER_OPERATOR", "operator"],
  ["LEVER_OPERATOR", "http://operator:1"],
  ["LEVER_HTTP_PORT", "65536"],
  ["LEVER_PORT", "-1"],
  ["LEVER_ADMIN_PORT", "http"],
  ["LEVER_DEFAULT_ENVIRONMENT", "Shop"],
  ["LEVER_ENVIRONMENT_HOSTS", "shop.example.org"],
  ["LEVER_ENVIRONMENT_HOSTS", "shop.example.org:80=shop"],
  ["LEVER_ENVIRONMENT_HOSTS", "a.example=a,a.example=b"],
  ["LEVER_ALLOW_FORCE_ENV", "yes"],
  ["LEVER_CORS_ORIGINS", "app.example.org"],
  ["LEVER_CORS_ORIGINS", "https://app.example.org/"],
  ["LEVER_BODY_BYTES_MAX", "0"],
  ["LEVER_BODY_BYTES_MAX", "1Mi"],
  ["LEVER_DRAIN_TIMEOUT_MS", "1e3"],
])("%s=%s is refused, and named", (name, value) => {
  try {
    gatewaySettings({ ...least, [name]: value });
    expect.unreachable();
  } catch (error) {
    expect(LeverError.is(error) && error.reason).toBe("INVALID_OPTION");
    expect((error as LeverError).rawMessage).toMatch(new RegExp(`^${name} is `));
    expect((error as LeverError).rawMessage).toContain("expected");
  }
});

test("docs/http.md has every variable, and no other", async () => {
  const source = await readFile(new URL("settings.ts", import.meta.url), "utf8");
  const page = await readFile(new URL("../docs/http.md", import.meta.url), "utf8");
  const read = new Set([...source.matchAll(/"(LEVER_[A-Z_]+)"/g)].map((match) => match[1]));
  const rows = [...page.matchAll(/^\| (`LEVER_[^|]+) \|/gm)].map((match) => match[1] as string);
  const written = new Set(rows.flatMap((row) => [...row.matchAll(/`(LEVER_[A-Z_]+)`/g)].map((match) => match[1])));
  expect([...written].sort()).toEqual([...read].sort());
});
