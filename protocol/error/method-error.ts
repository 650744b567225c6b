/** What a method throws by intent: a value for the caller, JSON or bytes, carried as it is. */

const brand = Symbol.for("leveros.dev/MethodError");

export class MethodError<Value = unknown> extends Error {
  readonly kind = "method";
  readonly code = "UNKNOWN";
  readonly reason = "METHOD_ERROR";
  /** A method that throws has been entered. */
  readonly effect = "ran";
  /** A JSON value or a `Uint8Array`. */
  readonly value: Value;

  constructor(value: Value, options?: ErrorOptions) {
    super(describe(value), options);
    this.name = "MethodError";
    this.value = value;
    Object.defineProperty(this, brand, { value: true });
  }

  /** True for a MethodError of any copy of this package. */
  static is(value: unknown): value is MethodError {
    return typeof value === "object" && value !== null && brand in value;
  }
}

const describedLengthMax = 200;

function describe(value: unknown): string {
  if (value instanceof Uint8Array) return `the method failed with ${value.length} bytes`;
  let text: string | undefined;
  try {
    text = typeof value === "string" ? value : JSON.stringify(value);
  } catch {
    // A value that JSON cannot print (a cycle, a bigint) is refused when it is encoded, with its path.
  }
  text ??= String(value);
  return text.length > describedLengthMax ? `${text.slice(0, describedLengthMax)}…` : text;
}
