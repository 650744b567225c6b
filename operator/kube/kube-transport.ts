/** How a request gets to the API server: HTTP of the real one, or memory in tests. */

export interface KubeRequest {
  readonly method: "GET" | "POST" | "PUT" | "PATCH" | "DELETE";
  /** With the query. */
  readonly path: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string;
}

export interface KubeResponse {
  readonly status: number;
  /** The header of that name. */
  readonly retryAfter: string | undefined;
  /** The server's clock, of that header. */
  readonly date?: string | undefined;
  /** The body as it comes. Who does not read it to its end aborts the request. */
  readonly chunks: AsyncIterable<Uint8Array>;
}

export interface KubeTransport {
  /**
   * Resolves when the head of the answer is there. Rejects, or `chunks` does, when the connection fails or `signal`
   * is aborted; there is no time limit here.
   */
  send(request: KubeRequest, signal: AbortSignal): Promise<KubeResponse>;
  /** Ends idle connections. */
  close(): void;
}
