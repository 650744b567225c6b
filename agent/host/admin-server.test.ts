import { Registry } from "prom-client";
import { afterEach, describe, expect, test } from "vitest";
import { type AdminOptions, type AdminServer, startAdminServer } from "./admin-server.ts";

const token = "0123456789abcdef0123456789abcdef";
const servers: AdminServer[] = [];

afterEach(() => {
  for (const server of servers.splice(0)) server.close();
});

async function start(options: Partial<AdminOptions> = {}): Promise<(path: string, method?: string) => Promise<string>> {
  const server = await startAdminServer({
    host: "127.0.0.1",
    port: 0,
    registry: new Registry(),
    whyNotReady: () => undefined,
    ...options,
  });
  servers.push(server);
  return async (path, method = "GET") => {
    const response = await fetch(`http://127.0.0.1:${server.port}${path}`, { method });
    return `${response.status} ${await response.text()}`;
  };
}

describe("the drain hook", () => {
  test("begins to drain and answers when that has come to an end", async () => {
    let end = () => {};
    let drains = 0;
    const drain = () => {
      drains++;
      return new Promise<void>((resolve) => {
        end = resolve;
      });
    };
    const ask = await start({ drainHook: { token, drain } });
    let answer = "";
    const asked = ask(`/drain/${token}`).then((text) => {
      answer = text;
    });
    while (drains === 0) await new Promise((resolve) => setTimeout(resolve, 1));
    expect(await ask("/livez")).toBe("200 ok\n");
    expect(answer).toBe("");
    end();
    await asked;
    expect(answer).toBe("200 drained\n");
  });

  test("is not there for who does not know the token, nor where there is none", async () => {
    let drains = 0;
    const drain = async () => {
      drains++;
    };
    const ask = await start({ drainHook: { token, drain } });
    const nothing = await ask("/nothing");
    expect(nothing).toMatch(/^404 /);
    for (const path of [
      "/drain",
      "/drain/",
      "/drain/x",
      `/drain/${token}x`,
      `/drain/${token.slice(1)}`,
      `/x/drain/${token}`,
    ]) {
      expect(await ask(path)).toBe(nothing);
    }
    expect(await ask(`/drain/${token}`, "HEAD")).toMatch(/^405/);
    expect(await ask(`/drain/${token}`, "POST")).toMatch(/^405/);
    expect(drains).toBe(0);
    expect(await ask(`/drain/${token}?x=1`)).toBe("200 drained\n");
    expect(await (await start())(`/drain/${token}`)).toBe(nothing);
    const unset = await start({ drainHook: { token: "", drain } });
    expect(await unset("/drain/")).toBe(nothing);
  });

  test("says so if draining fails", async () => {
    const ask = await start({ drainHook: { token, drain: () => Promise.reject(new Error("made up")) } });
    expect(await ask(`/drain/${token}`)).toBe("500 made up\n");
  });
});
