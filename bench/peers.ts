/** Peers timed in the same run: PyTorch SDPA through bench/peers/torch_sdpa.py wherever python3 with torch exists. */
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import type { AttentionShape } from "./results.js";

export interface PeerShape extends AttentionShape {
  id: string;
  device: "cuda" | "cpu";
  dtype: string;
  causal: boolean;
  /** Sets of inputs that the calls go through, and calls a graph; by default what exceeds the caches. */
  sets?: number;
  nodes?: number;
}

export type PeerTimes = Map<string, Record<string, number>>;

function scriptPath(): string {
  const here = dirname(fileURLToPath(import.meta.url));
  const beside = join(here, "peers", "torch_sdpa.py");
  return existsSync(beside) ? beside : join(here, "..", "..", "bench", "peers", "torch_sdpa.py");
}

/** Median microseconds per shape id and peer; empty, with a line on stderr, where there is no PyTorch. */
export async function timePeers(shapes: readonly PeerShape[]): Promise<PeerTimes> {
  const child = spawn("python3", [scriptPath()], { stdio: ["pipe", "pipe", "pipe"] });
  let out = "";
  let err = "";
  child.stdout.on("data", (chunk) => {
    out += chunk;
  });
  child.stderr.on("data", (chunk) => {
    err += chunk;
  });
  child.stdin.on("error", () => {}); // a python without torch may exit before it has read its input
  child.stdin.end(JSON.stringify(shapes));
  const code = await new Promise<number | null>((resolve) => {
    child.on("error", () => resolve(null));
    child.on("close", resolve);
  });
  // One line a shape: those that came before a crash count.
  const rows = out
    .split("\n")
    .filter((line) => line.endsWith("}"))
    .map((line) => JSON.parse(line) as { id: string; peers: Record<string, number>; errors: Record<string, string> });
  if (code !== 0) {
    const why = err.trim().split("\n").at(-1) || "python3 not found";
    process.stderr.write(`peers: ${rows.length} of ${shapes.length} shapes (${why})\n`);
  }
  for (const row of rows) {
    for (const [name, text] of Object.entries(row.errors))
      process.stderr.write(`peers: ${row.id} ${name}: ${text.split("\n")[0]}\n`);
  }
  return new Map(rows.map((row) => [row.id, row.peers]));
}
