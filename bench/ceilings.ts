/** What the machine can do, measured in the same run as the kernels: the denominators of every share a bench reports. */
import { type Device, linear, probeFma, probeRead } from "../lib/index.js";
import { measure } from "./harness.js";
import { Pattern } from "./data.js";

const GB = 1e9;

/** GB/s of reading memory once, with more bytes than any cache holds; nodes of a program, as the kernels are timed. */
export async function readBandwidth(device: Device, repeats = 15): Promise<number> {
  const [bytes, nodes] = device.backend === "cuda" ? [4 * 2 ** 30, 4] : [2 ** 30, 1];
  using x = device.empty("u8", [bytes]);
  using out = device.empty("i32", [1]);
  x.fill(7);
  using program = device.stream.program(() => {
    for (let i = 0; i < nodes; i++) probeRead(device.stream, { x, out });
  });
  const timing = await measure("read", device.stream, () => device.stream.launch(program), { repeats, nodes });
  return bytes / GB / (timing.median_us / 1e6);
}

/** GB/s of a device-to-device copy, bytes read plus bytes written. */
export async function copyBandwidth(device: Device): Promise<number> {
  const bytes = device.backend === "cuda" ? 2 * 2 ** 30 : 2 ** 29;
  using a = device.empty("u8", [bytes]);
  using b = device.empty("u8", [bytes]);
  a.fill(3);
  b.fill(5);
  const timing = await measure("copy", device.stream, () => b.copyFrom(a), { repeats: 15 });
  return (2 * bytes) / GB / (timing.median_us / 1e6);
}

/** TFLOP/s of f32 multiply-adds from registers on all cores (CPU). */
export async function fmaPeak(device: Device): Promise<number> {
  using out = device.empty("i32", [1]);
  const timing = await measure("fma", device.stream, () => probeFma(device.stream, { out, iterations: 50 }), { repeats: 15 });
  const [units] = await out.read();
  return ((units as number) * 2 ** 20) / 1e12 / (timing.median_us / 1e6);
}

/** TFLOP/s of a bf16 matrix product n x n x n on random data through `linear`. */
export async function gemmRate(device: Device, n: number): Promise<number> {
  const pattern = await Pattern.create(device, "bf16", 11);
  using x = await pattern.tensor(device, [n, n]);
  using weight = await pattern.tensor(device, [n, n], 1_000_003);
  using out = device.empty("bf16", [n, n]);
  const timing = await measure("gemm", device.stream, () => linear(device.stream, { x, weight, out }), { repeats: 15 });
  return (2 * n ** 3) / 1e12 / (timing.median_us / 1e6);
}

/** Names carry the unit. */
export async function measureCeilings(device: Device): Promise<Record<string, number>> {
  const common = { read_gb_per_s: await readBandwidth(device), copy_gb_per_s: await copyBandwidth(device) };
  return device.backend === "cuda"
    ? { ...common, gemm_bf16_tflops: await gemmRate(device, 8192) }
    : { ...common, fma_f32_tflops: await fmaPeak(device), gemm_bf16_tflops: await gemmRate(device, 1024) };
}
