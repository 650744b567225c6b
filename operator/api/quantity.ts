/**
 * Kubernetes quantities of bytes: `1Mi`, `1.5Ki`, `2e6`, `1048576`.
 *
 * The grammar is that of k8s.io/apimachinery/pkg/api/resource. Only whole numbers of bytes come out; a quantity that
 * has none (`100m`) is not one of bytes.
 */

const grammar = /^([+-]?)(\d{1,20})(?:\.(\d{0,20}))?(?:([numkMGTPE]|[KMGTPE]i)|[eE]([+-]?\d{1,2}))?$/;

const factors: Readonly<Record<string, readonly [base: bigint, power: number]>> = {
  n: [10n, -9],
  u: [10n, -6],
  m: [10n, -3],
  k: [10n, 3],
  M: [10n, 6],
  G: [10n, 9],
  T: [10n, 12],
  P: [10n, 15],
  E: [10n, 18],
  Ki: [1024n, 1],
  Mi: [1024n, 2],
  Gi: [1024n, 3],
  Ti: [1024n, 4],
  Pi: [1024n, 5],
  Ei: [1024n, 6],
};

/** The number of bytes, or undefined for what is no quantity, not whole, or beyond 2^53. */
export function quantityBytes(quantity: string | number): number | undefined {
  if (typeof quantity === "number") return Number.isSafeInteger(quantity) ? quantity : undefined;
  const match = grammar.exec(quantity);
  if (match === null) return undefined;
  const [, sign, whole = "", fraction = "", suffix, exponent] = match;
  const [base, power] = suffix !== undefined ? (factors[suffix] ?? [10n, 0]) : [10n, Number(exponent ?? 0)];
  let numerator = BigInt(whole + fraction);
  let denominator = 10n ** BigInt(fraction.length);
  if (power >= 0) numerator *= base ** BigInt(power);
  else denominator *= base ** BigInt(-power);
  if (numerator % denominator !== 0n) return undefined;
  const bytes = Number(numerator / denominator);
  if (!Number.isSafeInteger(bytes)) return undefined;
  return sign === "-" && bytes !== 0 ? -bytes : bytes;
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
