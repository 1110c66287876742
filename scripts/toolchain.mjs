/** What the build door knows of the host: the package's root, CMake, node-gyp and where Node's own headers lie. */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { delimiter, dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

export const root = resolve(dirname(fileURLToPath(import.meta.url)), "..");
const require = createRequire(import.meta.url);

/** The oldest CMake that CMakeLists.txt accepts. */
const OLDEST_CMAKE = [3, 22];

/** Runs a program with this process's streams and returns its exit status; a program that cannot start counts as status 1. */
export function run(program, args, env = process.env) {
  const { status, error } = spawnSync(program, args, { cwd: root, env, stdio: "inherit" });
  if (error !== undefined) console.error(`kvasir: ${program} does not start: ${error.message}`);
  return status ?? 1;
}

/** Whether a usable CMake is on PATH. */
export function haveCmake() {
  const { status, stdout } = spawnSync("cmake", ["--version"], { encoding: "utf8" });
  const found = status === 0 ? /(\d+)\.(\d+)/.exec(stdout) : null;
  if (found === null) return false;
  const [major, minor] = [Number(found[1]), Number(found[2])];
  return major > OLDEST_CMAKE[0] || (major === OLDEST_CMAKE[0] && minor >= OLDEST_CMAKE[1]);
}

/** A file of an installed package, or undefined where the package is absent. */
export function packageFile(name, file) {
  try {
    return join(dirname(require.resolve(`${name}/package.json`)), file);
  } catch {
    return undefined; // not installed: callers have another way
  }
}

/** The node-gyp that npm itself brings (npm names it to its scripts), else one on PATH; undefined where there is none. */
export function nodeGyp() {
  const beside = resolve(process.execPath, "../../lib/node_modules/npm/node_modules/node-gyp/bin/node-gyp.js");
  const candidates = [process.env.npm_config_node_gyp, packageFile("node-gyp", "bin/node-gyp.js"), beside];
  const script = candidates.find((path) => path !== undefined && existsSync(path));
  if (script !== undefined) return [process.execPath, script];
  const onPath = (process.env.PATH ?? "").split(delimiter).map((folder) => join(folder, "node-gyp"));
  const program = onPath.find((path) => existsSync(path));
  return program === undefined ? undefined : [program];
}

/** The environment for node-gyp: headers that lie beside Node spare it a download. */
export function gypEnvironment(extra = {}) {
  const nodedir = resolve(process.execPath, "../..");
  const known = process.env.npm_config_nodedir ?? (existsSync(join(nodedir, "include/node/common.gypi")) ? nodedir : undefined);
  return { ...process.env, ...(known === undefined ? {} : { npm_config_nodedir: known }), ...extra };
}
