/** The programs that the README shows run as they stand, and the files that it names exist. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { checkout, mustRun } from "./checkout.js";

const readme = readFileSync(join(checkout, "README.md"), "utf8");
const programs = [...readme.matchAll(/```js\n([\s\S]*?)```/g)].map((match) => match[1] as string);

test("there are three programs, the first of at most 16 lines", () => {
  expect(programs.length).toBe(3);
  expect((programs[0] as string).trim().split("\n").length).toBeLessThanOrEqual(16);
});

test.each(programs.map((program, i) => [i + 1, program] as const))("program %i runs", (_, program) => {
  expect(mustRun(checkout, process.execPath, ["--input-type=module", "-e", program])).not.toBe("");
});

test("every npm script that it names exists", () => {
  const { scripts } = JSON.parse(readFileSync(join(checkout, "package.json"), "utf8")) as { scripts: Record<string, string> };
  const named = [...readme.matchAll(/npm run ([a-z:]+)/g)].map((match) => match[1] as string);
  expect(named.filter((name) => scripts[name] === undefined)).toEqual([]);
});

test("every folder of its tree exists", () => {
  const tree = readme.slice(readme.indexOf("\nnative/ "), readme.indexOf("\nOne op has one stem"));
  const folders = tree.split("\n").flatMap((line) => /^([a-z]+)\/ /.exec(line)?.[1] ?? []);
  expect(folders.length).toBeGreaterThan(5);
  expect(folders.filter((folder) => !existsSync(join(checkout, folder)))).toEqual([]);
});
