/** What took how long. */
export class Timings {
  readonly #steps: { readonly name: string; readonly ms: number }[] = [];
  #last = performance.now();

  /** The end of a step that began with the last one's end. */
  step(name: string): void {
    const now = performance.now();
    this.#steps.push({ name, ms: now - this.#last });
    this.#last = now;
    console.log(line(name, this.#steps.at(-1)?.ms ?? 0));
  }

  print(): void {
    console.log("\ntimings");
    for (const { name, ms } of this.#steps) console.log(line(name, ms));
    console.log(
      line(
        "all",
        this.#steps.reduce((sum, { ms }) => sum + ms, 0),
      ),
    );
  }
}

function line(name: string, ms: number): string {
  return `${(ms / 1000).toFixed(1).padStart(7)} s  ${name}`;
}
