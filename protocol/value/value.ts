/** Values on the wire, as the rest of Lever imports them: the codec and the two forms. */

export { decodeArgs, decodeValue } from "./decode.ts";
export { encodeValue, valueBytesMax, valueDepthMax } from "./encode.ts";
export { decodePayload, type Encoded, encodeArgs, encodeMessage, encodeResult, type Form, isBytes } from "./form.ts";
