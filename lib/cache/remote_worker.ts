/**
 * The thread of the remote tier's client. Everything that touches page bytes between the socket and the staging buffer happens here, so
 * that no other JavaScript thread waits for it. Only this file knows the client package, node-redis.
 */
import { parentPort, workerData } from "node:worker_threads";
import { type ClientPackage, Connection, divertReplies } from "./remote_connection.js";
import {
  type KeysRequest,
  type Numbered,
  type Reply,
  type Request,
  type TransferRequest,
  VALUE_FAILED,
  VALUE_MISSING,
  VALUE_REFUSED,
  type WorkerSettings,
} from "./remote_protocol.js";

/** Keys of one EXISTS or UNLINK. */
const KEYS_A_COMMAND = 128;

/** One value of a request. */
interface Transfer {
  type: "set" | "get";
  key: string;
  offset: number;
  bytes: number;
  done: (result: number | Error) => void;
  /** The client handed the value out itself, since replies are not diverted. */
  isCopied?: boolean;
}

const settings = workerData as WorkerSettings;
const port = parentPort as NonNullable<typeof parentPort>;
const staging = Buffer.from(settings.staging);
const expiry = settings.ttlSeconds > 0 ? ["EX", String(settings.ttlSeconds)] : [];

/** Transfers that wait for a connection, first come, first served. */
const waiting: Transfer[] = [];

/** Replies of one turn of the event loop go out as one message. */
let outbox: Numbered<Reply>[] = [];
function answer(id: number, reply: Reply): void {
  if (outbox.length === 0) {
    setImmediate(() => {
      port.postMessage(outbox);
      outbox = [];
    });
  }
  outbox.push({ ...reply, id });
}

/** The first of several errors, or what was thrown. */
function errorOf(thrown: unknown): Error {
  if (thrown instanceof AggregateError) return errorOf(thrown.errors[0]);
  return thrown instanceof Error ? thrown : new Error(String(thrown));
}

/** Bytes of the value, or what became of it. */
async function transfer(connection: Connection, one: Transfer): Promise<number> {
  const { type, key, offset, bytes } = one;
  if (type === "set") {
    await connection.send(["SET", key, staging.subarray(offset, offset + bytes), ...expiry], bytes);
    return bytes;
  }
  const command = expiry.length > 0 ? ["GETEX", key, ...expiry] : ["GET", key];
  const value = await connection.send(command, bytes, { offset, bytes }).catch((error: Error) => {
    if (error.message.startsWith("WRONGTYPE")) return 0; // a list, or the like: no page has so few bytes
    throw error;
  });
  if (value === null) return VALUE_MISSING;
  if (typeof value === "number") return value;
  if (!Buffer.isBuffer(value)) throw new Error(`the reply to GET is a ${typeof value}`);
  value.copy(staging, offset, 0, Math.min(value.length, bytes));
  one.isCopied = true;
  return value.length;
}

/** Sends what waits, for as long as connections have room. */
function sendWaiting(pages: readonly Connection[]): void {
  for (let first = waiting[0]; first !== undefined; first = waiting[0]) {
    const { bytes, done } = first;
    const up = pages.filter((connection) => connection.isUp);
    const candidates = up.length > 0 ? up : pages;
    const least = candidates.reduce((one, other) => (other.bytesInFlight < one.bytesInFlight ? other : one));
    if (least.isUp && !least.hasRoomFor(bytes)) return;
    waiting.shift();
    transfer(least, first)
      .catch(errorOf)
      .then((result) => {
        done(result);
        sendWaiting(pages);
      });
  }
}

async function transferAll(pages: readonly Connection[], { type, keys, offsets, bytes }: TransferRequest): Promise<Reply> {
  const transfers: Transfer[] = [];
  const results = keys.map((key, i) => {
    return new Promise<number | Error>((done) => transfers.push({ type, key, offset: offsets[i] as number, bytes, done }));
  });
  waiting.push(...transfers);
  sendWaiting(pages);
  const reply: Reply = {};
  const values: number[] = [];
  for (const result of await Promise.all(results)) {
    if (typeof result === "number") values.push(result);
    else if (/^OOM\b/.test(result.message)) values.push(VALUE_REFUSED);
    else {
      values.push(VALUE_FAILED);
      reply.failure ??= result.message;
    }
  }
  return { ...reply, values, copied: transfers.filter(({ isCopied }) => isCopied).length };
}

const chunks = (keys: readonly string[]): string[][] =>
  Array.from({ length: Math.ceil(keys.length / KEYS_A_COMMAND) }, (_, i) =>
    keys.slice(i * KEYS_A_COMMAND, (i + 1) * KEYS_A_COMMAND),
  );

/** A chunk that is there as a whole, or not at all, is told so by one command; prefixes have one chunk that is neither. */
async function existing(control: Connection, keys: readonly string[]): Promise<number[]> {
  if (expiry.length > 0) {
    const replies = await Promise.all(keys.map((key) => control.send(["EXPIRE", key, String(settings.ttlSeconds)])));
    return replies.map(Number);
  }
  const found = await Promise.all(
    chunks(keys).map(async (some) => {
      const count = Number(await control.send(["EXISTS", ...some]));
      if (count === 0 || count === some.length) return some.map(() => (count > 0 ? 1 : 0));
      return (await Promise.all(some.map((key) => control.send(["EXISTS", key])))).map(Number);
    }),
  );
  return found.flat();
}

async function askForKeys(control: Connection, { type, keys }: KeysRequest): Promise<Reply> {
  if (type === "exists") return { found: Uint8Array.from(await existing(control, keys)) };
  const counts = await Promise.all(chunks(keys).map((some) => control.send(["UNLINK", ...some])));
  return { count: counts.reduce<number>((sum, count) => sum + Number(count), 0) };
}

async function ping(control: Connection, pages: readonly Connection[]): Promise<Reply> {
  await Promise.all([control.connect(), Promise.any(pages.map((connection) => connection.connect()))]);
  await control.send(["PING"]);
  return {};
}

function serve(control: Connection, pages: readonly Connection[], request: Request): Promise<Reply> {
  switch (request.type) {
    case "set":
    case "get":
      return transferAll(pages, request);
    case "exists":
    case "delete":
      return askForKeys(control, request);
    case "ping":
      return ping(control, pages);
  }
}

async function start(): Promise<void> {
  let packaged: ClientPackage;
  try {
    packaged = (await import(settings.client)) as ClientPackage;
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    port.postMessage({ failure: message.split("\n")[0], isMissing: code === "ERR_MODULE_NOT_FOUND" });
    return;
  }
  divertReplies();
  // Small questions do not queue behind pages.
  const control = new Connection(packaged, settings);
  const pages = Array.from({ length: settings.connections }, () => new Connection(packaged, settings, staging));
  port.on("message", (requests: Numbered<Request>[]) => {
    for (const request of requests) {
      serve(control, pages, request)
        .catch((thrown) => ({ failure: errorOf(thrown).message }))
        .then((reply) => answer(request.id, reply));
    }
  });
  port.postMessage({});
}

void start();
