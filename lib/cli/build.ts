/** `kvasir build`: compiles the addon, and the CUDA backend where there is a working nvcc, inside this installation. */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { KvasirError } from "../index.js";

const help = `usage: kvasir build [--cuda auto|on|off] [--archs LIST]

Compiles the native part on this machine; it needs a C++20 compiler, and CMake 3.22 or later for CUDA. Run it where install scripts
are blocked, or after installing a CUDA toolkit.

  --cuda MODE    auto (default): with nvcc if it works; on: an error without it; off: the CPU backend only
  --archs LIST   CUDA architectures such as "80;90a"; default: those of the GPUs present, else 90a
`;

export async function build(args: readonly string[]): Promise<number> {
  const { values } = parseArgs({
    args: [...args],
    options: { cuda: { type: "string" }, archs: { type: "string" }, help: { type: "boolean", short: "h" } },
  });
  if (values.help) {
    process.stdout.write(help);
    return 0;
  }
  if (values.cuda !== undefined && !["auto", "on", "off"].includes(values.cuda)) {
    throw new KvasirError("ERR_KVASIR_INVALID_ARGUMENT", `--cuda is "${values.cuda}", expected auto, on or off`);
  }
  const env = { ...process.env };
  if (values.cuda !== undefined) env.KVASIR_CUDA = values.cuda.toUpperCase();
  if (values.archs !== undefined) env.KVASIR_CUDA_ARCHS = values.archs;
  return spawnSync(process.execPath, [buildScript(), "--native"], { env, stdio: "inherit" }).status ?? 1;
}

/** scripts/build.mjs of this package, found from where this file is. */
function buildScript(): string {
  for (let folder = dirname(fileURLToPath(import.meta.url)); folder !== dirname(folder); folder = dirname(folder)) {
    const script = join(folder, "scripts", "build.mjs");
    if (existsSync(script)) return script;
  }
  throw new KvasirError("ERR_KVASIR_INTERNAL", "scripts/build.mjs is not part of this installation");
}
