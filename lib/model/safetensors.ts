/**
 * Reads safetensors headers: 8 bytes of header length, a JSON header, then tensor bytes. Nothing in a header is trusted: lengths, shapes
 * and offsets are checked against each other and against the file. Tensor bytes never pass through JavaScript; `entry` says where they are.
 */
import { type FileHandle, open } from "node:fs/promises";
import { join } from "node:path";
import type { DType } from "../dtype.js";
import { KvasirError } from "../errors.js";
import { parseJson } from "./config.js";

/** Where a tensor's bytes are. */
export interface TensorEntry {
  readonly file: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  /** From the start of the file. */
  readonly offset: number;
  readonly bytes: number;
}

/** The format's own limit. */
const maxHeaderBytes = 100_000_000;
const maxRank = 8;
const elementBytes: Readonly<Record<string, number>> = {
  F64: 8,
  I64: 8,
  U64: 8,
  F32: 4,
  I32: 4,
  U32: 4,
  F16: 2,
  BF16: 2,
  I16: 2,
  U16: 2,
  F8_E4M3: 1,
  F8_E5M2: 1,
  I8: 1,
  U8: 1,
  BOOL: 1,
};
const dtypeOf: Readonly<Record<string, DType>> = {
  F32: "f32",
  F16: "f16",
  BF16: "bf16",
  F8_E4M3: "f8e4m3",
  F8_E5M2: "f8e5m2",
  I32: "i32",
  I8: "i8",
  U8: "u8",
};

/** The tensors of one file or of a sharded checkpoint. */
export class Checkpoint {
  readonly #where: string;
  readonly #entries: ReadonlyMap<string, TensorEntry>;

  constructor(where: string, entries: ReadonlyMap<string, TensorEntry>) {
    this.#where = where;
    this.#entries = entries;
  }

