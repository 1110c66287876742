/**
 * Checks that imports and includes go one way, and names file, line and rule where they do not.
 *
 *   cli, bench, examples -> index -> session -> model -> cache -> ops -> device -> native.ts -> addon;  errors, dtype, options, observe are leaves
 *   addon -> cpu/backend.h, contracts, core, abi;  cpu, contracts -> core, abi;  core -> abi;  cuda -> native/core, native/abi
 *
 * napi.h comes in through native/addon/napi_setup.h alone, CUDA's headers through cuda/ alone. Neither side has cycles.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");

/** Which layers a layer may import, its own always included. */
const TS_LAYERS = {
  leaf: [],
  native: ["leaf"],
  device: ["native", "leaf"],
  ops: ["device", "native", "leaf"],
  cache: ["ops", "device", "leaf"],
  model: ["cache", "ops", "device", "leaf"],
  session: ["model", "cache", "device", "leaf"],
  index: ["session", "model", "cache", "ops", "device", "leaf"],
  cli: ["index", "bench"],
  bench: ["index"],
  examples: ["index"],
};
const CPP_LAYERS = {
  abi: [],
  core: ["abi"],
  contracts: ["core", "abi"],
  cpu: ["core", "abi"],
  addon: ["contracts", "core", "abi"],
  cuda: ["core", "abi"],
};
const LEAVES = new Set(["errors", "dtype", "options"]);

function tsLayer(path) {
  const [top, second, third] = path.split("/");
  if (top !== "lib") return Object.hasOwn(TS_LAYERS, top) ? top : undefined;
  if (third !== undefined) return second === "observe" ? "leaf" : second;
  const stem = second.replace(/\.ts$/, "");
  if (stem === "index" || stem === "native") return stem;
  return LEAVES.has(stem) ? "leaf" : "device";
}

function cppLayer(path) {
  const [top, second] = path.split("/");
  return top === "native" ? second : top === "cuda" ? "cuda" : undefined;
}

function files(folder, pattern) {
  if (!existsSync(join(root, folder))) return [];
  return readdirSync(join(root, folder), { recursive: true })
    .filter((path) => pattern.test(path))
    .map((path) => join(folder, path));
}

const lineAt = (text, index) => text.slice(0, index).split("\n").length;

/** {line, target, isType} of each import, export-from and import() of a TypeScript text. */
function tsImports(text) {
  const found = [];
  for (const match of text.matchAll(/^(?:import|export)\s+(type\s+)?(?:[^;"']*?\sfrom\s+)?"([^"]+)";/gm)) {
    found.push({ line: lineAt(text, match.index), target: match[2], isType: match[1] !== undefined });
  }
  for (const match of text.matchAll(/\bimport\("([^"]+)"\)/g)) {
    found.push({ line: lineAt(text, match.index), target: match[1], isType: true }); // on demand: no cycle at load
  }
  return found;
}

function cppIncludes(text) {
  return [...text.matchAll(/^[ \t]*#[ \t]*include[ \t]+(["<])([^">]+)[">]/gm)].map((match) => ({
    line: lineAt(text, match.index),
    target: match[2],
    isSystem: match[1] === "<",
  }));
}

const faults = [];
const fault = (file, line, message) => faults.push(`${file}:${line}: ${message}`);

/** The first cycle that each file of `edges` (file -> [{line, to}]) lies on, each cycle told once. */
function checkCycles(edges) {
  const state = new Map();
  const visit = (file, trail) => {
    state.set(file, "open");
    for (const { line, to } of edges.get(file) ?? []) {
      if (state.get(to) === "open") fault(file, line, `cycle: ${[...trail.slice(trail.indexOf(to)), to].join(" -> ")}`);
      else if (!state.has(to)) visit(to, [...trail, to]);
    }
    state.set(file, "done");
  };
  for (const file of edges.keys()) if (!state.has(file)) visit(file, [file]);
}

function checkTypeScript() {
  const edges = new Map();
  for (const file of ["lib", "bench", "examples"].flatMap((folder) => files(folder, /\.ts$/))) {
    const layer = tsLayer(file);
    const allowed = TS_LAYERS[layer];
    if (allowed === undefined) {
      fault(file, 1, `lib/${layer}/ is not a known layer`);
      continue;
    }
    edges.set(file, []);
    for (const { line, target, isType } of tsImports(readFileSync(join(root, file), "utf8"))) {
      if (!target.startsWith(".")) {
        if (target === "node-gyp-build") fault(file, line, "only lib/native.ts loads the addon");
        continue;
      }
      const to = normalize(join(dirname(file), target)).replace(/\.js$/, ".ts");
      if (!existsSync(join(root, to))) fault(file, line, `${target} does not exist`);
      const other = tsLayer(to);
      if (other !== layer && !allowed.includes(other)) {
        fault(file, line, `${layer} may not import ${other} (${to}); ${layer} -> ${allowed.join(", ") || "leaves only"}`);
      }
      if (!isType) edges.get(file).push({ line, to });
    }
  }
  checkCycles(edges);
  return edges.size;
}

function checkSystemInclude(file, layer, line, target) {
  if (/^(napi|node_api|js_native_api|uv|v8|node)\.h$/.test(target) && file !== "native/addon/napi_setup.h") {
    fault(file, line, `<${target}>: Node's headers come in through native/addon/napi_setup.h alone`);
  }
  if (/^(cuda|cublas|curand|nv|cooperative_groups|mma\.h|cub\/|thrust\/|cute\/)/.test(target) && layer !== "cuda") {
    fault(file, line, `<${target}>: CUDA headers belong to cuda/ alone`);
  }
}

function checkCpp() {
  const edges = new Map();
  for (const file of ["native", "cuda"].flatMap((folder) => files(folder, /\.(h|cc|cu|cuh)$/))) {
    const layer = cppLayer(file);
    const allowed = CPP_LAYERS[layer];
    if (allowed === undefined) {
      fault(file, 1, `native/${layer}/ is not a known layer`);
      continue;
    }
    edges.set(file, []);
    for (const { line, target, isSystem } of cppIncludes(readFileSync(join(root, file), "utf8"))) {
      if (isSystem) {
        checkSystemInclude(file, layer, line, target);
        continue;
      }
      const to = normalize(join(dirname(file), target));
      if (!existsSync(join(root, to))) {
        fault(file, line, `"${target}" does not exist beside ${file}; includes are relative`);
        continue;
      }
      const other = cppLayer(to);
      const isBackendDoor = layer === "addon" && to === "native/cpu/backend.h";
      if (other !== layer && !allowed.includes(other) && !isBackendDoor) {
        fault(file, line, `${layer} may not include ${to}; ${layer} -> ${allowed.join(", ") || "the standard library only"}`);
      }
      edges.get(file).push({ line, to });
    }
  }
  checkCycles(edges);
  return edges.size;
}

const checked = checkTypeScript() + checkCpp();
for (const line of faults) console.error(line);
console.log(`layers: ${checked} files checked, ${faults.length} faults`);
process.exitCode = faults.length > 0 ? 1 : 0;
