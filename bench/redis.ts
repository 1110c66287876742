/** A redis-server for a suite, and redis-benchmark beside it. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

export interface RedisTarget {
  url: string;
  stop(): Promise<void>;
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, "close");
  return port;
}

async function accepts(port: number): Promise<boolean> {
  const socket = connect(port, "127.0.0.1");
  try {
    await once(socket, "connect");
    return true;
  } catch {
    return false; // not yet
  } finally {
    socket.destroy();
  }
}

/** Starts a server without persistence on a free port of loopback; throws where redis-server is not installed. */
export async function startRedis(): Promise<RedisTarget> {
  const port = await freePort();
  const folder = mkdtempSync(join(tmpdir(), "kvasir-bench-redis-"));
  const args = ["--port", String(port), "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--appendonly", "no"];
  const server: ChildProcess = spawn("redis-server", args, { stdio: "ignore" });
  const failed = once(server, "error").then(([error]) => {
    throw new Error(`redis-server does not start: ${(error as Error).message}; install it, or give --url`);
  });
  for (let attempt = 0; !(await Promise.race([accepts(port), failed])); attempt++) {
    if (attempt > 400) throw new Error(`redis-server does not answer on port ${port}`);
    await sleep(25);
  }
  const stop = async (): Promise<void> => {
    server.kill("SIGKILL");
    await once(server, "exit");
    rmSync(folder, { recursive: true, force: true });
  };
  return { url: `redis://127.0.0.1:${port}`, stop };
}

/** Requests a second of SET and GET with values of `bytes`, by redis-benchmark over so many connections. */
export async function redisBenchmark(
  url: string,
  bytes: number,
  connections: number,
  requests: number,
): Promise<{ set: number; get: number }> {
  const { hostname, port, password } = new URL(url);
  const args = ["-h", hostname, "-p", port || "6379", ...(password === "" ? [] : ["-a", decodeURIComponent(password)])];
  args.push("-t", "set,get", "-d", String(bytes), "-c", String(connections), "-n", String(requests), "--csv");
  const child = spawn("redis-benchmark", args, { stdio: ["ignore", "pipe", "inherit"] });
  let out = "";
  child.stdout.on("data", (text) => {
    out += text;
  });
  const [status] = await once(child, "close");
  const rate = (name: string): number => Number(new RegExp(`"${name}","([\\d.]+)"`).exec(out)?.[1]);
  const rates = { set: rate("SET"), get: rate("GET") };
  if (status !== 0 || Number.isNaN(rates.set + rates.get)) throw new Error(`redis-benchmark ended with ${status}: ${out}`);
  return rates;
}
