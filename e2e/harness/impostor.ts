/**
 * Who comes to a port for frames without being who it should: certificates that the cluster's own CA has signed, wrong in
 * one point each, and a HELLO written by hand.
 */

import { once } from "node:events";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { connect as connectPlainly, type Socket } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { connect } from "node:tls";
import { run } from "../cluster/command.ts";
import { kubectlJson } from "./kubectl.ts";
import { leverNamespace } from "./lever-install.ts";

export interface Credentials {
  readonly cert: string;
  readonly key: string;
}

/** The days from now on that a certificate is for; negative: it has ended. */
export interface Validity {
  readonly fromDays: number;
  readonly toDays: number;
}

const today: Validity = { fromDays: -1, toDays: 1 };

export class ImpostorAuthority implements AsyncDisposable {
  readonly bundle: string;
  readonly #directory: string;
  #issued = 0;

  private constructor(directory: string, bundle: string) {
    this.#directory = directory;
    this.bundle = bundle;
  }

  /** With the keys of the operator's own CA, which nobody but the operator should have. */
  static async ofCluster(): Promise<ImpostorAuthority> {
    const get = ["get", "secret/lever-identity", "--namespace", leverNamespace];
    const { data } = await kubectlJson<{ data: Record<string, string> }>(get);
    const text = (key: string) => Buffer.from(data[key] ?? "", "base64").toString();
    return ImpostorAuthority.#in(text("tls.crt"), text("tls.key"), text("ca.crt"));
  }

  /** One that nobody trusts; it trusts the cluster's. */
  static async foreign(bundle: string): Promise<ImpostorAuthority> {
    const directory = await mkdtemp(path.join(tmpdir(), "lever-e2e-"));
    const [cert, key] = [path.join(directory, "ca.crt"), path.join(directory, "ca.key")];
    const args = [
      "req",
      "-x509",
      "-newkey",
      "ec",
      "-pkeyopt",
      "ec_paramgen_curve:P-256",
      "-noenc",
      "-subj",
      "/CN=Lever CA",
    ];
    await run("openssl", [...args, "-keyout", key, "-out", cert]);
    const authority = await ImpostorAuthority.#in(await readFile(cert, "utf8"), await readFile(key, "utf8"), bundle);
    await rm(directory, { recursive: true });
    return authority;
  }

  static async #in(cert: string, key: string, bundle: string): Promise<ImpostorAuthority> {
    const directory = await mkdtemp(path.join(tmpdir(), "lever-e2e-"));
    const write = (name: string, content: string) => writeFile(path.join(directory, name), content, { mode: 0o600 });
    await write("ca.crt", cert);
    await write("ca.key", key);
    await write("index.txt", "");
    await write("serial", "1000\n");
    const lines = [
      "database=index.txt",
      "new_certs_dir=.",
      "serial=serial",
      "default_md=sha256",
      "policy=any",
      "unique_subject=no",
    ];
    await write("ca.conf", `[ca]\ndefault_ca=own\n[own]\n${lines.join("\n")}\n[any]\ncommonName=optional\n`);
    return new ImpostorAuthority(directory, bundle);
  }

  /** A certificate for the SPIFFE id. */
  async issue(uri: string, { fromDays, toDays }: Validity = today): Promise<Credentials> {
    const name = `${this.#issued++}`;
    const cwd = this.#directory;
    const extensions = `keyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth,clientAuth\nsubjectAltName=URI:${uri}\n`;
    await writeFile(path.join(cwd, `${name}.ext`), extensions);
    const curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"];
    await run("openssl", ["req", ...curve, "-subj", `/CN=${name}`, "-keyout", `${name}.key`, "-out", `${name}.csr`], {
      cwd,
    });
    const files = [
      "-cert",
      "ca.crt",
      "-keyfile",
      "ca.key",
      "-in",
      `${name}.csr`,
      "-out",
      `${name}.crt`,
      "-extfile",
      `${name}.ext`,
    ];
    const dates = ["-startdate", asn1Time(fromDays), "-enddate", asn1Time(toDays)];
    await run("openssl", ["ca", "-config", "ca.conf", "-batch", "-notext", ...files, ...dates], { cwd });
    const read = (file: string) => readFile(path.join(cwd, file), "utf8");
    return { cert: await read(`${name}.crt`), key: await read(`${name}.key`) };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.#directory, { recursive: true, force: true });
  }
}

function asn1Time(daysFromNow: number): string {
  const date = new Date(Date.now() + daysFromNow * 86_400_000);
  return `${date.toISOString().slice(0, 19).replace(/[-:T]/g, "")}Z`;
}

export interface Knock {
  readonly host: string;
  readonly port: number;
  /** Undefined: no TLS. */
  readonly bundle: string | undefined;
  /** Undefined: it shows none. */
  readonly credentials: Credentials | undefined;
  readonly hello: Readonly<Record<string, string>>;
}

/** How long whoever is let in is left alone by the other end. */
const servedMs = 1500;

/** Connects and says HELLO. `served`: the other end says its own, and does not close the connection. */
export async function knock({ host, port, bundle, credentials, hello }: Knock): Promise<"served" | "refused"> {
  const socket: Socket =
    bundle === undefined
      ? connectPlainly({ host, port })
      : connect({
          host,
          port,
          ca: bundle,
          ...credentials,
          minVersion: "TLSv1.3",
          ALPNProtocols: ["lever/1"],
          // Names of hosts mean nothing to it.
          checkServerIdentity: () => undefined,
        });
  let heard = 0;
  const closed = new Promise<"closed">((resolve) => socket.once("close", () => resolve("closed")));
  // Why it is closed is what the other end tells.
  socket.on("error", () => {});
  socket.on("data", (chunk) => {
    heard += chunk.length;
  });
  try {
    const isThere = once(socket, bundle === undefined ? "connect" : "secureConnect").then(
      () => true,
      () => false,
    );
    if ((await Promise.race([isThere, closed])) !== true) return "refused";
    socket.write(helloFrame(hello));
    const end = await Promise.race([closed, sleep(servedMs, "open" as const)]);
    return end === "open" && heard > 0 ? "served" : "refused";
  } finally {
    socket.destroy();
  }
}

/** As docs/protocol.md has it: length, type 1, no flags, stream 0, and a map. */
function helloFrame(identity: Readonly<Record<string, string>>): Buffer {
  const limits = {
    versionMin: 1,
    versionMax: 1,
    streamWindowBytes: 131_072,
    sessionWindowBytes: 1_048_576,
    streamsMax: 100,
    targetsMax: 0,
  };
  const entries = Object.entries({ ...limits, ...identity });
  const map = Buffer.concat([
    Buffer.from([0x80 | entries.length]),
    ...entries.flatMap(([key, value]) => [packed(key), packed(value)]),
  ]);
  const head = Buffer.alloc(9);
  head.writeUIntBE(map.length, 0, 3);
  head[3] = 1;
  return Buffer.concat([head, map]);
}

function packed(value: string | number): Buffer {
  if (typeof value === "string")
    return Buffer.concat([Buffer.from([0xd9, Buffer.byteLength(value)]), Buffer.from(value)]);
  const number = Buffer.alloc(5);
  number[0] = 0xce;
  number.writeUInt32BE(value, 1);
  return number;
}
