import { Client } from "leveros";
import type { Hello } from "../hello/methods.ts";

const client = new Client();
const hello = client.service<Hello>("hello");

export const greeter = {
  /** A service that calls another: typed by the other's methods, within the deadline of its own caller. */
  async greetAll(names: string[]) {
    return await Promise.all(names.map((name) => hello.sayHello(name)));
  },
};

export type Greeter = typeof greeter;
