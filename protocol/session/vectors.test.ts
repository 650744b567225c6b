/** What the vectors' frames say, and what a session does with those that break a rule. */

import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { runtimeClock } from "../clock/runtime-clock.ts";
import { decodeRegistration } from "../control/registration.ts";
import { decodeFault } from "../error/fault.ts";
import { FrameType } from "../frame/frame.ts";
import { Target } from "../target/target.ts";
import { memoryTransportPair } from "../transport/memory-transport.ts";
import { decodeHello } from "./hello.ts";
import { eventually, openPayload, RawRig } from "./rig.fixture.ts";
import { decodeFields, encodeFields, type RoutingFields, routingFixedBytes } from "./routing-header.ts";

const clock = runtimeClock(globalThis);

function read<Case>(file: string): Case[] {
  return (JSON.parse(readFileSync(new URL(`../vectors/${file}`, import.meta.url), "utf8")) as { cases: Case[] }).cases;
}

function bytesOf(hex: string): Uint8Array {
  return new Uint8Array(Buffer.from(hex, "hex"));
}

function hexOf(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("hex");
}

/** What a payload says, as the vectors write it down. */
function said(kind: string, payload: Uint8Array): unknown {
  const view = Buffer.from(payload);
  const faultOf = (bytes: Uint8Array) => {
    const { reason, rawMessage: message, effect, details } = decodeFault(bytes);
    return { reason, message, effect, ...(details === undefined ? {} : { details }) };
  };
  switch (kind) {
    case "hello":
      return { versionMin: 1, versionMax: 1, ...decodeHello(payload) };
    case "target":
      return { number: view.readUInt16BE(0), text: Target.parse(view.subarray(2).toString("latin1")).text };
    case "open": {
      const end = routingFixedBytes + view.readUInt16BE(6);
      const { chain, ...rest } = decodeFields(payload.subarray(routingFixedBytes, end));
      const fields = { ...rest, ...(chain !== undefined && { chain: hexOf(chain) }) };
      return {
        target: view.readUInt16BE(0),
        timeoutMs: view.readUInt32BE(2),
        fields,
        args: hexOf(payload.subarray(end)),
      };
    }
    case "reply":
      return { load: view.readUInt16BE(0), item: hexOf(payload.subarray(2)) };
    case "accept":
      return { load: view.readUInt16BE(0) };
    case "fault":
      return faultOf(payload);
    case "window":
      return { credit: view.readUInt32BE(0) };
    case "goaway":
      return { lastStream: view.readUInt32BE(0), fault: faultOf(payload.subarray(4)) };
    case "register":
      return decodeRegistration(payload);
    default:
      throw new Error(`the vectors say ${kind}`);
  }
}

interface ValidCase {
  readonly name: string;
  readonly frames: { readonly payload: string; readonly says?: Record<string, Record<string, unknown>> }[];
}

describe("valid", () => {
  const cases = read<ValidCase>("frames-valid.json");
  test.each(cases)("$name", ({ frames }) => {
    for (const { payload, says } of frames) {
      for (const [kind, expected] of Object.entries(says ?? {})) {
        const found = said(kind, bytesOf(payload));
        if (kind !== "hello") expect(found).toEqual(expected);
        else {
          // A decoded HELLO has the version that both speak in place of the peer's range.
          const { versionMin: _min, versionMax: _max, ...rest } = expected;
          expect(found).toMatchObject({ version: 1, ...rest });
          expect(Object.keys(found as object).sort()).toEqual(
            [...new Set([...Object.keys(expected), "version"])].sort(),
          );
        }
      }
    }
  });

  test("fields are encoded as the vectors have them", () => {
    let compared = 0;
    for (const { frames } of cases) {
      for (const { payload, says } of frames) {
        const written = says?.open?.fields as (RoutingFields & { chain?: string }) | undefined;
        if (written === undefined) continue;
        const { chain, ...rest } = written;
        const fields: RoutingFields = { ...rest, ...(chain !== undefined && { chain: bytesOf(chain) }) };
        const bytes = bytesOf(payload);
        const end = routingFixedBytes + Buffer.from(bytes).readUInt16BE(6);
        const encoded = encodeFields(fields);
        expect(decodeFields(encoded)).toEqual(fields);
        // One vector has a field that we do not know, and so do not write.
        if (encoded.length === end - routingFixedBytes) compared++;
        else continue;
        expect(hexOf(encoded)).toBe(hexOf(bytes.subarray(routingFixedBytes, end)));
      }
    }
    expect(compared).toBeGreaterThan(5);
  });
});

interface InvalidCase {
  readonly name: string;
  readonly receiver: "dialer" | "acceptor";
  /** Targets of the streams that the receiver has opened before. */
  readonly opened: string[];
  readonly bytes: string;
  readonly ends: "session" | "stream" | "nothing";
  readonly reason?: string;
  readonly stream?: number;
}

describe("invalid", () => {
  test.each(read<InvalidCase>("frames-invalid.json"))("$name", async (vector) => {
    for (const chunkBytes of [undefined, 1]) {
      const raw = new RawRig(memoryTransportPair(clock, chunkBytes === undefined ? {} : { chunkBytes }), clock, {
        side: vector.receiver,
        isAgent: vector.receiver === "acceptor",
      });
      for (const target of vector.opened) {
        const method = target.split("/")[2] as string;
        const opening = method.endsWith("Chan") ? raw.end.open(method) : raw.end.call(method);
        opening.catch(() => {
          // Lost with the session; what its error says is for the compliance suite.
        });
      }
      await eventually(
        () => raw.peer.of(FrameType.Open).length === vector.opened.length,
        "the receiver's streams are open",
      );
      raw.peer.write(bytesOf(vector.bytes));
      if (vector.ends === "session") {
        expect(await raw.ended()).toMatchObject({ reason: vector.reason });
        const goAway = await raw.peer.receive(FrameType.GoAway);
        expect(decodeFault(goAway.payload.subarray(4)).reason).toBe(vector.reason);
        await eventually(() => raw.peer.isClosed, "the transport closes");
        expect(raw.end.session.streamCount).toBe(0);
        continue;
      }
      // The session is as good as before.
      const stream = vector.receiver === "acceptor" ? 999 : 1000;
      raw.peer.send(FrameType.Open, 0, stream, openPayload("echo", Uint8Array.of(0x91, 0x07)));
      await eventually(() => raw.peer.of(FrameType.Reply, stream).length === 1, "a call is answered");
      expect(raw.end.closedWith).toBe(undefined);
      const refused = raw.peer.of(FrameType.Refuse);
      expect(
        refused.map((frame) => [frame.stream, decodeFault(frame.payload).reason, decodeFault(frame.payload).effect]),
      ).toEqual(vector.ends === "stream" ? [[vector.stream, vector.reason, "none"]] : []);
      raw.destroy();
      expect(raw.end.budget.bytes + raw.end.wheel.size + raw.end.session.streamCount).toBe(0);
    }
  });
});
