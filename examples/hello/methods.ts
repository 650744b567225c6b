import { createHash } from "node:crypto";
import { MethodError } from "leveros";

export const hello = {
  /** A value in, a value out. */
  sayHello(name: string) {
    return `Hello, ${name}!`;
  },

  /** An error that its callers are meant to see: any JSON value, or bytes. */
  divide(dividend: number, divisor: number) {
    if (divisor === 0) throw new MethodError({ error: "DIVISION_BY_ZERO", dividend });
    return dividend / divisor;
  },

  /** Bytes in, a value out: one lone Uint8Array as the arguments is sent as it is, not as JSON. */
  checksum(data: Uint8Array) {
    if (!(data instanceof Uint8Array)) throw new MethodError({ error: "BYTES_WANTED" });
    return createHash("sha256").update(data).digest("hex");
  },

  /** Either form: text as a JSON value, or bytes; the answer comes in the form of the question. */
  reverse(data: string | Uint8Array) {
    return typeof data === "string" ? [...data].reverse().join("") : data.toReversed();
  },
};

export type Hello = typeof hello;