  get names(): string[] {
    return [...this.#entries.keys()];
  }

  has(name: string): boolean {
    return this.#entries.has(name);
  }

  /** @throws ERR_KVASIR_MISSING_TENSOR */
  entry(name: string): TensorEntry {
    const entry = this.#entries.get(name);
    if (entry === undefined) throw new KvasirError("ERR_KVASIR_MISSING_TENSOR", `${this.#where} has no tensor ${name}`);
    return entry;
  }

  /** @throws ERR_KVASIR_DTYPE for a dtype that no tensor of ours has. */
  dtype(name: string): DType {
    const { dtype, file } = this.entry(name);
    const known = dtypeOf[dtype];
    if (known === undefined)
      throw new KvasirError(
        "ERR_KVASIR_DTYPE",
        `${file}: tensor ${name} is ${dtype}, expected ${Object.keys(dtypeOf).join(", ")}`,
      );
    return known;
  }
}

/** Opens model.safetensors.index.json with its shards, or model.safetensors. @throws ERR_KVASIR_CORRUPT_FILE, ERR_KVASIR_MISSING_TENSOR */
export async function openCheckpoint(directory: string): Promise<Checkpoint> {
  const indexPath = join(directory, "model.safetensors.index.json");
  const index = await readText(indexPath);
  if (index === undefined) return openSafetensors(join(directory, "model.safetensors"));
  const map = parseJson(indexPath, index).weight_map;
  if (typeof map !== "object" || map === null) throw corrupt(indexPath, "weight_map is missing");
  const shards = new Map<string, Map<string, TensorEntry>>();
  const entries = new Map<string, TensorEntry>();
  for (const [name, shard] of Object.entries(map)) {
    if (typeof shard !== "string" || /[\\/]/.test(shard))
      throw corrupt(indexPath, `tensor ${name} is in ${JSON.stringify(shard)}, expected a file name`);
    let held = shards.get(shard);
    if (held === undefined) {
      held = await readHeader(join(directory, shard));
      shards.set(shard, held);
    }
    const entry = held.get(name);
    if (entry === undefined)
      throw new KvasirError(
        "ERR_KVASIR_MISSING_TENSOR",
        `${join(directory, shard)} has no tensor ${name}, which ${indexPath} says it has`,
      );
    entries.set(name, entry);
  }
  return new Checkpoint(indexPath, entries);
}

/** Opens one file. @throws ERR_KVASIR_CORRUPT_FILE */
export async function openSafetensors(path: string): Promise<Checkpoint> {
  return new Checkpoint(path, await readHeader(path));
}

async function readText(path: string): Promise<string | undefined> {
  let file: FileHandle;
  try {
    file = await open(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw new KvasirError("ERR_KVASIR_CORRUPT_FILE", `${path} cannot be read`, { cause: error });
  }
  try {
    return await file.readFile("utf8");
  } finally {
    await file.close();
  }
}

async function readHeader(path: string): Promise<Map<string, TensorEntry>> {
  let file: FileHandle;
  try {
    file = await open(path);
  } catch (error) {
    throw new KvasirError("ERR_KVASIR_CORRUPT_FILE", `${path} cannot be opened`, { cause: error });
  }
  try {
    const { size } = await file.stat();
    if (size < 8) throw corrupt(path, `it has ${size} bytes, fewer than the 8 of a header length`);
    const lengthBytes = Buffer.alloc(8);
    await file.read(lengthBytes, 0, 8, 0);
    const length = lengthBytes.readBigUInt64LE();
    if (length > BigInt(maxHeaderBytes))
      throw corrupt(path, `its header claims ${length} bytes, more than the limit of ${maxHeaderBytes}`);
    const headerBytes = Number(length);
    if (8 + headerBytes > size)
      throw corrupt(path, `its header claims ${headerBytes} bytes but only ${size - 8} follow: the file is truncated`);
    const header = Buffer.alloc(headerBytes);
    await file.read(header, 0, headerBytes, 8);
    return checkEntries(path, parseJson(path, header.toString("utf8")), 8 + headerBytes, size);
  } finally {
    await file.close();
  }
}

/** Every entry's bytes must match its shape, and together they must fill the rest of the file without gap or overlap. */
function checkEntries(path: string, header: Record<string, unknown>, dataStart: number, size: number): Map<string, TensorEntry> {
  const entries = new Map<string, TensorEntry>();
  for (const [name, value] of Object.entries(header)) {
    if (name !== "__metadata__") entries.set(name, checkEntry(path, name, value, dataStart));
  }
  let end = dataStart;
  let last = "the header";
  for (const [name, entry] of [...entries].sort(([, a], [, b]) => a.offset - b.offset || a.bytes - b.bytes)) {
    if (entry.offset < end) throw corrupt(path, `tensor ${name} overlaps ${last}`);
    if (entry.offset > end) throw corrupt(path, `${entry.offset - end} bytes before tensor ${name} belong to no tensor`);
    end = entry.offset + entry.bytes;
    if (end > size) throw corrupt(path, `tensor ${name} ends at byte ${end} but the file has ${size}: it is truncated`);
    last = `tensor ${name}`;
  }
  if (end < size) throw corrupt(path, `${size - end} bytes after ${last} belong to no tensor`);
  return entries;
}

function checkEntry(path: string, name: string, value: unknown, dataStart: number): TensorEntry {
  const {
    dtype,
    shape,
    data_offsets: offsets,
  } = (typeof value === "object" && value !== null ? value : {}) as Record<string, unknown>;
  const width = typeof dtype === "string" ? elementBytes[dtype] : undefined;
  if (typeof dtype !== "string" || width === undefined)
    throw corrupt(path, `tensor ${name} has unknown dtype ${JSON.stringify(dtype)}`);
  if (!isSizes(shape) || shape.length > maxRank)
    throw corrupt(path, `tensor ${name} has shape ${JSON.stringify(shape)}, expected up to ${maxRank} sizes`);
  if (!isSizes(offsets) || offsets.length !== 2)
    throw corrupt(path, `tensor ${name} has data_offsets ${JSON.stringify(offsets)}, expected two byte offsets`);
  const [from, to] = offsets as [number, number];
  const bytes = shape.reduce((product, size) => product * size, width);
  if (!Number.isSafeInteger(bytes) || to - from !== bytes) {
    throw corrupt(path, `tensor ${name} spans ${to - from} bytes, but ${dtype} ${JSON.stringify(shape)} takes ${bytes}`);
  }
  return { file: path, dtype, shape, offset: dataStart + from, bytes };
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((size) => Number.isSafeInteger(size) && (size as number) >= 0);
}

function corrupt(path: string, what: string): KvasirError {
  return new KvasirError("ERR_KVASIR_CORRUPT_FILE", `${path}: ${what}`);
}
