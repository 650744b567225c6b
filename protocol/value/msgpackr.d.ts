/**
 * The part of msgpackr that is used here. Its own types need Node's, and it has none for this entry.
 *
 * The entry is the one that never makes code at run time, for pages with a strict content security policy; and its
 * state (buffers, extensions, an optional native decoder) is not that of `import "msgpackr"`, so that what an app does
 * with msgpackr changes nothing here.
 */

declare module "msgpackr/index-no-eval" {
  export interface Options {
    readonly useRecords: false;
    readonly variableMapSize?: boolean;
    readonly useToJSON?: boolean;
    readonly encodeUndefinedAsNil?: boolean;
    readonly mapsAsObjects?: boolean;
    readonly int64AsType?: "number";
  }

  /** What `pack` returns with REUSE_BUFFER_MODE: the whole buffer, and where in it the value is. */
  export interface Target extends Uint8Array<ArrayBuffer> {
    readonly start: number;
    readonly end: number;
  }

  export const REUSE_BUFFER_MODE: number;

  export class Packr {
    constructor(options: Options);
    /** Where the next value is written, if there is room. */
    position: number;
    pack(value: unknown, mode: typeof REUSE_BUFFER_MODE): Target;
    /** From here on values are written to this buffer, from its beginning. */
    useBuffer(buffer: Uint8Array): void;
  }

  export class Unpackr {
    constructor(options: Options);
    /** Decodes the first `length` bytes. */
    unpack(bytes: Uint8Array, length: number): unknown;
  }
}
