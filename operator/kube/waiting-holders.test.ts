import { VirtualClock } from "@leveros/protocol/clock/virtual-clock.ts";
import type { HolderIdentity, HolderMessage } from "@leveros/protocol/control/ownership.ts";
import { LeverError } from "@leveros/protocol/error/lever-error.ts";
import { expect, test } from "vitest";
import type { OwnershipLeader } from "../core/ownership/leader.ts";
import { WaitingHolders } from "./waiting-holders.ts";

const identity: HolderIdentity = {
  environment: "shop",
  service: "chat",
  instance: "chat-1",
  incarnation: "a.0.0",
  process: "p",
  address: "10.0.0.1:3837",
  appStartedAt: 1,
  agentStartedAt: 1,
  isSilent: false,
  holds: [],
  released: [],
};

function world() {
  const clock = new VirtualClock();
  const state = { isUndecided: true };
  const waiting = new WaitingHolders({
    clock,
    isUndecided: () => state.isUndecided,
    notLeader: () => new LeverError("NOT_LEADER", "another one leads", { effect: "none" }),
  });
  const ends: LeverError[] = [];
  const line = waiting.add(
    identity,
    () => {},
    (error) => ends.push(error),
  );
  const heard: (HolderMessage | "lost")[] = [];
  const connect: OwnershipLeader["connect"] = () => ({
    message: (message) => heard.push(message),
    lost: () => heard.push("lost"),
  });
  return { clock, state, waiting, line, ends, heard, connect };
}

const renew = (n: number): HolderMessage => ({ type: "renew", n, ageMs: 10 });
const released: HolderMessage = { type: "released", slots: [{ slot: 3, epoch: 7, hasState: false }] };

test("who becomes the leader takes on those that wait, with all that they have said but old renewals", () => {
  const { clock, waiting, line, ends, heard, connect } = world();
  line.message(renew(1));
  line.message(released);
  line.message(renew(2));
  clock.advance(4000);
  expect(waiting.count).toBe(1);
  waiting.enter(connect);
  expect(heard).toEqual([released, renew(2)]);
  line.message(renew(3));
  line.lost();
  expect(heard.slice(2)).toEqual([renew(3), "lost"]);
  expect([waiting.count, ends]).toEqual([0, []]);
});

test("what the leader refuses ends the holder's wait with its error", () => {
  const { waiting, ends } = world();
  waiting.enter(() => {
    throw new LeverError("LEASE_LAPSED", "it is over", { effect: "none" });
  });
  expect([waiting.count, ends.map(({ reason }) => reason)]).toEqual([0, ["LEASE_LAPSED"]]);
});

test("once another one leads they are sent there, and are heard no more", () => {
  const { clock, state, waiting, line, ends, heard, connect } = world();
  clock.advance(1000);
  expect(ends).toEqual([]);
  state.isUndecided = false;
  clock.advance(200);
  expect(ends.map(({ reason }) => reason)).toEqual(["NOT_LEADER"]);
  for (let n = 1; n < 300; n++) line.message(released);
  waiting.enter(connect);
  expect([waiting.count, heard, ends.length]).toEqual([0, [], 1]);
  expect(clock.timerCount).toBe(0);
});

test("nobody waits for longer than a leader's lease lasts", () => {
  const { clock, waiting, ends } = world();
  clock.advance(6000);
  expect(waiting.count).toBe(1);
  clock.advance(400);
  expect([waiting.count, ends.map(({ reason }) => reason)]).toEqual([0, ["NOT_LEADER"]]);
});

test("who says too much is ended; who goes is forgotten", () => {
  const { waiting, line, ends } = world();
  for (let n = 1; n < 1000; n++) line.message(renew(n));
  expect(ends).toEqual([]);
  for (let n = 0; n < 100; n++) line.message(released);
  expect([waiting.count, ends.map(({ reason }) => reason)]).toEqual([0, ["OVERLOADED"]]);
  const other = waiting.add(
    identity,
    () => {},
    () => {},
  );
  other.lost();
  expect(waiting.count).toBe(0);
});
