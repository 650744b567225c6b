/**
 * Kubernetes quantities of bytes: `1Mi`, `500k`, `2e6`, `1048576`; and of processors: `2`, `0.5`, `20m`.
 *
 * The grammar is that of k8s.io/apimachinery/pkg/api/resource without fractions (`1.5Mi`, `100m`): a number of bytes is
 * whole, and the API server's own rules count fractions as no integers. `wholeQuantity` makes one of them a whole one.
 */

/** The same for zod, the CRD and the parser. */
export const byteQuantityPattern = /^[0-9]{1,20}([kMGTPE]|[KMGTPE]i|[eE]\+?[0-9]{1,2})?$/;

const factors: Readonly<Record<string, bigint>> = {
  k: 10n ** 3n,
  M: 10n ** 6n,
  G: 10n ** 9n,
  T: 10n ** 12n,
  P: 10n ** 15n,
  E: 10n ** 18n,
  Ki: 1024n,
  Mi: 1024n ** 2n,
  Gi: 1024n ** 3n,
  Ti: 1024n ** 4n,
  Pi: 1024n ** 5n,
  Ei: 1024n ** 6n,
};

/** The number of bytes, or undefined for what is no such quantity or beyond 2^53. */
export function quantityBytes(quantity: string | number): number | undefined {
  if (typeof quantity === "number") return Number.isSafeInteger(quantity) ? quantity : undefined;
  if (!byteQuantityPattern.test(quantity)) return undefined;
  const digits = /^[0-9]+/.exec(quantity)?.[0] ?? "";
  const suffix = quantity.slice(digits.length);
  const factor = factors[suffix] ?? (suffix === "" ? 1n : 10n ** BigInt(suffix.replace(/^[eE]\+?/, "")));
  const bytes = Number(BigInt(digits) * factor);
  return Number.isSafeInteger(bytes) ? bytes : undefined;
}

/** `1.5Gi` as `1536Mi`, rounded up as Kubernetes does; anything else as it is. */
export function wholeQuantity(quantity: string): string {
  const [, number, suffix = ""] = /^([0-9]{1,20}\.[0-9]{1,9})([kMGTPE]|[KMGTPE]i)$/.exec(quantity) ?? [];
  if (number === undefined) return quantity;
  const bytes = Math.ceil(Number(number) * Number(factors[suffix]));
  return Number.isSafeInteger(bytes) ? formatBytes(bytes) : quantity;
}

/** The same for zod, the CRD and the parser. */
export const cpuQuantityPattern = /^([0-9]{1,6}(\.[0-9]{1,3})?|[0-9]{1,9}m)$/;

/** Thousandths of a processor, or undefined for what is no such quantity. */
export function quantityMillis(quantity: string | number): number | undefined {
  const text = String(quantity);
  if (!cpuQuantityPattern.test(text)) return undefined;
  return text.endsWith("m") ? Number(text.slice(0, -1)) : Math.round(Number(text) * 1000);
}

/** The shortest exact form with a binary suffix: `16Mi`, `1536`. */
export function formatBytes(bytes: number): string {
  for (const [suffix, unit] of [
    ["Gi", 1024 ** 3],
    ["Mi", 1024 ** 2],
    ["Ki", 1024],
  ] as const) {
    if (bytes >= unit && bytes % unit === 0) return `${bytes / unit}${suffix}`;
  }
  return String(bytes);
}
