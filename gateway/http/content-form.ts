/** Which form a request's body has, by its headers. */

import type { IncomingHttpHeaders } from "node:http";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";

export type ContentForm = "json" | "bytes" | "ndjson";

const forms: Readonly<Record<string, ContentForm>> = {
  "": "json",
  "application/json": "json",
  "application/octet-stream": "bytes",
  "application/x-ndjson": "ndjson",
};

/** Without a content-type JSON. Throws CONTENT_TYPE_UNSUPPORTED. */
export function contentForm(headers: IncomingHttpHeaders): ContentForm {
  const encoding = headers["content-encoding"]?.trim().toLowerCase() ?? "";
  if (encoding !== "" && encoding !== "identity") {
    throw new LeverError(
      "CONTENT_TYPE_UNSUPPORTED",
      `content-encoding is ${shown(encoding)}, expected none: bodies are taken uncompressed`,
    );
  }
  const header = headers["content-type"] ?? "";
  const type = header.split(";", 1)[0]?.trim().toLowerCase() ?? "";
  const form = Object.hasOwn(forms, type) ? forms[type] : undefined;
  if (form === undefined) throw new LeverError("CONTENT_TYPE_UNSUPPORTED", `content-type is ${shown(type)}`);
  const charset = /;\s*charset\s*=\s*"?([^\s";]*)/i.exec(header)?.[1]?.toLowerCase();
  if (form !== "bytes" && charset !== undefined && charset !== "utf-8" && charset !== "utf8") {
    throw new LeverError("CONTENT_TYPE_UNSUPPORTED", `content-type has the charset ${shown(charset)}, expected utf-8`);
  }
  return form;
}

function shown(text: string): string {
  return JSON.stringify(text.slice(0, 100));
}
