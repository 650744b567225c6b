/** Values of flags: read, checked, collected. What is wrong is a usage error, with the flag's name and what it takes. */

import { InvalidArgumentError } from "commander";

/** A whole number in decimal digits. */
export function wholeNumber(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (/^\d{1,15}$/.test(text) && value >= min && value <= max) return value;
    throw new InvalidArgumentError(`Expected a whole number from ${min} to ${max}.`);
  };
}

/** `name=value`, added to those before. */
function entry(pattern: RegExp, expected: string) {
  return (text: string, before: Readonly<Record<string, string>>): Record<string, string> => {
    const equals = text.indexOf("=");
    const name = text.slice(0, equals);
    if (equals <= 0 || !pattern.test(name)) throw new InvalidArgumentError(`Expected ${expected}.`);
    // `__proto__` is a name like any.
    const all = Object.assign(Object.create(null) as Record<string, string>, before);
    all[name] = text.slice(equals + 1);
    return all;
  };
}

export const metadataEntry = entry(/^/, "name=value");
/** As a container's env takes it. */
export const variableEntry = entry(
  /^[-._A-Za-z][-._A-Za-z0-9]*$/,
  "NAME=value, the name of letters, digits, _, - and ., not beginning with a digit",
);

export function collected(text: string, before: readonly string[]): string[] {
  return [...before, text];
}
