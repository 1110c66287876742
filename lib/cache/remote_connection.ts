/** One connection to the store: deadlines for each command, reconnecting with pauses, and a count of the bytes under way. */
import { CONNECT_TIMEOUT_MS, type WorkerSettings } from "./remote_protocol.js";

/** What is used of node-redis; it need not be installed for the types to hold. */
export interface Client {
  connect(): Promise<unknown>;
  destroy(): void;
  sendCommand(args: readonly (string | Buffer)[], options: object): Promise<unknown>;
  on(event: "error", listener: (error: Error) => void): unknown;
}

export interface ClientPackage {
  createClient(options: object): Client;
  RESP_TYPES: { BLOB_STRING: number };
}

const FIRST_PAUSE_MS = 20;
const LONGEST_PAUSE_MS = 1000;

export class Connection {
  readonly #create: () => Client;
  readonly #asBuffers: object;
  readonly #timeoutMs: number;
  #client: Client | undefined;
  #isUp = false;
  #connecting: Promise<void> | undefined;
  #retry: NodeJS.Timeout | undefined;
  #attempts = 0;
  #lastError: Error = new Error("it was not connected yet");
  #bytesInFlight = 0;

  constructor(create: () => Client, { RESP_TYPES }: ClientPackage, timeoutMs: number) {
    this.#create = create;
    this.#asBuffers = { typeMapping: { [RESP_TYPES.BLOB_STRING]: Buffer } };
    this.#timeoutMs = timeoutMs;
  }

  /** A client that neither queues commands while it is not connected nor reconnects by itself. */
  static client(packaged: ClientPackage, { url, timeoutMs }: WorkerSettings): Client {
    const socket = { connectTimeout: Math.min(timeoutMs, CONNECT_TIMEOUT_MS), reconnectStrategy: false };
    return packaged.createClient({ url, socket, disableOfflineQueue: true, RESP: 2, commandOptions: { timeout: undefined } });
  }

  get isUp(): boolean {
    return this.#isUp;
  }

  get bytesInFlight(): number {
    return this.#bytesInFlight;
  }

  /** Resolves when it is up; rejects with why it cannot be. */
  connect(): Promise<void> {
    if (this.#isUp) return Promise.resolve();
    this.#connecting ??= this.#open().finally(() => {
      this.#connecting = undefined;
    });
    return this.#connecting;
  }

  /**
   * Sends a command and resolves with its reply, bulk strings as Buffers. A reply that does not come in time breaks the connection, for
   * those behind it would come late as well. Memory of `args` is not read any more once the promise is settled.
   */
  async send(args: readonly (string | Buffer)[], bytes: number): Promise<unknown> {
    const client = this.#client;
    if (!this.#isUp || client === undefined) throw this.#lastError;
    this.#bytesInFlight += bytes;
    const timer = setTimeout(() => this.#drop(client, this.#late()), this.#timeoutMs);
    try {
      return await client.sendCommand(args, this.#asBuffers);
    } catch (error) {
      throw client === this.#client && this.#isUp ? error : this.#lastError;
    } finally {
      clearTimeout(timer);
      this.#bytesInFlight -= bytes;
    }
  }

  #late(): Error {
    return new Error(`no reply within ${this.#timeoutMs} ms`);
  }

  async #open(): Promise<void> {
    clearTimeout(this.#retry);
    const client = this.#create();
    this.#client = client;
    client.on("error", (error) => this.#drop(client, error));
    // Also bounds a server that accepts and says nothing.
    const timer = setTimeout(() => this.#drop(client, this.#late()), this.#timeoutMs);
    try {
      await client.connect();
    } catch (error) {
      this.#drop(client, error as Error);
      throw this.#lastError;
    } finally {
      clearTimeout(timer);
    }
    if (client !== this.#client) throw this.#lastError;
    this.#isUp = true;
    this.#attempts = 0;
  }

  /** Gives a client up and plans the next attempt. */
  #drop(client: Client, error: Error): void {
    if (client !== this.#client) return;
    this.#client = undefined;
    this.#isUp = false;
    this.#lastError = error;
    client.destroy();
    const pause = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** Math.min(this.#attempts++, 10));
    this.#retry = setTimeout(() => this.connect().catch(() => undefined), pause * (0.5 + Math.random() / 2));
  }
}
