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

/** Values out of the staging buffer into the store, or the other way round. */
export interface TransferRequest {
  type: "set" | "get";
  /** Of each value; a longer one that arrives is cut. */
  bytes: number;
  keys: readonly string[];
  /** Of each key's value in the buffer. */
  offsets: readonly number[];
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

/** What became of a value, where that is not the number of its bytes in the store. */
export const VALUE_MISSING = -1;
/** The server has no room for it. */
export const VALUE_REFUSED = -2;
export const VALUE_FAILED = -3;

export interface Reply {
  /** Why the request failed, or some of its values. */
  failure?: string;
  /** Of a transfer: for each key the value's bytes, or what became of it. */
  values?: readonly number[];
  /** Of a transfer: values that went through the client's own memory. */
  copied?: number;
  /** Of `exists`: a flag for each key. */
  found?: Uint8Array;
  /** Of `delete`: how many there were. */
  count?: number;
}

/** First message of the client thread: it is ready, or cannot be. */
export interface Greeting {
  /** Why the client package does not load. */
  failure?: string;
  /** Whether that is because it is not installed. */
  isMissing?: boolean;
}

/** Longest time that a connection may take to come about. */
export const CONNECT_TIMEOUT_MS = 2000;
