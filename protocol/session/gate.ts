/** Who may stop a stream's frames from leaving: asked for each at the moment when it is laid into the next write. */
export interface Gate {
  /** Reads the clock anew. Once false it stays so. Does not throw. */
  readonly isOpen: boolean;
}
