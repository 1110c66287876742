/** Copies of the checkout to build in, and programs run there with parts of the host hidden. */
import { type SpawnSyncReturns, spawnSync } from "node:child_process";
import { cpSync, existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, delimiter, join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll } from "vitest";

export const checkout: string = fileURLToPath(new URL("../..", import.meta.url));

const made: string[] = [];
afterAll(() => {
  for (const folder of made) rmSync(folder, { recursive: true, force: true });
});

/** A fresh folder that goes away after the file's tests. */
export function temporary(name: string): string {
  const folder = mkdtempSync(join(tmpdir(), `kvasir-${name}-`));
  made.push(folder);
  return folder;
}

/** What a checkout does not carry, and the bundled model, which no build reads. */
const LEFT_OUT = new Set([".git", "node_modules", "build", "dist", "prebuilds", "model.safetensors", "golden.safetensors"]);

/** A copy of the sources with the installed packages linked in. */
export function copyCheckout(name: string): string {
  const folder = temporary(name);
  for (const entry of readdirSync(checkout)) {
    if (LEFT_OUT.has(entry)) continue;
    cpSync(join(checkout, entry), join(folder, entry), { recursive: true, filter: (source) => !LEFT_OUT.has(basename(source)) });
  }
  symlinkSync(join(checkout, "node_modules"), join(folder, "node_modules"));
  return folder;
}

/** A folder for PATH that links every program of the current PATH but the hidden ones. */
export function pathWithout(...hidden: string[]): string {
  const folder = join(temporary("path"), "bin");
  mkdirSync(folder);
  const seen = new Set(hidden);
  for (const source of (process.env.PATH ?? "").split(delimiter)) {
    if (!existsSync(source)) continue;
    for (const program of readdirSync(source)) {
      if (seen.has(program)) continue;
      seen.add(program);
      symlinkSync(join(source, program), join(folder, program));
    }
  }
  return folder;
}

/** Runs a program to its end; variables set to undefined are taken out of the environment. */
export function runIn(
  folder: string,
  program: string,
  args: readonly string[],
  variables: Readonly<Record<string, string | undefined>> = {},
): SpawnSyncReturns<string> {
  const env = { ...process.env, ...variables };
  return spawnSync(program, args, { cwd: folder, env, encoding: "utf8", maxBuffer: 2 ** 26 });
}

/** The same, and an error with everything that the program said when it fails. */
export function mustRun(...call: Parameters<typeof runIn>): string {
  const { status, stdout, stderr, error } = runIn(...call);
  if (status !== 0)
    throw new Error(`${call[1]} ${call[2].join(" ")} ended with ${status ?? error?.message}\n${stdout}\n${stderr}`);
  return stdout + stderr;
}
