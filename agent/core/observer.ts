/** What a host may count. Called on the hot path: no allocation, no throw. */
export interface AgentObserver {
  /**
   * A call of an app here (or of a client outside) is over. `code` is OK or the error's code; for a method's error
   * UNKNOWN. `durationMs` is from its OPEN to its end.
   */
  callEnded(environment: string, service: string, code: string, durationMs: number): void;
  /** A channel's opening is over, as `callEnded`. */
  channelOpened(environment: string, service: string, code: string, durationMs: number): void;
  channelClosed(environment: string, service: string, code: string): void;
  /** A call goes to another instance, or to the same once more. */
  retried(reason: string): void;
  /** A call or channel that a peer sent to the app here is over. */
  served(code: string, durationMs: number): void;
}

export const silentObserver: AgentObserver = {
  callEnded() {},
  channelOpened() {},
  channelClosed() {},
  retried() {},
  served() {},
};
