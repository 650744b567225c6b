/**
 * A service that calls another.
 *
 *     lever invoke lever://dev/greeter/greetAll '["Ada","Grace"]'
 */

import { Client } from "leveros";
import type { Hello } from "../hello/methods.ts";

// One for the process. It connects at its first call: importing this file does nothing.
const client = new Client();
const hello = client.service<Hello>("hello");

export const greeter = {
  /**
   * The calls are typed by the other's methods, run within the deadline of this one's caller and end when that gives up.
   * A MethodError that they throw goes on to that caller unless it is caught here.
   */
  async greetAll(names: string[]) {
    return await Promise.all(names.map((name) => hello.sayHello(name)));
  },
};

export type Greeter = typeof greeter;
