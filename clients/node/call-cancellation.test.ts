import { getEventListeners } from "node:events";
import { describe, expect, it } from "vitest";
import { CallCancellation, OpenCalls } from "./call-cancellation.ts";

function listeners(signal: AbortSignal): number {
  return getEventListeners(signal, "abort").length;
}

describe("CallCancellation", () => {
  it("is aborted by either signal, and gives the reason of the one that was", () => {
    for (const which of [0, 1] as const) {
      const controllers = [new AbortController(), new AbortController()] as const;
      const call = new CallCancellation(new OpenCalls(), controllers[0].signal, controllers[1].signal);
      const reasons: unknown[] = [];
      call.addEventListener("abort", () => reasons.push(call.reason));
      expect(call.aborted).toBe(false);
      controllers[which].abort(`reason ${which}`);
      expect(call.aborted).toBe(true);
      expect(reasons).toEqual([`reason ${which}`]);
      controllers[1 - which]?.abort("too late");
      expect(reasons).toHaveLength(1);
      expect(call.reason).toBe(`reason ${which}`);
    }
  });

  it("sees signals that were aborted before", () => {
    const call = new CallCancellation(new OpenCalls(), undefined, AbortSignal.abort("before"));
    expect(call.aborted).toBe(true);
    expect(call.reason).toBe("before");
  });

  it("is aborted when its client is closed", () => {
    const open = new OpenCalls();
    const { signal } = new AbortController();
    const call = new CallCancellation(open, signal, undefined);
    let aborted = 0;
    call.addEventListener("abort", () => aborted++);
    expect(open.size).toBe(1);
    open.cancelAll("closed");
    expect([aborted, call.aborted, call.reason, open.size, listeners(signal)]).toEqual([1, true, "closed", 0, 0]);
  });

  it("leaves nothing at the signals once it has ended, and one listener at most before", () => {
    const open = new OpenCalls();
    const own = new AbortController();
    const inherited = new AbortController();
    const calls = Array.from({ length: 1000 }, () => new CallCancellation(open, own.signal, inherited.signal));
    const heard = calls.map(() => 0);
    const onAborts = calls.map((call, index) => {
      const onAbort = () => {
        heard[index] = (heard[index] ?? 0) + 1;
      };
      call.addEventListener("abort", onAbort);
      return onAbort;
    });
    expect([listeners(own.signal), listeners(inherited.signal), open.size]).toEqual([1, 1, 1000]);
    calls.slice(0, 500).forEach((call, index) => {
      call.removeEventListener("abort", onAborts[index] as () => void);
    });
    expect([listeners(own.signal), listeners(inherited.signal), open.size]).toEqual([1, 1, 500]);
    own.abort();
    expect(heard).toEqual([...Array(500).fill(0), ...Array(500).fill(1)]);
    expect([listeners(own.signal), listeners(inherited.signal), open.size]).toEqual([0, 0, 0]);
  });

  it("goes on to the next thing that the call waits for", () => {
    const controller = new AbortController();
    const call = new CallCancellation(new OpenCalls(), controller.signal, undefined);
    const heard: string[] = [];
    const first = () => heard.push("first");
    call.addEventListener("abort", first);
    call.removeEventListener("abort", first);
    call.addEventListener("abort", () => heard.push("second"));
    // Late: it must not take the second one off.
    call.removeEventListener("abort", first);
    controller.abort();
    expect(heard).toEqual(["second"]);
  });
});
