/** What is measured of the operator, wherever its replicas run. */

export const operatorNamespace = "lever-system";
export const operatorLease = "lever-operator";

export interface Memory {
  readonly residentBytes: number;
  /** VmHWM. */
  readonly peakBytes: number;
}

export interface Replica {
  readonly name: string;
  /** Where agents reach it, from this machine, at port 3837. */
  readonly host: string;
  isReady(): Promise<boolean>;
  metrics(): Promise<Metrics>;
  memory(): Promise<Memory>;
  /** Since its process began. */
  cpuMs(): Promise<number>;
}

export interface Operator extends AsyncDisposable {
  /** For the report. */
  readonly about: string;
  replicas(): Promise<readonly Replica[]>;
  /** Resolves when every replica is ready. */
  whenReady(): Promise<void>;
  /** As a crash would. It comes back by itself. */
  kill(replica: Replica): Promise<void>;
  /** In good order. They come back by themselves. */
  restart(replicas: readonly Replica[]): Promise<void>;
}

/** A page of /metrics. */
export class Metrics {
  readonly #samples: readonly { readonly name: string; readonly labels: string; readonly value: number }[];

  constructor(page: string) {
    this.#samples = page.split("\n").flatMap((line) => {
      const [, name, labels = "", value] = /^([a-z_]+)(\{.*\})? (\S+)$/.exec(line) ?? [];
      return name === undefined ? [] : [{ name, labels, value: Number(value) }];
    });
  }

  /** Over all labels that match. */
  sum(name: string, labels = /.*/): number {
    return this.#samples.reduce(
      (sum, sample) => (sample.name === name && labels.test(sample.labels) ? sum + sample.value : sum),
      0,
    );
  }

  /** The sum for each value of what `key` makes of the labels. */
  sums(name: string, key: (label: (of: string) => string) => string): Map<string, number> {
    const sums = new Map<string, number>();
    for (const sample of this.#samples) {
      if (sample.name !== name) continue;
      const of = key((label) => new RegExp(`[{,]${label}="([^"]*)"`).exec(sample.labels)?.[1] ?? "");
      sums.set(of, (sums.get(of) ?? 0) + sample.value);
    }
    return sums;
  }
}
