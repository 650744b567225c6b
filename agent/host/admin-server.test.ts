import { get } from "node:http";
import { connect, type Socket } from "node:net";
import { Registry } from "prom-client";
import { afterEach, describe, expect, test } from "vitest";
import { type AdminOptions, type AdminServer, adminConnectionLimits, startAdminServer } from "./admin-server.ts";

const token = "0123456789abcdef0123456789abcdef";
const servers: AdminServer[] = [];
const sockets: Socket[] = [];

afterEach(() => {
  for (const server of servers.splice(0)) server.close();
  for (const socket of sockets.splice(0)) socket.destroy();
});

/** The port. */
async function listen(options: Partial<AdminOptions> = {}): Promise<number> {
  const server = await startAdminServer({
    host: "127.0.0.1",
    port: 0,
    registry: new Registry(),
    whyNotReady: () => undefined,
    ...options,
  });
  servers.push(server);
  return server.port;
}

async function start(options: Partial<AdminOptions> = {}): Promise<(path: string, method?: string) => Promise<string>> {
  const port = await listen(options);
  return async (path, method = "GET") => {
    const response = await fetch(`http://127.0.0.1:${port}${path}`, { method });
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

describe("connections that others hold", () => {
  const { max, ofKeyMax } = adminConnectionLimits;

  /** Connects from that address, and sends `text`. */
  function hold(port: number, localAddress: string, text = ""): Promise<Socket> {
    const socket = connect({ host: "127.0.0.1", port, localAddress });
    sockets.push(socket);
    socket.on("error", () => {});
    return new Promise((resolve) => {
      socket.once("connect", () => {
        if (text !== "") socket.write(text);
        resolve(socket);
      });
    });
  }

  async function holdAll(port: number, text = ""): Promise<void> {
    for (let address = 2; address < 2 + (2 * max) / ofKeyMax; address++) {
      for (let count = 0; count < ofKeyMax; count++) await hold(port, `127.0.0.${address}`, text);
    }
  }

  function probe(port: number, localAddress = "127.0.0.1"): Promise<number | undefined> {
    return new Promise((resolve, reject) => {
      const options = { host: "127.0.0.1", port, path: "/readyz", agent: false, localAddress };
      get(options, (response) => {
        response.resume();
        resolve(response.statusCode);
      }).on("error", reject);
    });
  }

  test.each([
    ["idle", ""],
    ["in the middle of a request", "GET /readyz HTTP/1.1\r\nhost: x\r\n"],
    ["answered, and still there", "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n"],
  ])("%s: a probe gets in all the same, from wherever it comes", async (_, text) => {
    const port = await listen();
    await holdAll(port, text);
    for (let count = 0; count < 3; count++) {
      expect(await probe(port)).toBe(200);
      expect(await probe(port, "127.0.0.2")).toBe(200);
    }
  });

  test("one address takes the places of no other", async () => {
    const port = await listen();
    const other = await hold(port, "127.0.0.2");
    for (let count = 0; count < 2 * max; count++) await hold(port, "127.0.0.3");
    expect(await probe(port)).toBe(200);
    const answered = new Promise<string>((resolve) => other.once("data", (chunk) => resolve(chunk.toString())));
    other.write("GET /livez HTTP/1.1\r\nhost: x\r\n\r\n");
    expect(await answered).toMatch(/^HTTP\/1\.1 200 /);
  });

  test("a drain that is under way is answered, however many connect", async () => {
    let end = () => {};
    const drain = () =>
      new Promise<void>((resolve) => {
        end = resolve;
      });
    const port = await listen({ drainHook: { token, drain } });
    const hook = await hold(port, "127.0.0.2", `GET /drain/${token} HTTP/1.1\r\nhost: x\r\n\r\n`);
    const answered = new Promise<string>((resolve) => hook.once("data", (chunk) => resolve(chunk.toString())));
    await holdAll(port);
    end();
    expect(await answered).toMatch(/^HTTP\/1\.1 200 /);
  });
});
