/** What the cache's thread and the thread of the remote tier's client tell each other. Pages pass through the staging buffer instead. */

/** What the client thread is started with. */
export interface WorkerSettings {
  url: string;
  /** npm package of the client. */
  client: string;
  connections: number;
  timeoutMs: number;
  /** Seconds after a page's last use at which the server drops it; 0: never. */
  ttlSeconds: number;
  staging: SharedArrayBuffer;
}

/** A value out of the staging buffer into the store, or the other way round. */
export interface TransferRequest {
  type: "set" | "get";
  key: string;
  offset: number;
  /** Of the value; a longer one that arrives is cut. */
  bytes: number;
}

/** `exists` refreshes the time to live of what is there, as a use does. */
export interface KeysRequest {
  type: "exists" | "delete";
  keys: readonly string[];
}

/** Connects what is not connected, and asks the server whether it lives. */
export interface PingRequest {
  type: "ping";
}

export type Request = TransferRequest | KeysRequest | PingRequest;

/** Requests carry a number, which the reply repeats. */
export type Numbered<T> = T & { id: number };

export type Reply =
  /** `bytes`: length of the value in the store. `found`: a flag for each key. `count`: keys deleted. */
  | { status: "ok"; bytes?: number; found?: Uint8Array; count?: number }
  | { status: "missing" }
  /** The server has no room. */
  | { status: "refused" }
  | { status: "failed"; reason: string };

/** First message of the client thread: it is ready, or cannot be. */
export interface Greeting {
  /** Why the client package does not load. */
  failure?: string;
  /** Whether that is because it is not installed. */
  isMissing?: boolean;
}

/** Longest time that a connection may take to come about. */
export const CONNECT_TIMEOUT_MS = 2000;
