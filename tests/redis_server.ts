/** A real redis-server on a free port of loopback, for one test file. Without the program its tests are skipped, or fail where required. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { createClient, RESP_TYPES } from "redis";
import { describe, test } from "vitest";
import { isRequired } from "./device.js";

/** Why there is no server here; undefined where there is one. */
function unusable(): string | undefined {
  const { status, error } = spawnSync("redis-server", ["--version"], { encoding: "utf8" });
  if (status === 0) return undefined;
  return `redis-server does not run (${error?.message ?? `status ${status}`}); install Debian's redis-server`;
}

/** Declares the suite where redis-server is installed; elsewhere a skipped test, or a failing one with KVASIR_REQUIRE=redis. */
export function onRedis(name: string, suite: () => void): void {
  const reason = unusable();
  if (reason === undefined) describe(name, suite);
  else if (isRequired("redis")) {
    test(name, () => {
      throw new Error(`redis is required: ${reason}`);
    });
  } else test.skip(`${name}: ${reason}`, () => undefined);
}

async function listen(server: Server): Promise<number> {
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return (server.address() as { port: number }).port;
}

export async function freePort(): Promise<number> {
  const server = createServer();
  const port = await listen(server);
  server.close();
  await once(server, "close");
  return port;
}

export class RedisServer {
  readonly port: number;
  readonly #folder: string;
  readonly #options: readonly string[];
  #process: ChildProcess | undefined;

  private constructor(port: number, options: readonly string[]) {
    this.port = port;
    this.#options = options;
    this.#folder = mkdtempSync(join(tmpdir(), "kvasir-redis-"));
  }

  /** @param options of the command line, such as `--maxmemory 8mb` */
  static async start(options: readonly string[] = []): Promise<RedisServer> {
    const server = new RedisServer(await freePort(), options);
    await server.start();
    return server;
  }

  get url(): string {
    return `redis://127.0.0.1:${this.port}`;
  }

  /** Starts it, again after `kill`, and returns when it answers. */
  async start(): Promise<void> {
    const args = ["--port", String(this.port), "--bind", "127.0.0.1", "--dir", this.#folder, "--save", "", "--appendonly", "no"];
    this.#process = spawn("redis-server", [...args, ...this.#options], { stdio: "ignore" });
    for (let attempt = 0; ; attempt++) {
      if (await this.#answers()) return;
      if (attempt > 200 || this.#process.exitCode !== null) throw new Error(`redis-server does not answer on port ${this.port}`);
      await sleep(25);
    }
  }

  /** Ends it at once, as a crash would; what it held is lost. */
  async kill(): Promise<void> {
    const child = this.#process;
    this.#process = undefined;
    if (child === undefined || child.exitCode !== null) return;
    child.kill("SIGKILL");
    await once(child, "exit");
  }

  async stop(): Promise<void> {
    await this.kill();
    rmSync(this.#folder, { recursive: true, force: true });
  }

  /** One command over a connection of its own; bulk strings come as Buffers. */
  async command(...args: (string | Buffer)[]): Promise<unknown> {
    const client = createClient({ url: this.url, RESP: 2 });
    client.on("error", () => undefined); // the command below rejects
    await client.connect();
    try {
      return await client.sendCommand(args, { typeMapping: { [RESP_TYPES.BLOB_STRING]: Buffer } });
    } finally {
      client.destroy();
    }
  }

  async #answers(): Promise<boolean> {
    const socket = connect(this.port, "127.0.0.1");
    try {
      await once(socket, "connect");
      socket.write("PING\r\n");
      const [reply] = (await once(socket, "data")) as [Buffer];
      return /^(\+PONG|-NOAUTH)/.test(reply.toString());
    } catch {
      return false; // not yet
    } finally {
      socket.destroy();
    }
  }
}

/** Passes bytes to a server and back, until it is told to hold the replies or to break every connection. */
export class ReplyGate {
  readonly port: number;
  readonly #server: Server;
  readonly #pairs: Set<[Socket, Socket]> = new Set();
  #holds = false;

  private constructor(port: number, server: Server, target: number) {
    this.port = port;
    this.#server = server;
    server.on("connection", (near) => {
      const far = connect(target, "127.0.0.1");
      const pair: [Socket, Socket] = [near, far];
      this.#pairs.add(pair);
      near.pipe(far);
      if (!this.#holds) far.pipe(near);
      for (const socket of pair) {
        socket.on("error", () => undefined); // its close follows
        socket.on("close", () => {
          this.#pairs.delete(pair);
          near.destroy();
          far.destroy();
        });
      }
    });
  }

  static async start(target: number): Promise<ReplyGate> {
    const server = createServer();
    return new ReplyGate(await listen(server), server, target);
  }

  get url(): string {
    return `redis://127.0.0.1:${this.port}`;
  }

  get connections(): number {
    return this.#pairs.size;
  }

  /** Whether replies stay here instead of going on. */
  hold(holds: boolean): void {
    if (this.#holds === holds) return;
    this.#holds = holds;
    for (const [near, far] of this.#pairs) {
      if (holds) far.unpipe(near);
      else far.pipe(near);
    }
  }

  breakAll(): void {
    for (const [near] of this.#pairs) near.resetAndDestroy();
  }

  stop(): void {
    this.#server.close();
    for (const [near] of this.#pairs) near.destroy();
  }
}
