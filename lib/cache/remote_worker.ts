/**
 * The thread of the remote tier's client. Everything that touches page bytes between the socket and the staging buffer happens here, so
 * that no other JavaScript thread waits for it. Only this file knows the client package, node-redis.
 */
import { parentPort, workerData } from "node:worker_threads";
import { type Client, type ClientPackage, Connection } from "./remote_connection.js";
import type { KeysRequest, Numbered, Reply, Request, TransferRequest, WorkerSettings } from "./remote_protocol.js";

/** Keys of one EXISTS or UNLINK. */
const KEYS_A_COMMAND = 128;

const settings = workerData as WorkerSettings;
const port = parentPort as NonNullable<typeof parentPort>;
const staging = Buffer.from(settings.staging);
const expiry = settings.ttlSeconds > 0 ? ["EX", String(settings.ttlSeconds)] : [];

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

/** An error that the server answered with, or a connection that broke. */
function failure(error: unknown): Reply {
  const reason = error instanceof Error ? error.message : String(error);
  return /^OOM\b/.test(reason) ? { status: "refused" } : { status: "failed", reason };
}

async function transfer(connection: Connection, { type, key, offset, bytes }: TransferRequest): Promise<Reply> {
  if (type === "set") {
    await connection.send(["SET", key, staging.subarray(offset, offset + bytes), ...expiry], bytes);
    return { status: "ok" };
  }
  const command = expiry.length > 0 ? ["GETEX", key, ...expiry] : ["GET", key];
  const value = await connection.send(command, bytes);
  if (value === null) return { status: "missing" };
  if (!Buffer.isBuffer(value)) return { status: "failed", reason: `the reply to GET is a ${typeof value}` };
  value.copy(staging, offset, 0, Math.min(value.length, bytes));
  return { status: "ok", bytes: value.length };
}

const chunks = (keys: readonly string[]): string[][] =>
  Array.from({ length: Math.ceil(keys.length / KEYS_A_COMMAND) }, (_, i) =>
    keys.slice(i * KEYS_A_COMMAND, (i + 1) * KEYS_A_COMMAND),
  );

/** A chunk that is there as a whole, or not at all, is told so by one command; prefixes have one chunk that is neither. */
async function existing(control: Connection, keys: readonly string[]): Promise<number[]> {
  if (expiry.length > 0) {
    const replies = await Promise.all(keys.map((key) => control.send(["EXPIRE", key, String(settings.ttlSeconds)], 0)));
    return replies.map(Number);
  }
  const found = await Promise.all(
    chunks(keys).map(async (some) => {
      const count = Number(await control.send(["EXISTS", ...some], 0));
      if (count === 0 || count === some.length) return some.map(() => (count > 0 ? 1 : 0));
      return (await Promise.all(some.map((key) => control.send(["EXISTS", key], 0)))).map(Number);
    }),
  );
  return found.flat();
}

async function askForKeys(control: Connection, { type, keys }: KeysRequest): Promise<Reply> {
  if (type === "exists") return { status: "ok", found: Uint8Array.from(await existing(control, keys)) };
  const counts = await Promise.all(chunks(keys).map((some) => control.send(["UNLINK", ...some], 0)));
  return { status: "ok", count: counts.reduce<number>((sum, count) => sum + Number(count), 0) };
}

async function serve(control: Connection, pages: readonly Connection[], request: Request): Promise<Reply> {
  if (request.type === "ping") {
    await Promise.all([control.connect(), Promise.any(pages.map((connection) => connection.connect()))]);
    await control.send(["PING"], 0);
    return { status: "ok" };
  }
  if ("keys" in request) return askForKeys(control, request);
  const up = pages.filter((connection) => connection.isUp);
  const candidates = up.length > 0 ? up : pages;
  return transfer(
    candidates.reduce((least, other) => (other.bytesInFlight < least.bytesInFlight ? other : least)),
    request,
  );
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
  const create = (): Client => Connection.client(packaged, settings);
  // Small questions do not queue behind pages.
  const control = new Connection(create, packaged, settings.timeoutMs);
  const pages = Array.from({ length: settings.connections }, () => new Connection(create, packaged, settings.timeoutMs));
  port.on("message", (requests: Numbered<Request>[]) => {
    for (const request of requests) {
      serve(control, pages, request).then(
        (reply) => answer(request.id, reply),
        (error: unknown) => answer(request.id, failure(error instanceof AggregateError ? error.errors[0] : error)),
      );
    }
  });
  port.postMessage({});
}

void start();
