/** Text that came in as bytes: header values and paths, which Node hands out as Latin-1, and bodies. */

const utf8 = new TextDecoder("utf-8", { fatal: true });

/** The text of UTF-8, without a byte order mark; undefined if it is none. */
export function textOfUtf8(bytes: Uint8Array): string | undefined {
  try {
    return utf8.decode(bytes);
  } catch {
    return undefined;
  }
}

/** What Node read as Latin-1, read as the UTF-8 that clients send; undefined if it is none. */
export function textOfLatin1(text: string): string | undefined {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: this is about bytes, all of them.
  return /^[\x00-\x7f]*$/.test(text) ? text : textOfUtf8(Buffer.from(text, "latin1"));
}
