/** Builds on hosts that lack something, and the check of the source tree's layers. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { copyCheckout, mustRun, pathWithout, runIn } from "./checkout.js";

describe("without cmake", () => {
  test("gyp builds a CPU addon that answers", () => {
    const folder = copyCheckout("gyp");
    const PATH = pathWithout("cmake", "ccmake", "ctest", "cpack", "ninja", "nvcc", "cmake-js");
    // Half the time of the optimised build; the flags of binding.gyp stay in force around it.
    const log = mustRun(folder, process.execPath, ["scripts/install.mjs"], { PATH, CXXFLAGS: "-O1" });
    expect(log).toContain("gyp builds the CPU backend only");
    const code = `const kvasir = require("./build/Release/kvasir.node"); console.log(kvasir.probe("cpu").devices, kvasir.version);`;
    expect(mustRun(folder, process.execPath, ["--input-type=commonjs", "-e", code])).toMatch(/^1 \d+\.\d+\.\d+/);
  });

  test("KVASIR_CUDA=ON is an error", () => {
    const folder = copyCheckout("gyp-cuda");
    const PATH = pathWithout("cmake");
    const { status, stderr } = runIn(folder, process.execPath, ["scripts/build.mjs", "--native"], { PATH, KVASIR_CUDA: "ON" });
    expect(status).toBe(1);
    expect(stderr).toContain("KVASIR_CUDA=ON needs CMake");
  });
});

describe("the layer check", () => {
  const folder = copyCheckout("layers");
  const check = () => runIn(folder, process.execPath, ["scripts/check_layers.mjs"]);

  test("accepts the tree", () => {
    expect(check()).toMatchObject({ status: 0, stderr: "" });
  });

  test.each([
    ["lib/ops/stray.ts", 'import { KvCache } from "../cache/kv_cache.js";\n', "ops may not import cache"],
    ["lib/cache/stray.ts", '\nimport type { NativeAddon } from "../native.js";\n', "cache may not import native"],
    ["lib/dtype.ts", 'import "./device.js";\n', "leaf may not import device"],
    ["lib/cli/stray.ts", 'import { openDevice } from "../device.js";\n', "cli may not import device"],
    ["native/cpu/stray.cc", "#include <napi.h>\n", "napi_setup.h alone"],
    ["native/addon/stray.h", "#include <cuda_runtime.h>\n", "CUDA headers belong to cuda/ alone"],
    ["native/core/stray.h", '#include "../cpu/ops.h"\n', "core may not include native/cpu/ops.h"],
    ["cuda/stray.cuh", '#include "../native/addon/device.h"\n', "cuda may not include native/addon/device.h"],
    ["native/core/stray.h", '#include "stray.h"\n', "cycle: native/core/stray.h -> native/core/stray.h"],
  ])("refuses %s: %j", (file, text, rule) => {
    const path = join(folder, file);
    const before = runIn(folder, "cat", [path]);
    writeFileSync(path, text);
    const { status, stderr } = check();
    if (before.status === 0) writeFileSync(path, before.stdout);
    else runIn(folder, "rm", [path]);
    expect(status).toBe(1);
    expect(stderr).toContain(`${file}:${text.startsWith("\n") ? 2 : 1}: `);
    expect(stderr).toContain(rule);
  });
});
