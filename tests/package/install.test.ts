/** From a checkout without nvcc to an installed package: prebuild, pack, install with scripts blocked, import and require. */
import { existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { checkout, copyCheckout, mustRun, runIn, temporary } from "./checkout.js";

/** A program that normalises one row on the CPU and prints the sum; `load` fetches the package into `kvasir`. */
const answer = (load: string) => `${load}
const device = kvasir.openDevice("cpu");
const x = device.tensor("f32", [1, 4], [3, 3, 3, 3]);
const weight = device.tensor("f32", [4], [1, 2, 3, 4]);
kvasir.rmsNorm(device.stream, { x, weight, out: x, eps: 1e-9 });
x.readFloats().then((floats) => console.log("sum", floats.reduce((a, b) => a + b).toFixed(4)));`;

const bin = (name: string) => join(checkout, "node_modules", ".bin", name);
/** No nvcc, whatever the host has. */
const withoutNvcc = { CUDACXX: "/nonexistent/nvcc", KVASIR_CUDA: undefined };

let source: string;
let prebuildLog: string;
let tarball: string;
let project: string;

beforeAll(() => {
  source = copyCheckout("source");
  prebuildLog = mustRun(source, process.execPath, ["scripts/prebuild.mjs"], withoutNvcc);
  mustRun(source, "npm", ["pack", "--loglevel=error"]);
  tarball = join(source, readdirSync(source).find((name) => name.endsWith(".tgz"))!);
  project = temporary("project");
  writeFileSync(join(project, "package.json"), '{ "name": "consumer", "private": true }\n');
  mustRun(project, "npm", ["install", "--ignore-scripts", "--prefer-offline", "--no-audit", "--no-fund", tarball]);
});

describe("a prebuild without nvcc", () => {
  test("says in one line that it has the CPU backend only, and why", () => {
    expect(prebuildLog.match(/kvasir: building the CPU backend only \(.*\)/g)).toEqual([
      "kvasir: building the CPU backend only (/nonexistent/nvcc does not run)",
    ]);
  });

  test("is one addon", () => {
    expect(readdirSync(join(source, "prebuilds", `${process.platform}-${process.arch}`))).toEqual(["kvasir.node"]);
  });

  test("with KVASIR_CUDA=ON is an error", () => {
    const { status, stderr } = runIn(source, process.execPath, ["scripts/build.mjs", "--native"], {
      ...withoutNvcc,
      KVASIR_CUDA: "ON",
    });
    expect(status).not.toBe(0);
    expect(stderr).toContain("KVASIR_CUDA=ON, but CUDA code cannot be compiled");
  });
});

describe("the package, installed with scripts blocked", () => {
  test("answers through import", () => {
    expect(
      mustRun(project, process.execPath, ["--input-type=module", "-e", answer('import * as kvasir from "kvasir";')]),
    ).toContain("sum 10.0000");
  });

  test("answers through require", () => {
    expect(
      mustRun(project, process.execPath, ["--input-type=commonjs", "-e", answer('const kvasir = require("kvasir");')]),
    ).toContain("sum 10.0000");
  });

  test("has a doctor that says which backend works and why CUDA does not", () => {
    const report = JSON.parse(mustRun(project, join(project, "node_modules", ".bin", "kvasir"), ["doctor", "--json"]));
    expect(report.best).toBe("cpu");
    expect(JSON.stringify(report.layers)).toContain("kvasir_cuda.so");
  });

  test("refuses cuda with a coded error instead of falling to the CPU", () => {
    const code = 'import { openDevice } from "kvasir"; try { openDevice("cuda"); } catch (e) { console.log(e.code, e.message); }';
    expect(mustRun(project, process.execPath, ["--input-type=module", "-e", code])).toMatch(
      /^ERR_KVASIR_BACKEND_UNAVAILABLE .*kvasir_cuda\.so/,
    );
  });

  test("leaves its install script nothing to build", () => {
    const installed = join(project, "node_modules", "kvasir");
    expect(mustRun(installed, process.execPath, ["scripts/install.mjs"])).toBe("");
    expect(existsSync(join(installed, "build"))).toBe(false);
  });

  test("carries everything that a build from source reads", () => {
    const installed = join(project, "node_modules", "kvasir");
    for (const list of ["native/sources.txt", "cuda/sources.txt"]) {
      const paths = mustRun(installed, process.execPath, ["scripts/list_sources.mjs", list]).trim().split("\n");
      expect(paths.filter((path) => !existsSync(join(installed, path)))).toEqual([]);
    }
    const build = join(temporary("configure"), "cmake");
    mkdirSync(build);
    mustRun(installed, "cmake", ["-S", installed, "-B", build, "-DKVASIR_CUDA=OFF", `-DKVASIR_OUTPUT_DIR=${build}`]);
  });

  test("passes publint and attw", () => {
    expect(mustRun(source, bin("publint"), ["run", "--strict", tarball])).toContain("All good");
    const { analysis } = JSON.parse(mustRun(source, bin("attw"), ["--profile", "esm-only", "--format", "json", tarball]));
    expect(analysis).toMatchObject({ packageName: "kvasir", types: { kind: "included" } });
  });
});
