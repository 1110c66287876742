/** `kvasir doctor`: what is usable, layer by layer, and one line on what to do about what is not. */
import { availableParallelism, cpus, totalmem } from "node:os";
import { parseArgs } from "node:util";
import { type DeviceDescription, KvasirError, openDevice, probeBackends } from "../index.js";

interface Layer {
  layer: string;
  ok: boolean;
  detail: string;
}

interface Report {
  node: string;
  platform: string;
  layers: Layer[];
  devices: DeviceDescription[];
  /** The device that `openDevice()` takes. */
  best: string | undefined;
  advice: string;
}

const help = `usage: kvasir doctor [--json]

Shows what this machine offers: the native addon, the CPU and its instruction set, the CUDA library, driver, devices and cuBLASLt.
Exit code 0 if some backend is usable.
`;

export async function doctor(args: readonly string[]): Promise<number> {
  const { values } = parseArgs({
    args: [...args],
    options: { json: { type: "boolean" }, help: { type: "boolean", short: "h" } },
  });
  if (values.help) {
    process.stdout.write(help);
    return 0;
  }
  const report = examine();
  process.stdout.write(values.json ? `${JSON.stringify(report)}\n` : text(report));
  return report.best === undefined ? 1 : 0;
}

function examine(): Report {
  const report: Report = {
    node: process.version,
    platform: `${process.platform}-${process.arch}`,
    layers: [],
    devices: [],
    best: undefined,
    advice: "",
  };
  let probes: ReturnType<typeof probeBackends>;
  try {
    probes = probeBackends();
  } catch (error) {
    if (!(error instanceof KvasirError)) throw error;
    report.layers.push({ layer: "addon", ok: false, detail: error.message });
    report.advice =
      "Build the addon with `npx kvasir build` (a C++20 compiler is enough), or install a release that has one for this platform.";
    return report;
  }
  report.layers.push({ layer: "addon", ok: true, detail: "loaded" });
  cpuLayers(report, probes.cpu.devices > 0, probes.cpu.reasons);
  cudaLayers(report, probes.cuda.devices, probes.cuda.reasons);
  report.best = (["cuda", "cpu"] as const).find((wanted) => report.devices.some(({ backend }) => backend === wanted));
  report.advice = advise(report, probes.cuda.reasons);
  return report;
}

function cpuLayers(report: Report, isUsable: boolean, reasons: readonly string[]): void {
  if (!isUsable) {
    report.layers.push({ layer: "cpu", ok: false, detail: reasons.join("; ") });
    return;
  }
  using device = openDevice("cpu");
  const info = device.describe();
  report.devices.push(info);
  report.layers.push({ layer: "cpu", ok: true, detail: `${info.name.trim() || cpus()[0]?.model}, ${info.isa}` });
  report.layers.push({ layer: "cpu threads", ok: true, detail: `${info.multiprocessors} of ${availableParallelism()} cores` });
  report.layers.push({ layer: "memory", ok: true, detail: gigabytes(totalmem()) });
}

function cudaLayers(report: Report, devices: number, reasons: readonly string[]): void {
  if (devices === 0) {
    for (const reason of reasons) report.layers.push({ layer: "cuda", ok: false, detail: reason });
    return;
  }
  for (let index = 0; index < devices; index++) {
    try {
      cudaDevice(report, index);
    } catch (error) {
      if (!(error instanceof KvasirError)) throw error;
      report.layers.push({ layer: `cuda:${index}`, ok: false, detail: error.message });
    }
  }
}

function cudaDevice(report: Report, index: number): void {
  using device = openDevice(`cuda:${index}`);
  const info = device.describe();
  report.devices.push(info);
  if (index === 0) {
    report.layers.push({ layer: "cuda library", ok: true, detail: `built with CUDA ${version(info.runtimeVersion)}` });
    report.layers.push({ layer: "cuda driver", ok: true, detail: `supports CUDA ${version(info.driverVersion)}` });
  }
  const { freeBytes, totalBytes } = device.memory();
  const detail = `${info.name}, ${info.isa}, ${info.multiprocessors} SMs, ${gigabytes(freeBytes)} of ${gigabytes(totalBytes)} free`;
  report.layers.push({ layer: `cuda:${index}`, ok: true, detail });
  const blas = info.hasBlas ? "found" : "not found; the built-in matrix product is used, which is slower";
  report.layers.push({ layer: "cuBLASLt", ok: info.hasBlas, detail: blas });
}

function advise(report: Report, cudaReasons: readonly string[]): string {
  if (report.best === undefined) return "No backend is usable: rebuild with `npx kvasir build` and look at its output.";
  if (report.best === "cpu")
    return `Runs on the CPU. For a GPU: ${cudaReasons.at(-1) ?? "none was found"}.`.replace(/\.\.$/, ".");
  if (report.devices.some(({ backend, hasBlas }) => backend === "cuda" && !hasBlas)) {
    return "Runs on the GPU. Install libcublasLt (part of the CUDA toolkit) for faster matrix products.";
  }
  return "Everything is usable; openDevice() takes the first GPU.";
}

function text(report: Report): string {
  const width = Math.max(...report.layers.map(({ layer }) => layer.length));
  const lines = report.layers.map(({ layer, ok, detail }) => `${ok ? "ok " : "-- "} ${layer.padEnd(width)}  ${detail}`);
  return `kvasir on Node ${report.node}, ${report.platform}\n${lines.join("\n")}\n${report.advice}\n`;
}

function version(number: number): string {
  return `${Math.floor(number / 1000)}.${Math.floor((number % 1000) / 10)}`;
}

function gigabytes(bytes: number): string {
  return `${(bytes / 2 ** 30).toFixed(1)} GiB`;
}
