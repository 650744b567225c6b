/** What `lever dev` says when it is up: where to call, and lines to paste into another terminal. */

import { isStreamingName } from "@leveros/protocol/target/lever-url.ts";

/** Where the gateway listens. */
export interface Doors {
  readonly host: string;
  readonly httpPort: number;
  readonly port: number;
  readonly adminPort: number;
}

export interface ServedService {
  readonly environment: string;
  readonly name: string;
  /** Names of its methods; empty while no instance has registered any. */
  readonly methods: readonly string[];
  /** Its methods may be those of resources. */
  readonly resources: boolean;
}

/** What is known of this repository's examples: the methods that make one known, and lines for them. */
const examples: Readonly<Record<string, { readonly methods: readonly string[]; lines(to: Lines): string[] }>> = {
  hello: {
    methods: ["sayHello", "divide"],
    lines: ({ curl, invoke }) => [
      curl("sayHello", '["world"]'),
      invoke("sayHello", `'"world"'`),
      invoke("divide", "1 0"),
    ],
  },
  greeter: {
    methods: ["greetAll"],
    lines: ({ invoke }) => [invoke("greetAll", `'["Ada","Grace"]'`)],
  },
  negotiate: {
    methods: ["haggleChan"],
    lines: ({ chan }) => [`echo '{"price":80}' | ${chan("haggleChan", `'"a carpet"' 100`)}`],
  },
  upload: {
    methods: ["putChan"],
    lines: ({ chan }) => [`head -c 10000000 /dev/urandom | ${chan("putChan", "--bytes")}`],
  },
  chat: {
    methods: ["joinChan", "history", "say"],
    lines: ({ chan, invoke, explain }) => [
      `echo '"hi all"' | ${chan("room-7/joinChan", `'"Ada"'`)}`,
      invoke("room-7/history", ""),
      explain("room-7"),
    ],
  },
  payments: {
    methods: ["charge", "receipt"],
    lines: ({ invoke, explain }) => [invoke("account-7/charge", "1250 --token order-4711"), explain("account-7")],
  },
};

interface Lines {
  curl(method: string, args: string): string;
  invoke(method: string, args: string): string;
  chan(method: string, args: string): string;
  explain(resource: string): string;
}

/** The order in which examples are shown. */
const exampleNames = Object.keys(examples);
const othersShownMax = 3;

/** Each line works as it stands, in a shell in the folder in which `lever dev` was started. */
export function linesToTry(services: readonly ServedService[], doors: Doors): string[] {
  const isExample = ({ name, methods }: ServedService) =>
    Object.hasOwn(examples, name) && examples[name]?.methods.every((method) => methods.includes(method)) === true;
  const known = services
    .filter(isExample)
    .sort((a, b) => exampleNames.indexOf(a.name) - exampleNames.indexOf(b.name))
    .flatMap((service) => examples[service.name]?.lines(linesFor(service, doors)) ?? []);
  const others = services
    .filter((service) => !isExample(service))
    .flatMap((service) => {
      if (service.methods.length === 0) return [];
      // Which of the methods are a resource's is not known here.
      if (service.resources) return [linesFor(service, doors).explain("any-name")];
      const method = service.methods.find((name) => !isStreamingName(name));
      return method === undefined ? [] : [linesFor(service, doors).invoke(method, "")];
    });
  return [...known, ...others.slice(0, othersShownMax)];
}

function linesFor({ environment, name }: ServedService, { host, httpPort, port }: Doors): Lines {
  const gateway = port === 3837 ? "" : ` --gateway ${host}:${port}`;
  const lever = (command: string, method: string, args: string) =>
    `npx lever ${command} lever://${environment}/${name}/${method}${args === "" ? "" : ` ${args}`}${gateway}`;
  return {
    curl: (method, args) =>
      `curl -s 'http://${host}:${httpPort}/${name}/${method}?forceenv=${environment}' ` +
      `-H 'content-type: application/json' -d '${args}'`,
    invoke: (method, args) => lever("invoke", method, args),
    chan: (method, args) => lever("chan", method, args),
    explain: (resource) => lever("explain", `${resource}/`, ""),
  };
}

/** The gateway's doors, on one line. */
export function doorsLine({ host, httpPort, port, adminPort }: Doors): string {
  return `HTTP http://${host}:${httpPort}   client libraries ${host}:${port}   metrics http://${host}:${adminPort}/metrics`;
}
