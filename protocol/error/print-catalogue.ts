/**
 * Prints docs/errors.md from the catalogue: `npx node protocol/error/print-catalogue.ts > docs/errors.md`.
 * A test fails when the two differ.
 */

import { type CatalogueRow, catalogue, type ErrorKind } from "./catalogue.ts";

/** A script, not a part of the library: the only file of this workspace that knows a process. */
declare const process: { readonly stdout: { write(text: string): unknown } };

const introduction = `# Errors

<!-- Generated from protocol/error/catalogue.ts by protocol/error/print-catalogue.ts; edit those. -->

Every error that Lever raises has four fields that programs can rely on. They are the same in Node (a \`LeverError\`),
over HTTP (the problem details in the body) and on the command line (\`-o json\`). The message is for people: it names
what was found, what was expected and what to do. It may change with any version, so never compare it.

| field | meaning |
|---|---|
| \`kind\` | who has to act: \`arguments\` the caller, \`method\` the called method's author, \`network\` nobody yet (the same call may work later), \`internal\` whoever runs Lever |
| \`code\` | the status name that gRPC uses for this class of error, for tools that know those |
| \`reason\` | what exactly happened: one of the words below, which never change their meaning |
| \`effect\` | whether the method may have run, over all attempts of the call |

\`effect\` decides whether a call may be repeated:

| effect | meaning | repeat? |
|---|---|---|
| \`none\` | the method was not entered in any attempt | always safe |
| \`unknown\` | the method may have run, or be running | only if running it twice does no harm |
| \`ran\` | the method was entered | only if running it twice does no harm |

The effect beside each reason below is what is said when nothing more is known. An error can say more than that: a
deadline that passes while a call still waits for its first instance has the effect \`none\`, not \`unknown\`.

The exit code of the \`lever\` command follows the kind: 1 \`method\`, 2 \`arguments\`, 3 \`network\`, 4 \`internal\`.

What a method throws on purpose is not a \`LeverError\` but a \`MethodError\`: it carries the method's own value, and its
reason is METHOD_ERROR.
`;

const kinds: Readonly<Record<ErrorKind, string>> = {
  arguments: "The call itself is wrong, and fails the same way each time until it is changed.",
  method: "The method was reached, and what it did or returned is the error.",
  network: "The call or its answer did not get through, or not in time.",
  internal: "Lever, or a program that speaks its protocol, is at fault.",
};

function section(kind: ErrorKind): string {
  const rows = Object.entries<CatalogueRow>(catalogue).filter(([, row]) => row.kind === kind);
  return `## ${kind}\n\n${kinds[kind]}\n\n${rows.map(entry).join("\n")}`;
}

function entry([reason, row]: readonly [string, CatalogueRow]): string {
  const facts = `\`${row.code}\`, HTTP ${row.httpStatus}, exit code ${row.exitCode}, effect \`${row.effect}\``;
  return `### ${reason}\n\n${row.meaning}\n\n- ${facts}\n- ${row.remedy}\n`;
}

const sections = (Object.keys(kinds) as ErrorKind[]).map(section);
process.stdout.write(`${introduction}\n${sections.join("\n")}`);
