/** One connection to the store: deadlines for each command, reconnecting with pauses, and a count of the bytes under way. */
import net from "node:net";
import { CONNECT_TIMEOUT_MS, type WorkerSettings } from "./remote_protocol.js";
import { type PagePlace, ReplyDiverter } from "./reply_diverter.js";

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

const MOST_IN_FLIGHT_BYTES = 2.5 * 2 ** 20;
const FIRST_PAUSE_MS = 20;
const LONGEST_PAUSE_MS = 1000;

/** Socket option that names the diverter of a connection's replies. */
const DIVERTER = Symbol("diverter");
type SocketOptions = net.NetConnectOpts & { [DIVERTER]?: ReplyDiverter };

/**
 * Gives sockets with a diverter memory of its own to read into. The client offers no such option: it makes its sockets by
 * `net.createConnection`, which is replaced in this thread alone. A client that makes them in another way, or with TLS, gets every reply
 * itself, and its pages are copied.
 */
export function divertReplies(): void {
  const original = net.createConnection.bind(net) as (options: SocketOptions) => net.Socket;
  const createConnection = (options: SocketOptions): net.Socket => {
    const diverter = options[DIVERTER];
    if (diverter === undefined) return original(options);
    const take = (count: number, memory: Uint8Array): boolean => {
      const seen = diverter.read(count, memory);
      return seen === undefined || socket.push(seen);
    };
    const socket = original({ ...options, onread: { buffer: () => diverter.buffer(), callback: take } } as SocketOptions);
    return socket;
  };
  Object.assign(net, { createConnection });
}

export class Connection {
  readonly #package: ClientPackage;
  readonly #settings: WorkerSettings;
  readonly #asBuffers: object;
  readonly #target: Uint8Array | undefined;
  #client: Client | undefined;
  #diverter: ReplyDiverter | undefined;
  #isUp = false;
  #connecting: Promise<void> | undefined;
  #retry: NodeJS.Timeout | undefined;
  #attempts = 0;
  #lastError: Error = new Error("it was not connected yet");
  #bytesInFlight = 0;

  /** @param target memory that pages are received into; absent: the connection gets none */
  constructor(packaged: ClientPackage, settings: WorkerSettings, target?: Uint8Array) {
    this.#package = packaged;
    this.#settings = settings;
    this.#asBuffers = { typeMapping: { [packaged.RESP_TYPES.BLOB_STRING]: Buffer } };
    this.#target = target;
  }

  get isUp(): boolean {
    return this.#isUp;
  }

  get bytesInFlight(): number {
    return this.#bytesInFlight;
  }

  /**
   * Whether a transfer of so many bytes is to be sent now. Two small ones keep the line busy; more would have the server build replies in
   * memory long before it can send them.
   */
  hasRoomFor(bytes: number): boolean {
    return this.#bytesInFlight === 0 || this.#bytesInFlight + bytes <= MOST_IN_FLIGHT_BYTES;
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
   * Sends a command and resolves with its reply: a page that was received into its place is the number of its bytes, another bulk string
   * a Buffer. A reply that does not come in time breaks the connection, for those behind it would come late as well. Memory of `args` and
   * of the place is not touched any more once the promise is settled.
   */
  async send(args: readonly (string | Buffer)[], bytes = 0, place?: PagePlace): Promise<unknown> {
    const client = this.#client;
    if (!this.#isUp || client === undefined) throw this.#lastError;
    this.#bytesInFlight += bytes;
    const timer = setTimeout(() => this.#drop(client, this.#late()), this.#settings.timeoutMs);
    this.#diverter?.expect(place);
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
    return new Error(`no reply within ${this.#settings.timeoutMs} ms`);
  }

  /** A client that neither queues commands while it is not connected, nor reconnects by itself, nor limits their time. */
  #create(): Client {
    const { url, timeoutMs } = this.#settings;
    const connectTimeout = Math.min(timeoutMs, CONNECT_TIMEOUT_MS);
    this.#diverter = this.#target === undefined ? undefined : new ReplyDiverter(this.#target);
    return this.#package.createClient({
      url,
      socket: { connectTimeout, reconnectStrategy: false, [DIVERTER]: this.#diverter },
      disableOfflineQueue: true,
      RESP: 2,
      maintNotifications: "disabled",
      commandOptions: { timeout: undefined },
    });
  }

  async #open(): Promise<void> {
    clearTimeout(this.#retry);
    const client = this.#create();
    this.#client = client;
    client.on("error", (error) => this.#drop(client, error));
    // Also bounds a server that accepts and says nothing.
    const timer = setTimeout(() => this.#drop(client, this.#late()), this.#settings.timeoutMs);
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
