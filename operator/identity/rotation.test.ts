import { X509Certificate } from "node:crypto";
import fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";
import { type AuthorityPem, makeAuthority } from "./authority.ts";
import { certificatesIn, foreignAuthority } from "./identity.fixture.ts";
import { authorityLifeMs, certificateLifeMs, hourMs } from "./lifetimes.ts";
import { announceMs, nextContent, nextStepAtMs, type RotationStep, renewMs, retireMs } from "./rotation.ts";
import { readSecret, type SecretData } from "./secret-content.ts";

const t0 = Date.parse("2030-01-01T00:00:00Z");
const sources = { authority: makeAuthority, drainKey: () => "made-drain-key-0123456789" };
const next = async (nowMs: number, data: SecretData, isRequested = false) =>
  nextContent({ nowMs, data, state: await readSecret(data), request: isRequested ? "rotate" : undefined }, sources);

let fresh: SecretData;
let waiting: SecretData;
let switched: SecretData;
let other: AuthorityPem;

beforeAll(async () => {
  fresh = (await next(t0, {}))?.data as SecretData;
  waiting = (await next(t0, fresh, true))?.data as SecretData;
  switched = (await next(t0 + announceMs, waiting))?.data as SecretData;
  other = await foreignAuthority({ nowMs: t0 });
});

