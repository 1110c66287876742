/** What the model commands share: options, the bundled files, progress. */
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { type DeviceKind, KvasirError, type ModelOptions } from "../index.js";

/** Options of every command that runs a model, for `parseArgs`. */
export const modelFlags = {
  model: { type: "string" },
  device: { type: "string" },
  dtype: { type: "string" },
  json: { type: "boolean", default: false },
  help: { type: "boolean", short: "h", default: false },
} as const;

export const modelHelp = `  --model DIR      a Hugging Face checkpoint; default: the bundled model
  --device KIND    cpu, cuda or cuda:<index>; default: the best usable
  --dtype TYPE     f32, f16 or bf16; default: f32 on the CPU, bf16 on CUDA
  --json           print one JSON object
`;

/** The folder of the bundled model, found from where this file is. @throws ERR_KVASIR_MISSING_TENSOR */
export function bundledModel(): string {
  for (let folder = dirname(fileURLToPath(import.meta.url)); ; folder = dirname(folder)) {
    const model = join(folder, "examples", "model");
    if (existsSync(join(model, "config.json"))) return model;
    if (folder === dirname(folder)) break;
  }
  throw new KvasirError(
    "ERR_KVASIR_CORRUPT_FILE",
    "examples/model is not part of this installation; give a checkpoint with --model",
  );
}

export function deviceKind(value: string | undefined): DeviceKind | undefined {
  return value as DeviceKind | undefined; // openDevice judges it
}

export function dtypeOption(value: string | undefined): Pick<ModelOptions, "dtype"> {
  return value === undefined ? {} : { dtype: value as NonNullable<ModelOptions["dtype"]> }; // loadModel judges it
}

/** @throws ERR_KVASIR_INVALID_ARGUMENT */
export function numberOption(
  name: string,
  value: string | undefined,
  fallback: number,
  min: number,
  max: number = Number.MAX_SAFE_INTEGER,
): number {
  if (value === undefined) return fallback;
  const number = Number(value);
  if (value.trim() === "" || !Number.isFinite(number) || number < min || number > max) {
    const range = max === Number.MAX_SAFE_INTEGER ? `of at least ${min}` : `from ${min} to ${max}`;
    throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", `--${name} is ${JSON.stringify(value)}, expected a number ${range}`);
  }
  return number;
}

export function integerOption(name: string, value: string | undefined, fallback: number, min: number, max?: number): number {
  const number = numberOption(name, value, fallback, min, max);
  if (!Number.isInteger(number))
    throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", `--${name} is ${value}, expected an integer`);
  return number;
}

const barWidth = 24;

/** A progress bar on stderr where that is a terminal, else silence. */
export class Progress {
  readonly #label: string;
  readonly #total: number;
  #shown = -1;

  constructor(label: string, total: number) {
    this.#label = label;
    this.#total = Math.max(1, total);
    this.update(0);
  }

  update(done: number): void {
    const percent = Math.min(100, Math.floor((100 * done) / this.#total));
    if (!process.stderr.isTTY || percent === this.#shown) return;
    this.#shown = percent;
    const full = Math.round((barWidth * percent) / 100);
    process.stderr.write(`\r${this.#label} [${"=".repeat(full)}${" ".repeat(barWidth - full)}] ${percent}%`);
  }

  /** Takes the bar away. */
  end(): void {
    if (process.stderr.isTTY) process.stderr.write("\r\u001b[K");
  }
}

/** Seconds since `start`, a value of performance.now(). */
export function secondsSince(start: number): number {
  return (performance.now() - start) / 1000;
}
