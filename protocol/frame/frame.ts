/**
 * The frame: nine bytes of header, then the payload. `docs/protocol.md` is the specification.
 *
 *   0        3      4       5          9
 *   | length | type | flags | stream   | payload …
 *     u24      u8     u8      u32        (big-endian; `length` counts the payload only)
 */

export const frameHeaderBytes = 9;

/** The largest payload of a frame. Fixed, not negotiated: a relay never has to cut a frame anew. */
export const framePayloadBytesMax = 32 * 1024;

/**
 * What a flow-controlled frame costs beyond its payload: to hold a frame takes more memory than its bytes, and frames
 * without a payload must not be free.
 */
export const frameOverheadBytes = 64;

/** The load of the replying instance, in front of the first fragment of a REPLY; all there is in an ACCEPT. */
export const replyLoadBytes = 2;

export const FrameType = {
  Hello: 0x01,
  Target: 0x02,
  Open: 0x03,
  Accept: 0x04,
  Refuse: 0x05,
  Reply: 0x06,
  Message: 0x07,
  End: 0x08,
  Reset: 0x09,
  Window: 0x0a,
  Ping: 0x0b,
  GoAway: 0x0c,
  Register: 0x0d,
  /** Whoever does not know it skips it, and gets the channel's end a little later. */
  Move: 0x8e,
} as const;

export type FrameType = (typeof FrameType)[keyof typeof FrameType];

/** Unknown types with this bit are skipped; other unknown types end the session. */
export const optionalFrameBit = 0x80;

export const Flag = {
  /** OPEN, REPLY, MESSAGE, END: another fragment of the same item follows. */
  More: 0x01,
  /** OPEN, REPLY, MESSAGE, END: the item is raw bytes; without it, one MessagePack value. On every fragment. */
  Bytes: 0x02,
  /** OPEN: a streaming method. */
  Channel: 0x04,
  /** REPLY, END: the item is what the method threw by intent, or the error that a channel ends with. */
  Error: 0x04,
  /** REPLY, END: the item is a fault: an error that Lever raises, in its place behind what was sent before it. */
  Fault: 0x08,
  /** MESSAGE, its first fragment: the item begins with a cursor (u8 length, then UTF-8) before the message itself. */
  Cursor: 0x10,
  /** MESSAGE, END: the first of a channel that was opened again, whose method has taken the cursor: nothing is missing. */
  Continues: 0x20,
  /** PING: the answer to one. */
  Ack: 0x01,
} as const;

const names = new Map<number, string>(Object.entries(FrameType).map(([name, type]) => [type, name.toUpperCase()]));

/** For messages: `OPEN`, or `type 0x6f`. */
export function frameTypeName(type: number): string {
  return names.get(type) ?? `type 0x${type.toString(16).padStart(2, "0")}`;
}

/** Flow-controlled frames cost their payload and a fixed overhead, at the stream and at the session. */
export function isFlowControlled(type: number): boolean {
  return type === FrameType.Open || type === FrameType.Reply || type === FrameType.Message || type === FrameType.End;
}