describe("the step that comes next", () => {
  const day = certificateLifeMs;
  const rows: readonly [string, () => SecretData, number, boolean, RotationStep | undefined][] = [
    ["of an empty Secret", () => ({}), t0, false, "made"],
    ["of one whose fields are empty", () => ({ "tls.crt": "", "tls.key": "\n", "ca.crt": "" }), t0, false, "made"],
    ["of one with a drain key only", () => ({ "drain-key": "0123456789abcdef" }), t0, false, "made"],
    ["of a new CA", () => fresh, t0, false, undefined],
    ["of one with a third left, nearly", () => fresh, t0 + authorityLifeMs - renewMs - 1, false, undefined],
    ["of one with a third left", () => fresh, t0 + authorityLifeMs - renewMs, false, "announced"],
    ["of a new CA, if it is asked for", () => fresh, t0, true, "announced"],
    ["of one that has ended", () => fresh, t0 + authorityLifeMs, false, "made"],
    ["of one announced a day ago", () => waiting, t0 + day, false, undefined],
    ["of one announced, and another one is asked for", () => waiting, t0 + day, true, undefined],
    ["of one announced a day and a refresh ago", () => waiting, t0 + announceMs, false, "signs"],
    ["of one announced whose predecessor has ended", () => waiting, t0 + authorityLifeMs + day, false, "signs"],
    ["of one that has just switched", () => switched, t0 + announceMs + day, false, undefined],
    [
      "of one that has just switched, and another one is asked for",
      () => switched,
      t0 + announceMs + day,
      true,
      undefined,
    ],
    ["of one that switched a day and an hour ago", () => switched, t0 + announceMs + retireMs, false, "retired"],
    ["while the clock is behind", () => switched, t0 - 10 * day, false, undefined],
    ["of somebody else's CA without a drain key", () => foreign(), t0, true, "drain key made"],
    ["of somebody else's CA", () => ({ ...foreign(), "drain-key": "0123456789abcdef" }), t0, true, undefined],
    [
      "of somebody else's CA that has ended",
      () => ({ ...foreign(), "drain-key": "0123456789abcdef" }),
      t0 + 9e12,
      true,
      undefined,
    ],
    ["of a key that is missing", () => ({ ...fresh, "tls.key": "" }), t0 + authorityLifeMs, true, undefined],
    ["of a CA that is missing", () => ({ ...fresh, "tls.crt": "" }), t0 + authorityLifeMs, true, undefined],
    [
      "of all missing but the rotation",
      () => ({ "rotation.json": fresh["rotation.json"] as string }),
      t0,
      true,
      undefined,
    ],
    ["of text in place of a certificate", () => ({ ...fresh, "ca.crt": "x" }), t0, true, undefined],
    ["of another's key", () => ({ ...fresh, "tls.key": other.key }), t0, true, undefined],
    ["of a rotation that is no JSON", () => ({ ...fresh, "rotation.json": "{" }), t0, true, undefined],
    [
      "of a rotation with no time",
      () => ({ ...waiting, "rotation.json": (waiting["rotation.json"] as string).replace(/"20[^"]*"/, "1") }),
      t0 + announceMs,
      true,
      undefined,
    ],
    ["of somebody else's CA over a new one", () => ({ ...fresh, ...foreign() }), t0 + authorityLifeMs, true, undefined],
    [
      "of somebody else's CA over one announced",
      () => ({ ...waiting, ...foreign() }),
      t0 + announceMs,
      true,
      undefined,
    ],
    [
      "of somebody else's CA over one that has switched",
      () => ({ ...switched, ...foreign() }),
      t0 + announceMs + retireMs,
      true,
      undefined,
    ],
    ["of a next CA that is not there", () => ({ ...waiting, "next.crt": "" }), t0 + announceMs, true, undefined],
    ["of a short drain key", () => ({ ...fresh, "drain-key": "short" }), t0 + announceMs, true, undefined],
  ];
  const foreign = (): SecretData => ({
    "tls.crt": other.certificate,
    "tls.key": other.key,
    "ca.crt": other.certificate,
  });

  test.each(rows)("%s", async (_, data, nowMs, isRequested, step) => {
    const content = data();
    const found = await next(nowMs, content, isRequested);
    expect(found?.step).toBe(step);
    // What was there and is nobody's business stays.
    for (const key of Object.keys(content).filter((name) => !/^(tls|ca|next|rotation)/.test(name))) {
      if (found !== undefined) expect(found.data[key]).toBe(content[key]);
    }
  });
});

test("what was emptied has again what it had, a rotation under way included", async () => {
  for (const held of [fresh, waiting, switched, { "tls.crt": other.certificate, "tls.key": other.key }]) {
    const data = { "tls.crt": "", kept: "yes" };
    const input = { nowMs: t0 + announceMs, data, state: await readSecret(data), held };
    expect(await nextContent(input, sources)).toEqual({
      step: "restored",
      data: { kept: "yes", ...held },
      isRequestDone: false,
    });
  }
});

test("who asks for it gets all anew at once, whatever is there", async () => {
  const foreign = { "tls.crt": other.certificate, "tls.key": other.key };
  for (const data of [{}, fresh, waiting, switched, foreign, { "tls.crt": "nonsense" }]) {
    const input = { nowMs: t0, data, state: await readSecret(data), held: fresh, request: "replace" as const };
    const found = await nextContent(input, sources);
    expect(found).toMatchObject({ step: "made", isRequestDone: true });
    expect(Object.keys(found?.data ?? {}).sort()).toEqual(Object.keys(fresh).sort());
    expect(certificatesIn(found?.data["ca.crt"])).toEqual(certificatesIn(found?.data["tls.crt"]));
    expect(certificatesIn(data["tls.crt"])).not.toEqual(certificatesIn(found?.data["tls.crt"]));
    expect(await readSecret(found?.data ?? {})).toMatchObject({ kind: "usable", identity: { rotation: {} } });
  }
});

test("all through a rotation: whoever signs was trusted long before, and is trusted long after", async () => {
  const [old] = certificatesIn(fresh["ca.crt"]);
  expect(certificatesIn(waiting["ca.crt"])).toEqual([old, ...certificatesIn(waiting["next.crt"])]);
  expect(waiting["tls.crt"]).toBe(fresh["tls.crt"]);
  expect(switched["tls.crt"]).toBe(waiting["next.crt"]);
  expect(switched["tls.key"]).toBe(waiting["next.key"]);
  expect(switched["ca.crt"]).toBe(waiting["ca.crt"]);
  expect(switched).not.toHaveProperty("next.crt");
  expect(switched).not.toHaveProperty("next.key");
  const retired = (await next(t0 + announceMs + retireMs, switched))?.data as SecretData;
  expect(certificatesIn(retired["ca.crt"])).toEqual(certificatesIn(waiting["next.crt"]));
  expect(await next(t0 + announceMs + retireMs, retired)).toBeUndefined();
});

test("a CA of Lever's lives a year", () => {
  const certificate = new X509Certificate(fresh["tls.crt"] as string);
  expect(certificate.ca).toBe(true);
  expect(certificate.validToDate.getTime()).toBe(t0 + authorityLifeMs);
  expect(certificate.publicKey.asymmetricKeyDetails?.namedCurve).toBe("prime256v1");
});

test("whenever it is looked at and however often it is asked for, no valid certificate is ever distrusted", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(fc.integer({ min: 1, max: 60 * 24 }), fc.boolean()), { minLength: 5, maxLength: 25 }),
      async (looks) => {
        let nowMs = t0;
        let data: SecretData = fresh;
        /** What was signed, by the fingerprint of its CA: until when it is valid; and when each CA was first trusted. */
        const signed = new Map<string, number>();
        const trustedSince = new Map<string, number>(certificatesIn(data["ca.crt"]).map((root) => [root, nowMs]));
        for (const [hours, isRequested] of looks) {
          nowMs += hours * hourMs;
          data = (await next(nowMs, data, isRequested))?.data ?? data;
          const trusted = certificatesIn(data["ca.crt"]);
          const [signer] = certificatesIn(data["tls.crt"]) as [string];
          const ends = new X509Certificate(data["tls.crt"] as string).validToDate.getTime();
          for (const root of trusted) if (!trustedSince.has(root)) trustedSince.set(root, nowMs);
          const isNew = !signed.has(signer) && signed.size > 0;
          // None but one that took the place of a CA that had ended, of which no certificate is valid.
          const isAlone = [...signed.values()].every((until) => until <= nowMs);
          if (isNew && !isAlone) {
            expect(nowMs - (trustedSince.get(signer) as number)).toBeGreaterThanOrEqual(certificateLifeMs);
          }
          for (const [root, until] of signed) if (until > nowMs) expect(trusted).toContain(root);
          signed.set(signer, Math.min(nowMs + certificateLifeMs, ends));
          const dueAtMs = nextStepAtMs(await readSecret(data)) as number;
          // What is due is done at the next look, if not at this one.
          if (dueAtMs <= nowMs) expect(await next(nowMs, data)).toBeDefined();
        }
      },
    ),
    { numRuns: 15 },
  );
});
