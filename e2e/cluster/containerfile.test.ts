import { globSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, describe, expect, test } from "vitest";
import { readContainerfile } from "./containerfile.ts";

const root = path.resolve(import.meta.dirname, "../..");
const directory = mkdtempSync(path.join(tmpdir(), "lever-containerfile-"));
afterAll(() => {
  rmSync(directory, { recursive: true });
});

function read(text: string, args = {}) {
  const file = path.join(directory, "Containerfile");
  writeFileSync(file, text);
  return readContainerfile(file, args);
}

test("the last stage is the image", async () => {
  const text = `FROM a AS build
RUN anything
FROM b
ARG EXAMPLE
COPY --from=build /src/dist/$EXAMPLE /app
# A comment.
WORKDIR /app
ENV A=1
USER 1:2
ENTRYPOINT ["a", "b"]
CMD ["c"]
`;
  expect(await read(text, { EXAMPLE: "chat" })).toEqual({
    copies: [{ from: "dist/chat", to: "/app" }],
    config: { WorkingDir: "/app", Env: ["A=1"], User: "1:2", Entrypoint: ["a", "b"], Cmd: ["c"] },
  });
});

test("what is not understood is refused", async () => {
  await expect(read("FROM a\nCOPY --from=build /src/$OTHER /app\n")).rejects.toThrow("OTHER has no value");
  for (const line of ["RUN x", "COPY . /app", "VOLUME /x", "COPY --chown=1 --from=build /src/a /app"]) {
    await expect(read(`FROM a\n${line}\n`)).rejects.toThrow(line);
  }
});

describe.each(globSync("{operator,agent,gateway,examples}/Containerfile", { cwd: root }))("%s", (file) => {
  test("runs its bundle as a user that is not root, and needs no shell", async () => {
    const { copies, config } = await readContainerfile(path.join(root, file), { EXAMPLE: "hello" });
    const folder = file.startsWith("examples/") ? "examples/hello" : path.dirname(file);
    expect(copies).toEqual([{ from: `dist/${folder}`, to: "/app" }]);
    expect(config.User).toBe("65532:65532");
    const command = config.Entrypoint ?? config.Cmd;
    expect(command?.[0]).toBe("node");
    expect(command?.at(-1)).toBe("/app/main.js");
  });

  test("bundles what it copies, with the Node that the project wants", () => {
    const text = readFileSync(path.join(root, file), "utf8");
    expect(text).toMatch(/RUN npm ci && npm run bundle -- \S+\/main\.ts\n/);
    expect(text.match(/^FROM \S+/gm)).toEqual(["FROM node:24-bookworm-slim", "FROM node:24-bookworm-slim"]);
  });
});
