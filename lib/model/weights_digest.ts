/**
 * Tells checkpoints apart without reading all of them: SHA-256 over the config, and over each weight file's size, header and evenly spread
 * samples. Pages in stores that outlive the process are kept under it.
 */
import { createHash, type Hash } from "node:crypto";
import { type FileHandle, open } from "node:fs/promises";
import { basename } from "node:path";
import type { Checkpoint } from "./safetensors.js";

const headBytes = 1 << 20;
const samples = 256;
const sampleBytes = 4096;

/** 32 hex digits. */
export async function weightsDigest(config: unknown, checkpoint: Checkpoint): Promise<string> {
  const hash = createHash("sha256");
  const files = new Set(checkpoint.names.map((name) => checkpoint.entry(name).file));
  add(hash, Buffer.from(JSON.stringify(config)));
  for (const path of [...files].sort()) {
    const file = await open(path);
    try {
      const { size } = await file.stat();
      add(hash, Buffer.from(`${basename(path)} ${size}`));
      await addRange(hash, file, 0, Math.min(headBytes, size));
      const step = Math.max(sampleBytes, Math.floor(size / samples));
      for (let at = headBytes; at < size; at += step) await addRange(hash, file, at, Math.min(sampleBytes, size - at));
    } finally {
      await file.close();
    }
  }
  return hash.digest("hex").slice(0, 32);
}

async function addRange(hash: Hash, file: FileHandle, at: number, bytes: number): Promise<void> {
  const { buffer, bytesRead } = await file.read(Buffer.alloc(bytes), 0, bytes, at);
  add(hash, buffer.subarray(0, bytesRead));
}

/** With its length before it, so that no two lists of parts look alike. */
function add(hash: Hash, bytes: Buffer): void {
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(bytes.length));
  hash.update(length).update(bytes);
}
