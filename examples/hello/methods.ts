/**
 * Plain functions: what they take and return is what goes over the wire.
 *
 *     lever invoke lever://dev/hello/sayHello '"world"'
 *     lever invoke lever://dev/hello/divide 1 0
 *     lever invoke lever://dev/hello/checksum --args-file FILE
 */

import { createHash } from "node:crypto";
import { MethodError } from "leveros";

export const hello = {
  /** A value in, a value out: anything that JSON can say. */
  sayHello(name: string) {
    return `Hello, ${name}!`;
  },

  /** An error that its callers are meant to see: any JSON value, or bytes. They catch a MethodError with this value. */
  divide(dividend: number, divisor: number) {
    if (divisor === 0) throw new MethodError({ error: "DIVISION_BY_ZERO", dividend });
    return dividend / divisor;
  },

  /** Bytes in, a value out: one lone Uint8Array as the arguments is sent as it is. */
  checksum(data: Uint8Array) {
    // The compiler checks callers in TypeScript; others may send what they like.
    if (!(data instanceof Uint8Array)) throw new MethodError({ error: "BYTES_WANTED", got: typeof data });
    return createHash("sha256").update(data).digest("hex");
  },

  /** Either form: text as a JSON value, or bytes; the answer comes in the form of the question. */
  reverse(data: string | Uint8Array): string | Uint8Array {
    if (data instanceof Uint8Array) return data.toReversed();
    if (typeof data === "string") return [...data].reverse().join("");
    throw new MethodError({ error: "TEXT_OR_BYTES_WANTED", got: typeof data });
  },
};

/** For callers: `client.service<Hello>("hello")`. */
export type Hello = typeof hello;
