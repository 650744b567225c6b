import { createHash } from "node:crypto";
import { TestEnvironment } from "leveros/testing";
import { expect, test } from "vitest";
import { pseudoRandom, type Receipt, type Upload, upload } from "./methods.ts";

const bytes = 3_000_001;

function sha256(parts: Iterable<Uint8Array>): string {
  const hash = createHash("sha256");
  for (const part of parts) hash.update(part);
  return hash.digest("hex");
}

test("up: what was sent is what has arrived", async () => {
  await using env = await TestEnvironment.start({ upload: { methods: upload } });
  await using channel = await env.client.service<Upload>("upload").putChan();
  for (const part of pseudoRandom(bytes, 7)) await channel.send(part);
  channel.closeWrite();
  expect(await channel.receive()).toEqual({ bytes, sha256: sha256(pseudoRandom(bytes, 7)) });
});

test("down: the same, then the receipt", async () => {
  await using env = await TestEnvironment.start({ upload: { methods: upload } });
  await using channel = await env.client.service<Upload>("upload").getChan(bytes, 7);
  const parts: Uint8Array[] = [];
  let receipt: Receipt | undefined;
  for await (const part of channel) {
    if (part instanceof Uint8Array) parts.push(part);
    else receipt = part;
  }
  expect(receipt).toEqual({ bytes, sha256: sha256(parts) });
});
