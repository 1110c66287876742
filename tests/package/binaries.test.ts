/** The two binaries of this checkout's build: what they export and what they ask of the host. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { checkout, mustRun } from "./checkout.js";

/** The newest glibc of the oldest system that prebuilds are for. */
const GLIBC_CEILING = [2, 35] as const;

interface Symbols {
  exported: string[];
  /** Names that another module has to bring. */
  wanted: string[];
  glibc: [number, number][];
}

function symbolsOf(path: string): Symbols {
  const lines = mustRun(checkout, "objdump", ["-T", path]).split("\n");
  const symbols = lines.filter((line) => /^[0-9a-f]{16} /.test(line));
  const name = (line: string) => line.split(/\s+/).at(-1)!;
  return {
    exported: symbols.filter((line) => !line.includes("*UND*")).map(name),
    wanted: symbols.filter((line) => line.includes("*UND*")).map(name),
    glibc: lines.flatMap((line) => {
      const version = /\(?GLIBC_(\d+)\.(\d+)/.exec(line);
      return version === null ? [] : [[Number(version[1]), Number(version[2])] as [number, number]];
    }),
  };
}

const isNewer = ([major, minor]: readonly [number, number]) =>
  major > GLIBC_CEILING[0] || (major === GLIBC_CEILING[0] && minor > GLIBC_CEILING[1]);

const release = join(checkout, "build", "Release");
const binaries = [
  { file: "kvasir.node", exports: ["napi_register_module_v1", "node_api_module_get_api_version_v1"] },
  { file: "kvasir_cuda.so", exports: ["kvasir_backend_init"] },
];

describe.skipIf(process.platform !== "linux").each(binaries)("$file", ({ file, exports }) => {
  const path = join(release, file);
  const missing = existsSync(path) ? "" : ` (${file} is not built here)`;

  test.skipIf(missing !== "")(`exports ${exports.join(" and ")} alone${missing}`, () => {
    expect(symbolsOf(path).exported.sort()).toEqual(exports);
  });

  test.skipIf(missing !== "")(`asks for glibc ${GLIBC_CEILING.join(".")} at most, and for no C++ library${missing}`, () => {
    const { glibc } = symbolsOf(path);
    expect(glibc.length).toBeGreaterThan(0);
    expect(glibc.filter(isNewer)).toEqual([]);
    expect(mustRun(checkout, "objdump", ["-p", path])).not.toMatch(/NEEDED\s+(libstdc\+\+|libcudart|libcublas|libcuda)/);
  });

  test.skipIf(missing !== "")(`lacks nothing of its own${missing}`, () => {
    expect(symbolsOf(path).wanted.filter((name) => name.includes("kvasir"))).toEqual([]);
  });
});
